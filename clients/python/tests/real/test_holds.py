"""Holds of long runs on the real server: kept alive, made larger, refused honestly, released by the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.real.bank import Bank
from tests.real.server import Server
from tokentill import (
    AsyncTokenProcess,
    HoldNotFoundError,
    HoldRefusedError,
    TokenProcess,
    current_run,
    with_token_process,
)


def chunks() -> Iterator[dict[str, int]]:
    for n in range(100):
        yield {"n": n, "output_token": 40}


def test_a_run_outlives_its_holds_time(client: TokenProcess, bank: Bank, user: str, feature: str) -> None:
    run = client.run(
        user_id=user, feature_endpoint_id=feature, hold_token=100, hold_seconds=2, keep_hold=True
    )
    with run:
        time.sleep(3.5)
        assert client.start(user, feature).token == 900, "still reserved"
        run.use(output_token=40)
    assert bank.settled(user) == 989
    assert client.start(user, feature).token == 989, "released by its end"


def test_a_run_outlives_its_holds_time_on_asyncio(
    server: Server, bank: Bank, user: str, feature: str
) -> None:
    async def work() -> None:
        async with (
            AsyncTokenProcess(server.url, server.server_key) as client,
            client.run(
                user_id=user, feature_endpoint_id=feature, hold_token=100, hold_seconds=2, keep_hold=True
            ) as run,
        ):
            await asyncio.sleep(3.5)
            assert (await client.start(user, feature)).token == 900
            run.use(output_token=40)

    asyncio.run(work())
    assert bank.settled(user) == 989


def test_without_keep_hold_it_expires_and_the_run_is_billed(
    client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    with client.run(user_id=user, feature_endpoint_id=feature, hold_token=100, hold_seconds=1) as run:
        time.sleep(2.2)
        assert client.start(user, feature).token == 1_000
        with pytest.raises(HoldNotFoundError):
            run.extend_hold(seconds=5)
        run.use(output_token=40)
    assert bank.settled(user) == 989


def test_an_extension_by_amount(client: TokenProcess, user: str, feature: str) -> None:
    run = client.run(user_id=user, feature_endpoint_id=feature, hold_token=100)
    run.start()
    hold = run.extend_hold(token=400)
    assert (hold.token, hold.hold_token) == (500, 500)
    with pytest.raises(HoldRefusedError, match="Available: 500") as refused:
        run.extend_hold(token=501)
    assert refused.value.token == 500
    assert client.start(user, feature).token == 500, "as it was"
    run.finish()
    assert client.start(user, feature).token == 1_000


def test_a_stream_whose_user_has_no_more_is_stopped_and_billed(
    client: TokenProcess, bank: Bank, user: str, feature: str
) -> None:
    @with_token_process(feature_endpoint_id=feature, user_id=user, hold_token=900, client=client)
    def answer() -> Any:
        return chunks()

    stream = answer()
    for _ in range(5):
        next(stream)
    with pytest.raises(HoldRefusedError):
        stream.tokentill_run.extend_hold(token=200)
    assert list(stream) == []
    assert bank.settled(user) == 1_000 - 5 * 11
    assert client.start(user, feature).token == 1_000 - 5 * 11, "no hold is left behind"


def test_a_generator_asks_for_more_by_itself(server: Server, bank: Bank, user: str, feature: str) -> None:
    async def work() -> None:
        async with AsyncTokenProcess(server.url, server.server_key) as client:

            @with_token_process(feature_endpoint_id=feature, user_id=user, hold_token=300, client=client)
            async def answer() -> AsyncIterator[dict[str, int]]:
                for chunk in chunks():
                    run: Any = current_run()
                    if chunk["n"] % 25 == 24:
                        # Granted twice; the third time there are only 100 left.
                        await run.extend_hold(token=300)
                    yield chunk

            with pytest.raises(HoldRefusedError):
                async for _ in answer():
                    pass

    asyncio.run(work())
    assert bank.settled(user) == 1_000 - 74 * 11
