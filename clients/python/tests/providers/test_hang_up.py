"""OpenAI: a stream that is left early closes its provider's at once, which stops after a few of 100."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest

from tests.providers.billing import Billing
from tests.providers.slow import SlowProvider
from tests.unit.fake import wait_until

ASK: Any = [{"role": "user", "content": "?"}]


@pytest.fixture
def ai(slow: SlowProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=slow.url, api_key="k", max_retries=0) as client:
        yield client


class BoomError(Exception):
    pass


def close(stream: Any) -> None:
    stream.close()


def leave_block(stream: Any) -> None:
    with stream:
        pass


def fail(stream: Any) -> None:
    with pytest.raises(BoomError):
        stream.throw(BoomError())


def forget_stream(stream: Any) -> None:
    """The last reference goes with this call."""


LEAVE = [close, leave_block, fail]


def open_chat(ai: openai.OpenAI) -> Any:
    return ai.chat.completions.create(model="m", messages=ASK, stream=True)


@pytest.mark.parametrize("leave", LEAVE)
def test_the_providers_own_stream(
    leave: Callable[[Any], None], slow: SlowProvider, billing: Billing, ai: openai.OpenAI
) -> None:
    stream = billing.wrap(lambda: open_chat(ai))()
    assert isinstance(stream, openai.Stream)
    assert stream.response.status_code == 200, "it has the attributes of its source"
    for _ in range(5):
        next(stream)
    leave(stream)
    assert slow.wait_for_hang_up() < 15
    assert billing.fake.paths() == ["start", "end"]


def test_another_thread_stops_it(slow: SlowProvider, billing: Billing, ai: openai.OpenAI) -> None:
    stream = billing.wrap(lambda: open_chat(ai))()
    next(stream)
    stop = threading.Timer(0.2, stream.close)
    stop.start()
    # Whatever the provider's package makes of it.
    with contextlib.suppress(Exception):
        list(stream)
    stop.join()
    assert slow.wait_for_hang_up() < 40
    assert billing.fake.paths() == ["start", "end"]


@pytest.mark.parametrize("leave", LEAVE)
def test_a_generator_over_the_providers_stream(
    leave: Callable[[Any], None], slow: SlowProvider, billing: Billing, ai: openai.OpenAI
) -> None:
    def chat() -> Iterator[Any]:
        yield from open_chat(ai)

    stream = billing.wrap(chat)()
    for _ in range(3):
        next(stream)
    leave(stream)
    assert slow.wait_for_hang_up() < 13
    assert billing.ends()["output_token"] == 3


class Own:
    """An iterator of the service's own, which has nothing to be closed by."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Own:
        return self

    def __next__(self) -> Any:
        return next(self._stream)

    def __aiter__(self) -> Own:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._stream)


def generator_of(stream: Any) -> Iterator[Any]:
    yield from stream


def as_it_is(chunk: Any) -> Any:
    return chunk


def closure_over(stream: Any) -> Iterator[Any]:
    def generate() -> Iterator[Any]:
        while True:
            yield next(stream)

    return generate()


