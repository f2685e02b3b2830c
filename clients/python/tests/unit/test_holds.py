"""Holds of long runs: extended in time by themselves, by amount when asked, honest when that is refused."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.unit.fake import Fake, failure, success, wait_until
from tokentill import (
    Hold,
    HoldNotFoundError,
    HoldRefusedError,
    InsufficientTokensError,
    UnavailableError,
    ValidationError,
    current_run,
    token_process_hold_extend,
    token_process_hold_extend_async,
    with_token_process,
)
from tokentill.holds import HoldLife

EXTEND = "hold/extend"


def in_seconds(seconds: float) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).isoformat()


def granted(token: Any = 500, hold_token: Any = 200) -> httpx.Response:
    status = "access-able"
    return success({"token": token, "hold_token": hold_token, "expires_at": in_seconds(60), "status": status})


def refused() -> httpx.Response:
    status = "not-access-able"
    return success({"token": 3, "hold_token": 100, "expires_at": in_seconds(60), "status": status})


class HoldFake(Fake):
    """Grants a hold of 100 to a start, and answers extensions with `extensions`, or grants them."""

    def __init__(self, *extensions: httpx.Response | Exception, seconds: float = 60) -> None:
        super().__init__(start_data={"hold_token": 100, "expires_at": in_seconds(seconds)})
        self.extensions = list(extensions)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(EXTEND):
            answer = self.extensions.pop(0) if self.extensions else granted()
            self.answers.insert(0, answer)
        return super().__call__(request)


def wrap(fake: Fake, function: Any, **options: Any) -> Any:
    return with_token_process(
        function, feature_endpoint_id="f", user_id="u", client=fake.client(), hold_token=100, **options
    )


def wrap_async(fake: Fake, function: Any, **options: Any) -> Any:
    return with_token_process(
        function, feature_endpoint_id="f", user_id="u", client=fake.async_client(), hold_token=100, **options
    )


def test_the_direct_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = HoldFake(granted(500, 102.5), refused(), failure(404, "hold_not_found"))
    with fake.client() as client:
        hold = client.extend_hold("u", "p-1", hold_token=Decimal("2.5"), hold_seconds=60)
        assert isinstance(hold, Hold)
        assert (hold.token, hold.hold_token, hold.status) == (500, Decimal("102.5"), "access-able")
        assert fake.calls[0].body == {
            "user_id": "u",
            "process_id": "p-1",
            "hold_token": 2.5,
            "hold_seconds": 60,
        }
        with pytest.raises(HoldRefusedError, match="Available: 3") as caught:
            client.extend_hold("u", "p-1", hold_token=900)
        assert isinstance(caught.value, InsufficientTokensError)
        assert caught.value.token == 3
        with pytest.raises(HoldNotFoundError):
            client.extend_hold("u", "p-1", hold_token=1)
        with pytest.raises(ValidationError):
            client.extend_hold("u", "p-1")
        import tokentill.functions as defaults

        monkeypatch.setattr(defaults, "_client", client)
        assert token_process_hold_extend(user_id="u", process_id="p", hold_token=1).token == 500

    async def work() -> None:
        async with fake.async_client() as client:
            monkeypatch.setattr(defaults, "_async_client", client)
            assert (await client.extend_hold("u", "p-1", hold_seconds=5)).token == 500
            assert (await token_process_hold_extend_async(user_id="u", process_id="p", hold_token=1)).token

    asyncio.run(work())


def extended(fake: Fake) -> list[dict[str, Any]]:
    return [call.body for call in fake.of(EXTEND)]


def test_a_long_run_keeps_its_hold() -> None:
    fake = HoldFake()

    def long() -> dict[str, int]:
        # Of 2 seconds, half is added after one: the hold would have expired by now.
        wait_until(lambda: len(extended(fake)) >= 2, 5)
        return {"output_token": 4}

    wrap(fake, long, hold_seconds=2, keep_hold=True)()
    assert extended(fake)[0] == {"user_id": "u", "process_id": "p-1", "hold_seconds": 1}
    count = len(extended(fake))
    time.sleep(1.2)
    assert len(extended(fake)) == count, "over is over"


def test_a_long_run_keeps_its_hold_on_asyncio() -> None:
    fake = HoldFake()

    async def long() -> dict[str, int]:
        while len(extended(fake)) < 2:
            await asyncio.sleep(0.01)
        return {"output_token": 4}

    async def work() -> None:
        await asyncio.wait_for(wrap_async(fake, long, hold_seconds=2, keep_hold=True)(), 5)
        count = len(extended(fake))
        await asyncio.sleep(1.2)
        assert len(extended(fake)) == count

    asyncio.run(work())


def test_the_servers_own_time_is_kept_where_none_is_asked_for() -> None:
    life = HoldLife(None, in_seconds(900))
    assert 895 < life.seconds <= 900
    assert life.half_life_seconds == 450
    assert 440 < life.due_in_seconds <= 450
    life.extended(450)
    assert 890 < life.due_in_seconds <= 900
    life.failed()
    assert 670 < life.due_in_seconds <= 675
    assert HoldLife(None, "soon").seconds == 900
    assert HoldLife(60, in_seconds(-3600)).seconds == 60, "whatever the server's clock shows"


def test_an_extension_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    fake = HoldFake(httpx.ConnectError("down"), httpx.ConnectError("down"))

    def long() -> dict[str, int]:
        wait_until(lambda: len(extended(fake)) >= 3, 8)
        return {"output_token": 4}

    client = fake.client(start_timeout_seconds=0.05)
    with_token_process(
        long,
        feature_endpoint_id="f",
        user_id="u",
        client=client,
        hold_token=100,
        hold_seconds=4,
        keep_hold=True,
    )()
    assert "is tried again" in caplog.text


def test_a_hold_that_is_gone_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fake = HoldFake(failure(404, "hold_not_found"))

    def long() -> dict[str, int]:
        wait_until(lambda: len(extended(fake)) == 1, 5)
        time.sleep(0.1)
        return {"output_token": 4}

    wrap(fake, long, hold_seconds=1, keep_hold=True)()
    assert fake.paths() == ["start", EXTEND, "end"]
    assert "was not extended" in caplog.text


def test_without_keep_hold_nothing_is_extended() -> None:
    fake = HoldFake()
    wrap(fake, lambda: time.sleep(1.3), hold_seconds=1)()
    assert extended(fake) == []


def test_a_forgotten_stream_is_not_kept_alive_by_its_hold() -> None:
    fake = HoldFake()

    def stream() -> Iterator[dict[str, int]]:
        yield {"output_token": 4}
        yield {"output_token": 4}

    next(wrap(fake, stream, hold_seconds=60, keep_hold=True)())
    gc.collect()
    wait_until(lambda: fake.paths() == ["start", "end"])


class Source:
    """A provider's stream that says whether it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self.given = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> dict[str, int]:
        assert not self.closed
        self.given += 1
        return {"output_token": 4}

    def close(self) -> None:
        self.closed = True


