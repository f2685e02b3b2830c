"""Other people's functions: awaited, limited, and never the reason why something fails."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.unit.fake import Fake, failure
from tokentill import with_token_process


class BoomError(Exception):
    pass


def feature() -> dict[str, int]:
    return {"output_token": 40}


async def async_feature() -> dict[str, int]:
    return {"output_token": 40}


def down() -> Fake:
    return Fake(answers=[None, *[failure(503)] * 99])


def wrap(fake: Fake, callback: Any) -> Any:
    client = fake.client(total_timeout_seconds=0.01)
    return with_token_process(
        feature, feature_endpoint_id="f", user_id="u", client=client, on_end_error=callback
    )


def wrap_async(fake: Fake, callback: Any) -> Any:
    client = fake.async_client(total_timeout_seconds=0.01)
    return with_token_process(
        async_feature, feature_endpoint_id="f", user_id="u", client=client, on_end_error=callback
    )


def test_an_async_callback_is_awaited() -> None:
    told: list[str] = []

    async def callback(_error: Exception, end: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        told.append(end["user_id"])

    wrap(down(), callback)()
    assert told == ["u"], "in plain code"

    async def work() -> None:
        await wrap_async(down(), callback)()
        assert told == ["u", "u"]
        # Plain code that is called on an event loop, which is the busy one now.
        wrap(down(), callback)()
        assert told == ["u", "u", "u"]

    asyncio.run(work())


async def rejects(*_: Any) -> None:
    await asyncio.sleep(0)
    raise BoomError


def raises(*_: Any) -> None:
    raise BoomError


async def cancels_itself(*_: Any) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


def is_cancelled(*_: Any) -> None:
    raise asyncio.CancelledError


def answers_a_future_of_another_loop(*_: Any) -> Any:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


@pytest.mark.parametrize(
    "callback", [rejects, raises, cancels_itself, is_cancelled, answers_a_future_of_another_loop]
)
def test_a_failing_callback_costs_the_caller_nothing(
    callback: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentill.drivers.CALLBACK_SECONDS", 0.2)
    assert wrap(down(), callback)() == {"output_token": 40}
    assert "on_end_error" in caplog.text
    caplog.clear()

    async def work() -> None:
        assert await wrap_async(down(), callback)() == {"output_token": 40}
        assert "on_end_error" in caplog.text

    asyncio.run(work())


def test_a_callback_that_hangs_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentill.drivers.CALLBACK_SECONDS", 0.1)

    async def hangs(*_: Any) -> None:
        await asyncio.sleep(1)

    began = time.monotonic()
    wrap(down(), hangs)()
    assert time.monotonic() - began < 0.8
    assert "takes longer" in caplog.text

    async def work() -> None:
        began = time.monotonic()
        await wrap_async(down(), hangs)()
        assert time.monotonic() - began < 0.8

    asyncio.run(work())
