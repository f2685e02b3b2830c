"""`tokentill.testing`: a server in memory whose answers, prices and balances are the real ones'."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokentill import (
    AuthenticationError,
    ConflictError,
    FeatureNotAvailableError,
    InsufficientTokensError,
    ReversalRefusedError,
    TokenProcess,
    TokenProcessError,
    UnavailableError,
    ValidationError,
    WalletNotFoundError,
    with_token_process,
)
from tokentill.testing import MemoryTokentill
from tokentill.testing.memory import URL


def memory(token: int = 1_000, **settings: Any) -> MemoryTokentill:
    return MemoryTokentill(features=["chat"], wallets={"ann": token}, profit_percentage=10, **settings)


def test_a_wrapped_feature_is_billed_as_the_server_would() -> None:
    server = memory()
    feature = with_token_process(
        lambda: {"input_token": 12, "output_token": 40, "model": "m"},
        feature_endpoint_id="chat",
        user_id="ann",
        client=server.client(),
    )
    feature()
    [end] = server.ends
    assert (end.input_token, end.output_token, end.model) == (12, 40, "m")
    assert (end.base_cost, end.profit, end.cost) == (10, 1, 11)
    assert server.token("ann") == 989
    assert [call.path for call in server.calls] == ["start", "end"]


def test_who_has_too_little_or_no_wallet_or_no_feature_does_not_start() -> None:
    server = memory(token=0)
    server.add_feature("image", min_token=5)
    server.add_package("basic", ["image"])
    server.add_wallet("bob", 4, package_id="basic")
    client = server.client()
    assert not client.start("ann", "chat").access_able
    assert not client.start("bob", "image").access_able
    server.top_up("bob", 1)
    assert client.start("bob", "image").access_able
    with pytest.raises(FeatureNotAvailableError) as caught:
        client.start("bob", "chat")
    assert caught.value.token == 5
    with pytest.raises(WalletNotFoundError):
        client.start("eve", "chat")
    server.suspend("bob")
    with pytest.raises(WalletNotFoundError):
        client.start("bob", "image")
    client.end("bob", "image", 0, 4)
    assert server.token("bob") == Decimal("3.9")
    with pytest.raises(InsufficientTokensError):
        with_token_process(lambda: None, feature_endpoint_id="chat", user_id="ann", client=client)()


def test_a_run_can_be_reversed_for_as_long_as_its_feature_allows() -> None:
    server = memory()
    server.add_feature("chat", reversal_seconds=60)
    client = server.client()
    client.end("ann", "chat", 12, 40, process_id="run-1", idempotency_key="key-1")
    client.end("ann", "chat", 12, 40, idempotency_key="key-2")
    reversal = client.reverse("ann", process_id="run-1", reference="r", reason="Empty answer")
    assert (reversal.token, reversal.posted_token, reversal.debt_token, reversal.replayed) == (
        11,
        11,
        0,
        False,
    )
    assert server.token("ann") == 989
    again = client.reverse("ann", idempotency_key="key-1", reference="r", reason="Empty answer")
    assert again == replace(reversal, replayed=True)
    with pytest.raises(ConflictError):
        client.reverse("ann", process_id="run-1", reference="r", reason="Something else")
    with pytest.raises(ReversalRefusedError) as caught:
        client.reverse("ann", process_id="run-1", reference="s", reason="Empty answer")
    assert (caught.value.status, caught.value.code) == (409, "exceeds_original")
    for keys in ({"process_id": "none"}, {"process_id": "run-1", "idempotency_key": "key-2"}):
        with pytest.raises(TokenProcessError) as missing:
            client.reverse("ann", reference="r", reason="Empty answer", **keys)
        assert missing.value.status == 404
    with pytest.raises(ValidationError):
        client.reverse("ann", reference="r", reason="Empty answer")
    server.advance(61)
    with pytest.raises(ReversalRefusedError) as late:
        client.reverse("ann", idempotency_key="key-2", reference="r", reason="Empty answer")
    assert (late.value.status, late.value.code) == (403, "reversal_not_allowed")
    assert late.value.operation == "reverse"
    assert late.value.repeat == {
        "user_id": "ann",
        "idempotency_key": "key-2",
        "reference": "r",
        "reason": "Empty answer",
    }
    assert server.token("ann") == 989


def test_a_reversed_debt_is_owed_no_more() -> None:
    server = memory(token=5)
    server.add_feature("chat", reversal_seconds=60)

    async def reverse() -> Any:
        async with server.async_client() as client:
            await client.end("ann", "chat", 12, 40, process_id="run-1")
            assert server.debt("ann") == 11
            return await client.reverse("ann", process_id="run-1", reference="r", reason="Empty answer")

    reversal = asyncio.run(reverse())
    assert (reversal.token, reversal.posted_token, reversal.debt_token) == (11, 0, -11)
    assert (server.debt("ann"), server.token("ann")) == (0, 5)


def test_holds_reserve_expire_extend_and_go_with_their_end() -> None:
    server = memory()
    client = server.client()
    first = client.start("ann", "chat", hold_token=600)
    assert (first.token, first.hold_token, server.token("ann")) == (400, 600, 400)
    assert not client.start("ann", "chat", hold_token=500).access_able
    second = client.start("ann", "chat", hold_token=300, hold_seconds=60)
    assert first.process_id is not None
    assert second.process_id is not None
    extended = client.extend_hold("ann", first.process_id, hold_token=50)
    assert (extended.hold_token, extended.token) == (650, 50)
    with pytest.raises(TokenProcessError):
        client.extend_hold("ann", first.process_id, hold_token=51)
    client.cancel("ann", second.process_id)
    assert server.token("ann") == 350
    client.end("ann", "chat", 0, 40, process_id=first.process_id)
    assert server.holds("ann") == []
    assert server.token("ann") == 989
    client.start("ann", "chat", hold_token=100, hold_seconds=60)
    assert server.token("ann") == 889
    server.advance(61)
    assert server.token("ann") == 989


def test_what_is_not_covered_is_a_debt_that_stops_starts_until_it_is_paid() -> None:
    server = memory(token=10)
    client = server.client()
    assert not client.end("ann", "chat", 0, 40).return_able
    assert (server.debt("ann"), server.token("ann")) == (11, -1)
    assert not client.start("ann", "chat").access_able
    server.top_up("ann", 5)
    assert (server.debt("ann"), server.token("ann")) == (0, 4)
    assert client.start("ann", "chat").access_able
    server.add_wallet("bob", 10, overdraft_limit_token=5)
    assert client.end("bob", "chat", 0, 40).return_able
    assert server.token("bob") == -1


def test_a_key_bills_once() -> None:
    server = memory()
    client = server.client()
    first = client.end("ann", "chat", 0, 40, idempotency_key="k")
    again = client.end("ann", "chat", 0, 40, idempotency_key="k")
    assert (again.cost, again.token, again.replayed) == (first.cost, first.token, True)
    with pytest.raises(ConflictError):
        client.end("ann", "chat", 0, 41, idempotency_key="k")
    assert len(server.ends) == 1
    started = client.start("ann", "chat", hold_token=9, idempotency_key="s")
    assert client.start("ann", "chat", hold_token=9, idempotency_key="s").process_id == started.process_id
    assert len(server.holds("ann")) == 1


def test_a_lost_answer_and_a_server_that_is_away_bill_once(tmp_path: Path) -> None:
    server = memory()
    client = server.client(outbox=tmp_path / "outbox.db", background=False)
    server.lose_answers(1)
    assert client.end("ann", "chat", 0, 40).replayed
    assert server.token("ann") == 989
    server.fail_next(503)
    client.end("ann", "chat", 0, 40)
    assert server.token("ann") == 978
    server.away = True
    quick = server.client(outbox=tmp_path / "outbox.db", background=False, total_timeout_seconds=0.05)
    with pytest.raises(UnavailableError) as caught:
        quick.end("ann", "chat", 0, 40)
    assert caught.value.queued
    server.away = False
    assert quick.flush_outbox().sent == 1
    assert server.token("ann") == 967
    assert len(server.ends) == 3


def test_a_batch_answers_each_end_by_itself() -> None:
    server = memory()
    items = server.client().end_batch(
        [
            {"user_id": "ann", "feature_endpoint_id": "chat", "output_token": 40},
            {"user_id": "eve", "feature_endpoint_id": "chat", "output_token": 40},
        ]
    )
    assert items[0].end is not None
    assert items[0].end.cost == 11
    assert isinstance(items[1].error, WalletNotFoundError)


def test_bad_bodies_and_keys_are_refused() -> None:
    server = memory()
    with pytest.raises(ValidationError) as caught:
        server.client().end("ann", "chat", 1, 2, cached_input_token=2, reasoning_token=1)
    assert "cached_input_token" in caught.value.errors
    with pytest.raises(ValidationError):
        server.client().start("ann", "chat", hold_token=Decimal("0.0000001"))
    with pytest.raises(ValidationError) as caught:
        server.client().end("ann", "chat", 1, 2, idempotency_key="k" * 256)
    assert "Idempotency-Key" in caught.value.errors
    [item] = server.client().end_batch(
        [{"user_id": "ann", "feature_endpoint_id": "chat", "output_token": 2, "idempotency_key": "k" * 256}]
    )
    assert isinstance(item.error, ValidationError)
    with pytest.raises(AuthenticationError):
        TokenProcess(URL, "another key", transport=server).start("ann", "chat")


RATES: dict[str, Any] = {"input_per_million": 3, "output_per_million": 15}


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        # 1,000 * 3 + 200 * 15 = 6,000 micro-tokens.
        (RATES, {"input_token": 1_000, "output_token": 200}, "0.006"),
        # A kind that isn't named costs what its whole costs.
        (RATES, {"input_token": 1_000, "output_token": 200, "cached_input_token": 900}, "0.006"),
        # 100 * 3 + 600 * 0.3 + 300 * 3.75 + 150 * 15 + 50 * 20 = 4,855.
        (
            {
                **RATES,
                "cached_input_per_million": Decimal("0.3"),
                "cache_write_per_million": Decimal("3.75"),
                "reasoning_per_million": 20,
            },
            {
                "input_token": 1_000,
                "output_token": 200,
                "cached_input_token": 600,
                "cache_write_token": 300,
                "reasoning_token": 50,
            },
            "0.004855",
        ),
        ({**RATES, "per_request": Decimal("0.5")}, {"output_token": 200, "requests": 3}, "1.503"),
        # One micro-token for a part of one: 0.3 is rounded up once.
        ({"input_per_million": Decimal("0.1"), "output_per_million": 0}, {"input_token": 3}, "0.000001"),
        (
            {**RATES, "tiers": [{"above_input_token": 200_000, "input_per_million": 6}]},
            {"input_token": 200_000},
            "0.6",
        ),
        (
            {**RATES, "tiers": [{"above_input_token": 200_000, "input_per_million": 6}]},
            {"input_token": 200_001, "output_token": 1},
            "1.200021",
        ),
    ],
)
def test_a_price_counts_every_kind(price: dict[str, Any], usage: dict[str, Any], cost: str) -> None:
    server = MemoryTokentill(features=["chat"], wallets={"ann": 1_000})
    server.add_price(**price)
    usage = {"input_token": 0, "output_token": 0, **usage}
    end = server.client().end("ann", "chat", **usage)
    assert end.cost == Decimal(cost)
    assert server.ends[0].price_id == 1


def test_the_most_specific_price_and_profit_win_and_round_once() -> None:
    server = MemoryTokentill(features=["chat", "image"], wallets={"ann": 1_000})
    prices = {
        "none": {},
        "feature": {"feature_endpoint_id": "chat"},
        "pattern": {"model": "gpt-*"},
        "longer": {"model": "gpt-4*"},
        "exact": {"model": "gpt-4.1"},
        "both": {"feature_endpoint_id": "chat", "model": "gpt-4*"},
    }
    ids = {
        name: server.add_price(input_per_million=0, output_per_million=1, **price)
        for name, price in prices.items()
    }
    client = server.client()
    for feature, model in [
        ("image", "claude"),
        ("chat", "claude"),
        ("image", "gpt-3"),
        ("image", "gpt-4o"),
        ("image", "gpt-4.1"),
        ("chat", "gpt-4.1"),
    ]:
        client.end("ann", feature, 0, 1, model=model)
    assert [end.price_id for end in server.ends] == [ids[name] for name in prices]
    newer = server.add_price(input_per_million=0, output_per_million=2, model="gpt-4.1")
    server.add_profit(Decimal("12.5"))
    server.add_profit(50, model="gpt-4.1")
    client.end("ann", "image", 0, 3, model="gpt-4.1")
    assert server.ends[-1].price_id == newer
    assert (server.ends[-1].base_cost, server.ends[-1].profit) == (Decimal("0.000006"), Decimal("0.000003"))
    client.end("ann", "image", 0, 1)
    assert server.ends[-1].profit == Decimal("0.000001"), "12.5 % of one micro-token, rounded up"


def test_many_threads_share_it() -> None:
    server = memory()

    async def work() -> None:
        client = server.async_client()
        await asyncio.gather(*(client.end("ann", "chat", 0, 4) for _ in range(50)))

    asyncio.run(work())
    assert server.token("ann") == 945
    assert len(server.ends) == 50


FIXTURE = """
from tokentill import token_process_start_async, with_token_process


@with_token_process(feature_endpoint_id="chat", user_id=lambda user_id: user_id)
def answer(user_id):
    return {"output_token": 40}


def test_a_chat_is_billed(tokentill_memory):
    tokentill_memory.add_feature("chat")
    tokentill_memory.add_wallet("ann", 100)
    answer("ann")
    assert tokentill_memory.token("ann") == 90


def test_the_next_has_an_empty_one(tokentill_memory):
    assert tokentill_memory.ends == []
"""


def test_pytest_finds_the_fixture_by_itself(tmp_path: Path) -> None:
    (tmp_path / "test_service.py").write_text(FIXTURE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
