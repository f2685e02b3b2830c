"""What the client's calls, wrapper and streams do to a real wallet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.real.bank import Bank
from tests.real.server import Server
from tests.unit.fake import wait_until
from tokentill import (
    AsyncTokenProcess,
    AuthenticationError,
    ConflictError,
    FeatureNotAvailableError,
    InsufficientTokensError,
    TokenProcess,
    TokenProcessError,
    ValidationError,
    WalletNotFoundError,
    with_token_process,
)


def test_direct_calls(client: TokenProcess, bank: Bank, user: str, feature: str) -> None:
    start = client.start(user, feature)
    assert (start.access_able, start.token) == (True, 1_000)
    end = client.end(user, feature, 12, 40, model="gemini-pro", process_id=start.process_id)
    assert (end.cost, end.token, end.return_able, end.replayed) == (11, 989, True, False)
    assert bank.settled(user) == 989


def test_amounts_stay_exact(client: TokenProcess, bank: Bank) -> None:
    feature, package = bank.feature(7.25)
    user = bank.wallet(package, 1_000)
    end = client.end(user, feature, 0, 41)
    assert (end.cost, end.token) == (Decimal("10.993125"), Decimal("989.006875"))
    assert bank.settled(user) == Decimal("989.006875")


def test_the_same_key_bills_once_and_another_body_conflicts(
    client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    first = client.end(user, feature, 1, 40, idempotency_key=f"key-{user}")
    again = client.end(user, feature, 1, 40, idempotency_key=f"key-{user}")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.cost, again.token) == (first.cost, first.token)
    with pytest.raises(ConflictError):
        client.end(user, feature, 1, 44, idempotency_key=f"key-{user}")
    assert bank.settled(user) == 989


def test_a_batch_with_a_bad_end_bills_the_others(
    client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    good = {"user_id": user, "feature_endpoint_id": feature, "output_token": 4}
    items = client.end_batch(
        [good, {**good, "user_id": "nobody-at-all"}, {**good, "model": "m" * 5_000}, good]
    )
    assert [type(item.error) for item in items] == [
        type(None),
        WalletNotFoundError,
        ValidationError,
        type(None),
    ]
    assert bank.settled(user) == Decimal("997.8")


def test_errors_have_their_types(
    server: Server, client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    other, _package = bank.feature()
    with pytest.raises(WalletNotFoundError, match="User wallet not found"):
        client.start("nobody-at-all", feature)
    with pytest.raises(FeatureNotAvailableError) as refused:
        client.start(user, other)
    assert refused.value.token == 1_000
    with pytest.raises(ValidationError):
        client.start("u" * 5_000, feature)
    with (
        TokenProcess(server.url, "not-the-key") as stranger,
        pytest.raises(AuthenticationError, match="Invalid server API key"),
    ):
        stranger.start(user, feature)
    with (
        TokenProcess(f"{server.url}/elsewhere", server.server_key) as lost,
        pytest.raises(TokenProcessError) as missed,
    ):
        lost.start(user, feature)
    assert not missed.value.refused


def test_the_wrapper_bills_and_refuses(
    client: TokenProcess, bank: Bank, user: str, ten_percent: tuple[str, str]
) -> None:
    feature, package = ten_percent
    ran: list[str] = []

    @with_token_process(feature_endpoint_id=feature, user_id=lambda user_id: user_id, client=client)
    def work(user_id: str) -> dict[str, Any]:
        ran.append(user_id)
        return {"input_token": 3, "output_token": 40, "model": "m"}

    work(user)
    assert bank.settled(user) == 989
    poor = bank.wallet(package, 0)
    with pytest.raises(InsufficientTokensError) as refused:
        work(poor)
    assert refused.value.token == 0
    assert ran == [user]


def test_a_hold_reserves_and_comes_back_when_the_function_fails(
    client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    held: list[Any] = []

    @with_token_process(feature_endpoint_id=feature, user_id=user, hold_token=Decimal("100.5"), client=client)
    def work(result: Any) -> Any:
        held.append(bank.balance(user)["held_token"])
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(RuntimeError, match="the model is down"):
        work(RuntimeError("the model is down"))
    assert client.start(user, feature).token == 1_000, "given back after a failure"
    work({"data": "free after all"})
    assert client.start(user, feature).token == 1_000, "given back where nothing was used"
    work({"output_token": 40})
    assert client.start(user, feature).token == 989, "released by its end"
    assert held == [Decimal("100.5")] * 3
    assert bank.settled(user) == 989


def chunks() -> Iterator[dict[str, int]]:
    for n in range(10):
        yield {"n": n, "output_token": 40}


async def async_chunks() -> AsyncIterator[dict[str, int]]:
    for chunk in chunks():
        await asyncio.sleep(0.005)
        yield chunk


def test_streams_bill_what_flowed(client: TokenProcess, bank: Bank, user: str, feature: str) -> None:
    stream = with_token_process(chunks, feature_endpoint_id=feature, user_id=user, client=client)
    assert len(list(stream())) == 10
    assert bank.settled(user) == 890
    for chunk in stream():
        if chunk["n"] == 2:
            break
    # Nobody closed it: a thread does what is left to do.
    wait_until(lambda: len(bank.usage(user)) == 2, 10)
    assert bank.settled(user) == 857
    assert [item["output_token"] for item in bank.usage(user)] == [120, 400]


def test_a_cancelled_async_generator_bills_its_three_chunks(
    server: Server, bank: Bank, user: str, feature: str
) -> None:
    async def work() -> None:
        async with AsyncTokenProcess(server.url, server.server_key) as client:
            stream = with_token_process(
                async_chunks, feature_endpoint_id=feature, user_id=user, client=client
            )
            three = asyncio.Event()

            async def consume() -> None:
                async for chunk in stream():
                    if chunk["n"] == 2:
                        three.set()
                        await asyncio.sleep(60)

            task = asyncio.create_task(consume())
            await three.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The consumer is gone, the generator not yet: the loop closes what nobody holds any more.
            for _ in range(500):
                if bank.usage(user):
                    break
                await asyncio.sleep(0.01)

    asyncio.run(work())
    assert [item["output_token"] for item in bank.usage(user)] == [120]
    assert bank.settled(user) == 967


def test_an_async_function_and_many_at_once(server: Server, bank: Bank, user: str, feature: str) -> None:
    async def work() -> None:
        async with AsyncTokenProcess(server.url, server.server_key) as client:

            @with_token_process(feature_endpoint_id=feature, user_id=user, client=client)
            async def answer(n: int) -> dict[str, Any]:
                await asyncio.sleep(0.01)
                return {"usage": {"prompt_tokens": n, "completion_tokens": 4}, "model": f"run-{n}"}

            await asyncio.gather(*[answer(n) for n in range(1, 41)])

    asyncio.run(work())
    assert bank.settled(user) == 1_000 - 44
    assert {item["model"] for item in bank.usage(user)} == {f"run-{n}" for n in range(1, 41)}
