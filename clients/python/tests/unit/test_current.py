"""The current run: inside a wrapped function, a block and a stream, and nowhere else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.unit.fake import Fake
from tokentill import current_run, with_token_process


def helper(tokens: int) -> None:
    """Code that no run was handed to."""
    run = current_run()
    assert run is not None
    run.use(output_token=tokens)


def billed(fake: Fake) -> list[tuple[str, int]]:
    return [(call.body["feature_endpoint_id"], call.body["output_token"]) for call in fake.of("end")]


def wrap(fake: Fake, function: Any, feature: str = "f") -> Any:
    return with_token_process(function, feature_endpoint_id=feature, user_id="u", client=fake.client())


def wrap_async(fake: Fake, function: Any, feature: str = "f") -> Any:
    return with_token_process(function, feature_endpoint_id=feature, user_id="u", client=fake.async_client())


def test_inside_a_function_and_only_there() -> None:
    fake = Fake()
    assert current_run() is None
    wrap(fake, lambda: helper(7))()
    assert current_run() is None
    with pytest.raises(ZeroDivisionError):
        wrap(fake, lambda: 1 // 0)()
    assert current_run() is None
    assert billed(fake) == [("f", 7)]


def test_nested_runs_are_each_billed_for_their_own() -> None:
    fake = Fake()

    def inner() -> None:
        helper(5)

    def outer() -> None:
        helper(1)
        before = current_run()
        wrap(fake, inner, "inner")()
        assert current_run() is before, "back again"
        helper(2)

    wrap(fake, outer, "outer")()
    assert billed(fake) == [("inner", 5), ("outer", 3)]


def test_a_block() -> None:
    fake = Fake()
    with fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        assert current_run() is run
        with fake.client().run(user_id="u", feature_endpoint_id="g") as other:
            assert current_run() is other
            helper(2)
        helper(3)
    assert current_run() is None
    assert billed(fake) == [("g", 2), ("f", 3)]


def test_a_generator_sees_its_run_and_its_consumer_does_not() -> None:
    fake = Fake()

    def stream() -> Iterator[int]:
        for number in range(3):
            helper(4)
            yield number

    seen = [current_run() for _ in wrap(fake, stream)()]
    assert seen == [None] * 3
    assert billed(fake) == [("f", 12)]


def test_streams_that_are_read_in_turns() -> None:
    fake = Fake()

    def stream(tokens: int) -> Iterator[int]:
        for number in range(3):
            helper(tokens)
            yield number

    streams = [wrap(fake, stream, name)(tokens) for name, tokens in (("one", 1), ("ten", 10))]
    list(zip(*streams, strict=True))
    for each in streams:
        each.close()
    assert sorted(billed(fake)) == [("one", 3), ("ten", 30)]


def test_a_generator_that_is_closed_still_sees_it() -> None:
    fake = Fake()

    def stream() -> Iterator[int]:
        try:
            yield 1
        finally:
            helper(9)

    opened = wrap(fake, stream)()
    next(opened)
    opened.close()
    assert billed(fake) == [("f", 9)]


def test_asyncio() -> None:
    fake = Fake()

    async def inner(tokens: int) -> None:
        await asyncio.sleep(0)
        helper(tokens)

    async def outer() -> None:
        helper(1)
        await asyncio.gather(*[wrap_async(fake, inner, f"inner-{tokens}")(tokens) for tokens in (10, 20)])
        # Tasks and threads of the pool see their maker's.
        await asyncio.gather(inner(2), asyncio.to_thread(helper, 4))

    async def stream() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            helper(4)
            yield number

    async def work() -> None:
        await wrap_async(fake, outer, "outer")()
        assert current_run() is None
        async for _ in wrap_async(fake, stream, "stream")():
            assert current_run() is None
        async with fake.async_client().run(user_id="u", feature_endpoint_id="block"):
            helper(8)
        assert current_run() is None

    asyncio.run(work())
    assert sorted(billed(fake)) == [
        ("block", 8),
        ("inner-10", 10),
        ("inner-20", 20),
        ("outer", 7),
        ("stream", 12),
    ]


def test_a_thread_of_its_own_sees_none() -> None:
    seen: list[Any] = []

    def work() -> None:
        thread = threading.Thread(target=lambda: seen.append(current_run()))
        thread.start()
        thread.join()

    wrap(Fake(), work)()
    assert seen == [None]


def test_blocks_in_generators_that_end_in_any_order() -> None:
    fake = Fake()

    def stream(feature: str) -> Iterator[int]:
        with fake.client().run(user_id="u", feature_endpoint_id=feature) as run:
            run.use(output_token=1)
            yield 1

    first, second = stream("first"), stream("second")
    next(first)
    next(second)
    list(first)
    left = current_run()
    assert left is not None
    assert left.feature_endpoint_id == "second", "Python shows a generator's context to its reader"
    list(second)
    assert current_run() is None
    assert sorted(billed(fake)) == [("first", 1), ("second", 1)]


def test_a_task_whose_run_is_over_belongs_to_the_run_around_it() -> None:
    fake = Fake()
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        await asyncio.sleep(0.01)
        helper(5)

    async def inner() -> None:
        tasks.append(asyncio.create_task(later()))
        helper(1)

    async def outer() -> None:
        await wrap_async(fake, inner, "inner")()
        await tasks[0]

    asyncio.run(wrap_async(fake, outer, "outer")())
    assert billed(fake) == [("inner", 1), ("outer", 5)]