def test_an_extension_in_mid_stream() -> None:
    fake, source = HoldFake(), Source()
    run = fake.client().run(user_id="u", feature_endpoint_id="f", hold_token=100)
    stream = run.stream(source)
    next(stream)
    assert run.extend_hold(token=100).hold_token == 200
    next(stream)
    stream.close()
    assert fake.paths() == ["start", EXTEND, "end"]
    assert fake.of("end")[0].body["output_token"] == 8


def test_a_refused_extension_stops_the_stream_and_bills_what_flowed() -> None:
    fake, source = HoldFake(refused()), Source()
    run = fake.client().run(user_id="u", feature_endpoint_id="f", hold_token=100)
    stream = run.stream(source)
    for _ in range(3):
        next(stream)
    with pytest.raises(HoldRefusedError):
        run.extend_hold(token=900)
    assert source.closed
    assert fake.of("end")[0].body["output_token"] == 12
    assert list(stream) == []
    assert stream.tokentill_run is run
    assert fake.paths() == ["start", EXTEND, "end"]


@pytest.mark.parametrize("swallowed", [True, False])
def test_a_refusal_inside_the_generator_stops_it(swallowed: bool) -> None:
    fake, source = HoldFake(refused()), Source()

    def stream() -> Iterator[dict[str, int]]:
        for number, chunk in enumerate(source):
            if number == 2:
                run = current_run()
                assert run is not None
                try:
                    run.extend_hold(token=900)
                except HoldRefusedError:
                    if not swallowed:
                        raise
            yield chunk

    got: list[Any] = []
    with pytest.raises(HoldRefusedError):
        got.extend(wrap(fake, stream)())
    assert fake.paths() == ["start", EXTEND, "end"]
    assert fake.of("end")[0].body["output_token"] == (12 if swallowed else 8)


def test_a_refused_time_stops_nothing() -> None:
    fake, source = HoldFake(refused()), Source()
    run = fake.client().run(user_id="u", feature_endpoint_id="f", hold_token=100)
    stream = run.stream(source)
    next(stream)
    with pytest.raises(HoldRefusedError):
        run.extend_hold(seconds=60)
    next(stream)
    stream.close()
    assert fake.of("end")[0].body["output_token"] == 8


def test_a_refused_extension_on_asyncio() -> None:
    fake = HoldFake(granted(), refused())
    closed: list[bool] = []

    class AsyncSource:
        def __aiter__(self) -> AsyncIterator[dict[str, int]]:
            return self

        async def __anext__(self) -> dict[str, int]:
            return {"output_token": 4}

        async def close(self) -> None:
            closed.append(True)

    async def work() -> None:
        run = fake.async_client().run(user_id="u", feature_endpoint_id="f", hold_token=100)
        stream = run.stream(AsyncSource())
        await anext(stream)
        await run.extend_hold(token=5)
        await anext(stream)
        with pytest.raises(HoldRefusedError):
            await run.extend_hold(token=900)
        assert closed == [True]

    asyncio.run(work())
    assert fake.paths() == ["start", EXTEND, EXTEND, "end"]
    assert fake.of("end")[0].body["output_token"] == 8


def test_a_run_without_a_hold_has_none_to_extend() -> None:
    run = Fake(start_data={"process_id": None}).client().run(user_id="u", feature_endpoint_id="f")
    with pytest.raises(HoldNotFoundError):
        run.extend_hold(token=1)
    run.start()
    with pytest.raises(HoldNotFoundError):
        run.extend_hold(token=1)


def test_a_run_that_went_on_without_the_server_has_none_either(tmp_path: Any) -> None:
    fake = Fake(answers=[failure(503)] * 99)
    with fake.client(
        outbox=tmp_path / "outbox.db", background=False, when_away="open", total_timeout_seconds=0.01
    ) as client:
        run = client.run(user_id="u", feature_endpoint_id="f", hold_token=5, keep_hold=True)
        run.start()
        with pytest.raises(UnavailableError, match="went on without"):
            run.extend_hold(token=1)
