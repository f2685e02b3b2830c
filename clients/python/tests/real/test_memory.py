"""The server in memory answers as the real one does: the same story told to both."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.real.bank import Bank
from tests.real.server import Server
from tokentill import TokenProcess, TokenProcessError
from tokentill.testing import MemoryTokentill


def story(client: TokenProcess, rich: str, poor: str, feature: str, other_feature: str) -> list[Any]:
    """What a service sees; ids that the server makes are left out."""
    seen: list[Any] = []

    def see(call: Callable[[], Any], *names: str) -> Any:
        try:
            answer = call()
        except TokenProcessError as error:
            seen.append((type(error).__name__, error.status, error.code, error.message, sorted(error.errors)))
            seen.append(error.token)
            return None
        seen.append(tuple(getattr(answer, name) for name in names))
        return answer

    start, end = ("token", "status", "hold_token"), ("token", "cost", "status", "replayed")
    see(lambda: client.start(rich, feature), *start)
    held = see(lambda: client.start(rich, feature, hold_token=Decimal("600.5")), *start)
    see(lambda: client.start(rich, feature, hold_token=500), *start)
    see(lambda: client.start(poor, feature), *start)
    see(lambda: client.start("nobody-at-all", feature), *start)
    see(lambda: client.start(rich, other_feature), *start)
    see(lambda: client.start(rich, "no-such-feature"), *start)
    see(lambda: client.start(rich, feature, hold_token=Decimal("0.0000001")), *start)
    see(lambda: client.start(rich, feature, hold_seconds=0), *start)
    see(lambda: client.end(rich, feature, 12, 40, process_id=held.process_id), *end)
    see(lambda: client.end(rich, feature, 12, 40, process_id=held.process_id), *end)
    see(lambda: client.end(rich, feature, 12, 41, process_id=held.process_id), *end)
    see(lambda: client.end(rich, feature, 0, 3, idempotency_key=f"key-{rich}"), *end)
    see(lambda: client.end(rich, feature, 0, 3, idempotency_key=f"key-{rich}"), *end)
    see(lambda: client.end(rich, feature, 0, 4, idempotency_key=f"key-{rich}"), *end)
    see(lambda: client.end(rich, feature, 0, 0), *end)
    see(lambda: client.end("nobody-at-all", feature, 1, 1), *end)
    see(lambda: client.end(rich, "no-such-feature", 1, 1), *end)
    see(lambda: client.end(rich, feature, 1, 100_000_001), *end)
    given_back = see(lambda: client.start(rich, feature, hold_token=100), *start)
    see(lambda: client.cancel(rich, given_back.process_id))
    see(lambda: client.cancel(rich, given_back.process_id))
    see(lambda: client.start(rich, feature), *start)
    long = see(lambda: client.start(rich, feature, hold_token=100, hold_seconds=60), *start)
    hold = ("token", "hold_token", "status")
    see(lambda: client.extend_hold(rich, long.process_id, hold_token=Decimal("0.25")), *hold)
    see(lambda: client.extend_hold(rich, long.process_id, hold_seconds=60), *hold)
    see(lambda: client.extend_hold(rich, long.process_id, hold_token=100_000), *hold)
    see(lambda: client.extend_hold(rich, long.process_id), *hold)
    see(lambda: client.extend_hold(poor, long.process_id, hold_token=1), *hold)
    see(lambda: client.extend_hold(rich, "no-such-run", hold_token=1), *hold)
    for _ in range(2):
        see(
            lambda: client.extend_hold(rich, long.process_id, hold_token=1, idempotency_key=f"more-{rich}"),
            *hold,
        )
    see(lambda: client.cancel(poor, long.process_id))
    see(lambda: client.end(poor, feature, 1, 1, process_id=long.process_id), *end)
    see(lambda: client.end(rich, feature, 1, 1, process_id=long.process_id), *end)
    see(lambda: client.cancel(rich, long.process_id))
    see(lambda: client.extend_hold(rich, long.process_id, hold_token=1), *hold)
    batch = client.end_batch(
        [
            {"user_id": rich, "feature_endpoint_id": feature, "output_token": 8},
            {"user_id": "nobody-at-all", "feature_endpoint_id": feature, "output_token": 8},
        ]
    )
    seen.append([(item.end and item.end.cost, item.error and item.error.code) for item in batch])
    reserved = see(lambda: client.start(rich, feature, hold_token=100), *start)
    see(lambda: client.end(rich, feature, 0, 40_000), *end)
    see(lambda: client.end(rich, feature, 0, 40, process_id=reserved.process_id), *end)
    see(lambda: client.start(rich, feature), *start)
    return seen


PRICES: list[dict[str, Any]] = [
    {"model": "gpt-4.1*", "input_per_million": 2_000, "output_per_million": Decimal("8000.000001")},
    {
        "model": "gpt-4.1-mini",
        "input_per_million": 400,
        "output_per_million": 1_600,
        "per_request": Decimal("0.25"),
    },
    {
        "model": "gemini-*",
        "input_per_million": 1_250,
        "output_per_million": 10_000,
        "cached_input_per_million": Decimal("312.5"),
        "cache_write_per_million": 1_300,
        "reasoning_per_million": 11_000,
        "tiers": [{"above_input_token": 200, "input_per_million": 2_500, "output_per_million": 15_000}],
    },
    {
        "model": "later",
        "input_per_million": 1,
        "output_per_million": 1,
        "effective_from": "2999-01-01T00:00:00Z",
    },
]
KINDS = {"cached_input_token": 77, "cache_write_token": 11, "reasoning_token": 31}


def priced_story(client: TokenProcess, user: str, feature: str) -> list[Any]:
    """What a service sees of prices."""
    seen: list[Any] = []

    def see(names: tuple[str, ...], call: Callable[..., Any], *args: Any, **more: Any) -> None:
        try:
            answer = call(*args, **more)
        except TokenProcessError as error:
            seen.append((error.status, error.code, {name: list(why) for name, why in error.errors.items()}))
        else:
            seen.append([getattr(answer, name) for name in names])

    start, end = ("token", "status"), ("token", "cost", "status")
    estimate = ("token", "cost", "base_cost", "profit", "status")
    models = ("gpt-4.1", "gpt-4.1-2025-04-14", "gpt-4.1-mini", "gemini-2.5-pro", "later", "unknown")
    for model in (None, *models):
        see(start, client.start, user, feature, model=model)
        for usage in ((100, 50), (200, 50), (201, 50), (0, 0)):
            kinds = KINDS if usage[0] else {}
            for more in ({}, kinds, {**kinds, "requests": 3}):
                see(estimate, client.estimate, user, feature, *usage, model=model, **more)
                see(end, client.end, user, feature, *usage, model=model, **more)
    for wrong in ({"cached_input_token": 101}, {"cached_input_token": 60, "cache_write_token": 60}):
        see(end, client.end, user, feature, 100, 50, reasoning_token=51, **wrong)
        see(estimate, client.estimate, user, feature, 100, 50, **wrong)
    see(estimate, client.estimate, "nobody-at-all", feature, 1, 1)
    see(estimate, client.estimate, user, "no-such-feature", 1, 1)
    return seen


def test_prices_are_the_same_in_both(server: Server, bank: Bank) -> None:
    feature, package = bank.feature(12.5)
    user = bank.wallet(package, 10_000)
    bank.price(feature, PRICES)
    memory = MemoryTokentill(wallets={user: 10_000})
    memory.add_feature(feature, unpriced="refuse")
    memory.add_profit(Decimal("12.5"), feature_endpoint_id=feature)
    for price in PRICES:
        memory.add_price(**price, feature_endpoint_id=feature)

    with TokenProcess(server.url, server.server_key) as real, memory.client() as pretended:
        assert priced_story(pretended, user, feature) == priced_story(real, user, feature)


def reversed_story(client: TokenProcess, user: str, feature: str, strict: str) -> list[Any]:
    """What a service sees of runs that it takes back."""
    seen: list[Any] = []

    def see(**named: Any) -> None:
        try:
            answer = client.reverse(user, reason="came out empty", **named)
        except TokenProcessError as error:
            seen.append((type(error).__name__, error.status, error.code, error.message, sorted(error.errors)))
        else:
            # Whether it had been settled by then is the workers' business.
            seen.append((answer.token, answer.reference, answer.replayed, client.start(user, feature).token))

    run = client.start(user, feature)
    client.end(user, feature, 12, 40, process_id=run.process_id)
    client.end(user, feature, 0, 4, idempotency_key=f"reversed-{user}")
    client.end(user, strict, 0, 8, idempotency_key=f"strict-{user}")
    see(process_id=run.process_id, reference="one")
    see(process_id=run.process_id, reference="one")
    see(process_id=run.process_id, reference="two")
    see(idempotency_key=f"reversed-{user}", reference="one")
    see(idempotency_key=f"strict-{user}", reference="one")
    see(idempotency_key="no-such-key", reference="one")
    see(idempotency_key=f"reversed-{user}", reference="")
    client.end(user, feature, 0, 4, idempotency_key=f"reversed-{user}")
    return seen


def test_reversals_are_the_same_in_both(server: Server, bank: Bank) -> None:
    feature = bank.new_id("feature")
    strict = bank.new_id("feature")
    package = bank.package({feature: 10, strict: 0})
    bank.allow_reversals(feature, 600)
    user = bank.wallet(package, 100)
    memory = MemoryTokentill(wallets={user: 100})
    memory.add_feature(feature, reversal_seconds=600)
    memory.add_feature(strict)
    memory.add_profit(10, feature_endpoint_id=feature)

    with TokenProcess(server.url, server.server_key) as real, memory.client() as pretended:
        assert reversed_story(pretended, user, feature, strict) == reversed_story(real, user, feature, strict)
    assert bank.settled(user) == memory.token(user) == 98


def test_the_same_story_told_to_both(server: Server, bank: Bank) -> None:
    feature, package = bank.feature(10)
    other, _ = bank.feature(0)
    rich, poor = bank.wallet(package, 1_000), bank.wallet(package, 0)

    memory = MemoryTokentill()
    for each in (feature, other):
        memory.add_feature(each)
    memory.add_profit(10, feature_endpoint_id=feature)
    memory.add_package(package, [feature])
    for user, token in ((rich, 1_000), (poor, 0)):
        memory.add_wallet(user, token, package_id=package)

    with TokenProcess(server.url, server.server_key) as real, memory.client() as pretended:
        expected = story(real, rich, poor, feature, other)
        assert story(pretended, rich, poor, feature, other) == expected
    assert memory.token(rich) == bank.balance(rich)["token"]
    assert memory.debt(rich) == bank.balance(rich)["debt_token"]
