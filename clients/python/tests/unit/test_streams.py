"""Generators and streams: what is called, in which order, what reaches whom, and how they are cancelled."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import anyio
import pytest

from tests.unit.fake import Fake, wait_until
from tests.unit.wrapping import LOW, BoomError, billed, wrap, wrap_async
from tokentill import (
    InsufficientTokensError,
    Usage,
)


def numbers(count: int = 10) -> Generator[dict[str, int], str | None, str]:
    for n in range(count):
        yield {"n": n, "output_token": 4}
    return "done"


def test_a_generator_starts_with_its_first_chunk_and_is_billed_once_when_exhausted() -> None:
    fake = Fake()
    stream = wrap(fake, numbers)()
    assert fake.paths() == []
    assert [chunk["n"] for chunk in stream] == list(range(10))
    assert fake.paths() == ["start", "end"]
    assert billed(fake) == [(0, 40)]


def test_a_generator_closed_early_bills_what_flowed() -> None:
    fake = Fake()
    stream = wrap(fake, numbers)()
    for _ in range(3):
        next(stream)
    stream.close()
    stream.close()
    assert billed(fake) == [(0, 12)]


def test_a_generator_left_behind_bills_what_flowed() -> None:
    fake = Fake()
    for chunk in wrap(fake, numbers)():
        if chunk["n"] == 2:
            break
    wait_until(lambda: billed(fake) == [(0, 12)])


def test_a_generator_failing_half_way_bills_what_flowed() -> None:
    fake = Fake()

    def fails() -> Iterator[dict[str, int]]:
        yield {"output_token": 4}
        yield {"output_token": 4}
        raise BoomError

    with pytest.raises(BoomError):
        list(wrap(fake, fails)())
    assert billed(fake) == [(0, 8)]
    assert fake.paths() == ["start", "end"]


def test_a_generator_failing_before_its_first_chunk_gives_the_hold_back() -> None:
    fake = Fake()

    def fails() -> Iterator[dict[str, int]]:
        raise BoomError
        yield {}

    with pytest.raises(BoomError):
        list(wrap(fake, fails)())
    assert fake.paths() == ["start", "cancel"]


def test_a_refused_generator_does_not_run() -> None:
    ran = []

    def stream() -> Iterator[int]:
        ran.append(1)
        yield 1

    with pytest.raises(InsufficientTokensError):
        next(wrap(Fake(start_data=LOW), stream)())
    assert ran == []


def test_what_is_sent_and_thrown_into_a_generator_reaches_it() -> None:
    def echo() -> Generator[Any, Any, str]:
        got = yield "first"
        try:
            yield got
        except BoomError:
            yield "caught"
        return "returned"

    stream = wrap(Fake(), echo)()
    assert next(stream) == "first"
    assert stream.send("sent") == "sent"
    assert stream.throw(BoomError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == "returned"


def test_the_total_a_generator_returns_is_not_added_to_its_chunks() -> None:
    fake = Fake()

    def stream() -> Generator[dict[str, int], None, dict[str, int]]:
        yield {"output_token": 4}
        return {"input_token": 9, "output_token": 6}

    list(wrap(fake, stream)())
    assert billed(fake) == [(9, 6)]


def test_an_extractor_is_not_asked_about_what_a_generator_does_not_return() -> None:
    fake, asked = Fake(), list[Any]()

    def usage(chunk: dict[str, int]) -> Usage:
        asked.append(chunk)
        return Usage(output_token=chunk["output_token"])

    list(wrap(fake, lambda: iter([{"output_token": 4}]), usage=usage)())
    assert asked == [{"output_token": 4}]
    assert billed(fake) == [(0, 4)]


def test_unreadable_chunks_are_logged_once_and_the_rest_is_billed(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake()
    chunks = [{"output_token": "x"}, {"output_token": "y"}, {"output_token": 4}]
    assert list(wrap(fake, lambda: iter(chunks))()) == chunks
    assert billed(fake) == [(0, 4)]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_a_function_that_returns_a_stream_is_a_stream() -> None:
    fake = Fake()

    class ProviderStream:
        closed = False

        def __iter__(self) -> Iterator[dict[str, int]]:
            return self

        def __next__(self) -> dict[str, int]:
            return {"output_token": 4}

        def close(self) -> None:
            self.closed = True

    source = ProviderStream()
    stream = wrap(fake, lambda: source)()
    next(stream)
    stream.close()
    assert source.closed
    assert billed(fake) == [(0, 4)]
    file = io.StringIO("no stream")
    assert wrap(fake, lambda: file)() is file


async def chunks(count: int = 10) -> AsyncGenerator[dict[str, int], None]:
    for n in range(count):
        await asyncio.sleep(0)
        yield {"n": n, "output_token": 4}


def test_an_async_generator_is_billed_once_when_exhausted_closed_or_failing() -> None:
    fake = Fake()

    async def fails() -> AsyncIterator[dict[str, int]]:
        yield {"output_token": 4}
        raise BoomError

    async def returns_a_stream() -> AsyncGenerator[dict[str, int], None]:
        return chunks(2)

    async def work() -> None:
        assert [chunk["n"] async for chunk in wrap_async(fake, chunks)()] == list(range(10))
        stream = wrap_async(fake, chunks)()
        for _ in range(3):
            await anext(stream)
        await stream.aclose()
        with pytest.raises(BoomError):
            [chunk async for chunk in wrap_async(fake, fails)()]
        assert len([chunk async for chunk in await wrap_async(fake, returns_a_stream)()]) == 2

    asyncio.run(work())
    assert billed(fake) == [(0, 40), (0, 12), (0, 4), (0, 8)]


def test_what_is_sent_and_thrown_into_an_async_generator_reaches_it() -> None:
    async def echo() -> AsyncGenerator[Any, Any]:
        got = yield "first"
        try:
            yield got
        except BoomError:
            yield "caught"

    async def work() -> None:
        stream = wrap_async(Fake(), echo)()
        assert await anext(stream) == "first"
        assert await stream.asend("sent") == "sent"
        assert await stream.athrow(BoomError()) == "caught"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(work())


def slow_end(fake: Fake) -> Any:
    """An asyncio client whose ends take a while, so that a cancellation can hit them."""
    import httpx

    from tokentill import AsyncTokenProcess

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/end"):
            await asyncio.sleep(0.1)
        return fake(request)

    return AsyncTokenProcess("http://t.test", "key", transport=httpx.MockTransport(answer))


def test_a_cancelled_task_bills_what_flowed_even_if_cancelled_again() -> None:
    fake = Fake()

    async def endless() -> AsyncIterator[dict[str, int]]:
        for _ in range(3):
            yield {"output_token": 4}
        await asyncio.sleep(60)

    async def work() -> None:
        stream = wrap(fake, endless, client=slow_end(fake))

        async def consume() -> None:
            async for _chunk in stream():
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.02)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert billed(fake) == [(0, 12)]


def test_a_cancelled_scope_bills_what_flowed() -> None:
    fake = Fake()

    async def work() -> None:
        stream = wrap(fake, chunks, client=slow_end(fake))
        with anyio.CancelScope() as scope:
            async for chunk in stream():
                if chunk["n"] == 2:
                    # As Starlette does when the browser has gone: every await from here on is cancelled.
                    scope.cancel()

    asyncio.run(work())
    assert billed(fake) == [(0, 12)]


def test_a_result_whose_caller_was_cancelled_is_billed() -> None:
    fake = Fake()

    async def work() -> None:
        async def good() -> dict[str, int]:
            return {"output_token": 40}

        task = asyncio.create_task(wrap(fake, good, client=slow_end(fake))())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert billed(fake) == [(0, 40)]


def test_a_cancelled_function_gives_its_hold_back() -> None:
    fake = Fake()

    async def work() -> None:
        async def sleeps() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(wrap_async(fake, sleeps)())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert fake.paths() == ["start", "cancel"]


def test_a_run_started_before_its_stream_is_started_once() -> None:
    fake = Fake()
    run = fake.client().run(user_id="u", feature_endpoint_id="f")
    run.start()
    assert len(list(run.stream(numbers()))) == 10
    assert fake.paths() == ["start", "end"]

    async def work() -> None:
        run = fake.async_client().run(user_id="u", feature_endpoint_id="f")
        await run.start()
        assert len([chunk async for chunk in run.stream(chunks())]) == 10
        async with fake.async_client().run(user_id="u", feature_endpoint_id="f") as other:
            other.use(output_token=7)

    asyncio.run(work())
    assert billed(fake) == [(0, 40), (0, 40), (0, 7)]