SHAPES: dict[str, Callable[[Any], Iterator[Any]]] = {
    "expression": lambda stream: (chunk for chunk in stream),
    "argument": generator_of,
    "closure": closure_over,
    "map": lambda stream: map(as_it_is, stream),
    "islice": lambda stream: itertools.islice(stream, 50),
    "zip in a generator": lambda stream: (chunk for _, chunk in zip(range(50), stream, strict=False)),
    "own": Own,
    "own in a generator": lambda stream: generator_of(Own(stream)),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Python's garbage collector would find the stream, too, but later."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("leave", [close, forget_stream])
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_a_service_makes_of_the_providers_stream(
    shape: str, leave: Callable[[Any], None], slow: SlowProvider, billing: Billing, ai: openai.OpenAI
) -> None:
    streams = [billing.wrap(lambda: SHAPES[shape](open_chat(ai)))()]
    for _ in range(3):
        next(streams[0])
    leave(streams.pop())
    assert slow.wait_for_hang_up() < 13
    wait_until(lambda: billing.ends() != {})
    assert billing.ends()["output_token"] == 3


def test_a_run_inside_the_stream_of_another_is_settled_with_it(
    slow: SlowProvider, billing: Billing, ai: openai.OpenAI
) -> None:
    inner = billing.wrap(lambda: open_chat(ai))()
    outer = billing.wrap(lambda: Own(inner), free=True)()
    for _ in range(3):
        next(outer)
    outer.close()
    assert slow.wait_for_hang_up() < 13
    assert billing.fake.paths() == ["start", "start", "end", "cancel"], "the inner one first"


def test_a_stream_that_is_forgotten(slow: SlowProvider, billing: Billing, ai: openai.OpenAI) -> None:
    for number, _chunk in enumerate(billing.wrap(lambda: open_chat(ai))()):
        if number == 2:
            break
    assert slow.wait_for_hang_up() < 13
    wait_until(lambda: billing.ends() != {})
    assert billing.ends()["output_token"] == 3


def test_a_run_stopped_before_the_first_chunk(
    slow: SlowProvider, billing: Billing, ai: openai.OpenAI
) -> None:
    stream = billing.wrap(lambda: open_chat(ai), hold_token=10)()
    stream.close()
    assert slow.wait_for_hang_up() < 10
    assert billing.fake.paths() == ["start", "cancel"]


def test_openais_stream_manager_that_is_never_entered(billing: Billing, ai: openai.OpenAI) -> None:
    def chat() -> Any:
        return ai.chat.completions.stream(model="m", messages=ASK)

    manager = billing.wrap(chat, hold_token=5)()
    del manager
    wait_until(lambda: billing.fake.paths() == ["start", "cancel"])


async def aclose(stream: Any) -> None:
    await stream.aclose()


async def provider_close(stream: Any) -> None:
    await stream.close()


async def aleave_block(stream: Any) -> None:
    async with stream:
        pass


async def afail(stream: Any) -> None:
    with pytest.raises(BoomError):
        await stream.athrow(BoomError())


async def forget(stream: Any) -> None:
    """The last reference goes with this call."""


async def cancel(stream: Any) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def stop_from_another_task(stream: Any) -> None:
    async def read() -> None:
        with contextlib.suppress(Exception):
            async for _ in stream:
                pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    await stream.close()
    await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("leave", [aclose, provider_close, aleave_block, afail, forget, cancel])
@pytest.mark.parametrize("shape", ["stream", "generator", "expression", "own"])
def test_asyncio(leave: Any, shape: str, slow: SlowProvider, billing: Billing) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=slow.url, api_key="k", max_retries=0) as ai:

            async def create() -> Any:
                return await ai.chat.completions.create(model="m", messages=ASK, stream=True)

            async def generate() -> AsyncIterator[Any]:
                async for chunk in await create():
                    yield chunk

            async def express() -> Any:
                stream = await create()
                return (chunk async for chunk in stream)

            async def own() -> Any:
                return Own(await create())

            async def open_it() -> Any:
                if shape == "generator":
                    return billing.wrap_async(generate)()
                if shape == "expression":
                    return await billing.wrap_async(express)()
                if shape == "own":
                    return await billing.wrap_async(own)()
                opened = await billing.wrap_async(create)()
                assert isinstance(opened, openai.AsyncStream)
                return opened

            streams = [await open_it()]
            for _ in range(3):
                await anext(streams[0])
            await leave(streams.pop())
            hung_up = await asyncio.to_thread(slow.wait_for_hang_up)
            assert hung_up < 15
            await asyncio.to_thread(wait_until, lambda: billing.ends() != {})

    asyncio.run(work())
    assert 3 <= billing.ends()["output_token"] <= 5


def test_asyncio_another_task_stops_it(slow: SlowProvider, billing: Billing) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=slow.url, api_key="k", max_retries=0) as ai:

            async def create() -> Any:
                return await ai.chat.completions.create(model="m", messages=ASK, stream=True)

            stream = await billing.wrap_async(create)()
            await anext(stream)
            await stop_from_another_task(stream)
            assert await asyncio.to_thread(slow.wait_for_hang_up) < 15

    asyncio.run(work())
    assert billing.fake.paths() == ["start", "end"]
