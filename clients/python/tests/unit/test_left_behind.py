"""Runs and streams that nobody finishes: billed for what they used, or given their hold back, and soon."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.unit.fake import Fake, failure, wait_until
from tests.unit.slow_server import slow_server
from tokentill import UnavailableError, with_token_process


def numbers() -> Iterator[dict[str, int]]:
    for _ in range(10):
        yield {"output_token": 4}


async def async_numbers() -> AsyncIterator[dict[str, int]]:
    for _ in range(10):
        yield {"output_token": 4}


def run_of(client: Any) -> Any:
    return client.run(user_id="u", feature_endpoint_id="f", hold_token=10)


def never_streamed(client: Any) -> None:
    run_of(client).start()


def never_read(client: Any) -> None:
    run = run_of(client)
    run.start()
    run.stream(numbers())


def closed_before_the_first_chunk(client: Any) -> None:
    run = run_of(client)
    run.start()
    run.stream(numbers()).close()


def returned_and_never_read(client: Any) -> None:
    function = with_token_process(
        lambda: iter([{"output_token": 4}]),
        feature_endpoint_id="f",
        user_id="u",
        client=client,
        hold_token=10,
    )
    function()


@pytest.mark.parametrize(
    "leave", [never_streamed, never_read, closed_before_the_first_chunk, returned_and_never_read]
)
def test_nothing_used_gives_the_hold_back(leave: Any) -> None:
    fake = Fake()
    leave(fake.client())
    wait_until(lambda: fake.paths() == ["start", "cancel"])


def test_used_and_never_finished_is_billed() -> None:
    fake = Fake()
    run = run_of(fake.client())
    run.start()
    run.use(output_token=40)
    del run
    wait_until(lambda: fake.paths() == ["start", "end"])


def test_in_a_reference_cycle() -> None:
    fake = Fake()
    stream = with_token_process(numbers, feature_endpoint_id="f", user_id="u", client=fake.client())()
    next(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    wait_until(lambda: fake.paths() == ["start", "end"])


def test_closing_the_client_waits_for_them() -> None:
    fake = Fake()
    with fake.client() as client:
        next(with_token_process(numbers, feature_endpoint_id="f", user_id="u", client=client)())
    assert fake.paths() == ["start", "end"]


async def async_never_streamed(client: Any) -> None:
    await run_of(client).start()


async def async_never_read(client: Any) -> None:
    run = run_of(client)
    await run.start()
    run.stream(async_numbers())


async def async_closed(client: Any) -> None:
    run = run_of(client)
    await run.start()
    await run.stream(async_numbers()).aclose()


async def async_returned(client: Any) -> None:
    async def function() -> Any:
        return async_numbers()

    await with_token_process(function, feature_endpoint_id="f", user_id="u", client=client, hold_token=10)()


@pytest.mark.parametrize("leave", [async_never_streamed, async_never_read, async_closed, async_returned])
def test_asyncio_nothing_used_gives_the_hold_back(leave: Any) -> None:
    fake = Fake()

    async def work() -> None:
        async with fake.async_client() as client:
            await leave(client)
        assert fake.paths() == ["start", "cancel"], "closing the client waits for them"

    asyncio.run(work())


def test_asyncio_what_flowed_is_billed() -> None:
    fake = Fake()

    async def work() -> None:
        async with fake.async_client() as client:
            wrapped = with_token_process(async_numbers, feature_endpoint_id="f", user_id="u", client=client)
            await anext(wrapped())
        assert fake.of("end")[0].body["output_token"] == 4

    asyncio.run(work())


def test_a_stream_that_outlives_its_loop_is_settled_in_a_thread() -> None:
    fake = Fake()
    kept: list[Any] = []

    async def work() -> None:
        wrapped = with_token_process(
            async_numbers, feature_endpoint_id="f", user_id="u", client=fake.async_client()
        )
        kept.append(wrapped())
        await anext(kept[0])

    asyncio.run(work())
    assert fake.paths() == ["start"]
    kept.clear()
    wait_until(lambda: fake.paths() == ["start", "end"])


@pytest.mark.parametrize("program", ["plain", "asyncio"])
def test_the_end_of_the_program_settles_them(program: str) -> None:
    head = """
        import asyncio, sys
        from tokentill import *
        async def async_numbers():
            for _ in range(10):
                yield {"output_token": 4}
    """
    bodies = {
        "plain": """
            client = TokenProcess(sys.argv[1], "key")
            run = client.run(user_id="u", feature_endpoint_id="f")
            stream = run.stream(iter([{"output_token": 4}] * 10))
            next(stream)
            del run, stream
        """,
        "asyncio": """
            async def work():
                run = AsyncTokenProcess(sys.argv[1], "key").run(user_id="u", feature_endpoint_id="f")
                stream = run.stream(async_numbers())
                await anext(stream)
                return stream
            stream = asyncio.run(work())
            del stream
        """,
    }
    text = textwrap.dedent(head) + textwrap.dedent(bodies[program])
    with slow_server() as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert server.asked == ["start", "end"]


def test_a_program_that_ends_before_our_thread_has_begun() -> None:
    text = """
        import atexit, sys
        sys.setswitchinterval(100)
        atexit.register(lambda: print([end.output_token for end in memory.ends]))
        from tokentill.testing import MemoryTokentill
        memory = MemoryTokentill(features=["f"], wallets={"u": 1_000})
        run = memory.client().run(user_id="u", feature_endpoint_id="f")
        run.start()
        run.use(output_token=4)
        del run
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[4]\n")


def lost_start() -> Fake:
    """The first start gets no answer at all; what is asked later does."""
    return Fake(answers=[httpx.ReadError("lost")])


def test_a_start_that_got_no_answer_leaves_no_hold() -> None:
    fake = lost_start()
    with fake.client(start_timeout_seconds=0.01) as client, pytest.raises(UnavailableError):
        run_of(client).start()
    assert fake.paths() == ["start", "start", "cancel"]
    first, second = fake.of("start")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_asyncio_a_start_that_got_no_answer_leaves_no_hold() -> None:
    fake = lost_start()

    async def work() -> None:
        async with fake.async_client(start_timeout_seconds=0.01) as client:
            with pytest.raises(UnavailableError):
                await run_of(client).start()

    asyncio.run(work())
    assert fake.paths() == ["start", "start", "cancel"]


def test_without_a_hold_there_is_nothing_to_undo() -> None:
    fake = lost_start()
    with fake.client(start_timeout_seconds=0.01) as client, pytest.raises(UnavailableError):
        client.run(user_id="u", feature_endpoint_id="f").start()
    assert fake.paths() == ["start"]


def test_a_retry_leaves_nothing_to_the_garbage_collector() -> None:
    """An error that keeps its frames, and they it, would keep a forgotten stream alive."""
    fake = Fake(answers=[httpx.ConnectError("refused"), failure(503, headers={"Retry-After": "0"})])
    gc.disable()
    try:
        next(with_token_process(numbers, feature_endpoint_id="f", user_id="u", client=fake.client())())
        wait_until(lambda: fake.paths()[-1] == "end")
    finally:
        gc.enable()
