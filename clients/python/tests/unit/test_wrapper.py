"""The wrapper's rules that need no money: what is called, in which order, and what the caller gets."""

from __future__ import annotations

import asyncio
import functools
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import anyio
import pytest

from tests.unit.fake import Fake, failure, wait_until
from tokentill import (
    ConfigurationError,
    InsufficientTokensError,
    UnavailableError,
    Usage,
    with_token_process,
)

LOW = {"token": 50, "status": "not-access-able"}


def wrap(fake: Fake, function: Any, **options: Any) -> Any:
    """`function` wrapped for the user `u`, on a client of the right kind."""
    client = options.pop("client", None) or fake.client(total_timeout_seconds=0.01)
    return with_token_process(function, feature_endpoint_id="f", user_id="u", client=client, **options)


def wrap_async(fake: Fake, function: Any, **options: Any) -> Any:
    return wrap(fake, function, client=fake.async_client(total_timeout_seconds=0.01), **options)


def billed(fake: Fake) -> list[tuple[int, int]]:
    return [(call.body["input_token"], call.body["output_token"]) for call in fake.of("end")]


def test_a_function_is_started_run_and_billed() -> None:
    fake = Fake()

    def translate(text: str, *, loud: bool = False) -> dict[str, Any]:
        """Docs."""
        assert fake.paths() == ["start"]
        return {"text": text.upper() if loud else text, "input_token": 3, "output_token": 40, "model": "m"}

    wrapped = wrap(fake, translate)
    assert wrapped("hi", loud=True)["text"] == "HI"
    assert (wrapped.__name__, wrapped.__doc__) == ("translate", "Docs.")
    assert fake.calls[1].body == {
        "user_id": "u",
        "feature_endpoint_id": "f",
        "input_token": 3,
        "output_token": 40,
        "model": "m",
        "process_id": "p-1",
    }
    assert fake.paths() == ["start", "end"]


def test_it_decorates_functions_and_methods_and_reads_the_user_from_their_arguments() -> None:
    fake = Fake()
    client = fake.client()

    @with_token_process(feature_endpoint_id="f", user_id=lambda data: data["user_id"], client=client)
    def function(data: dict[str, str]) -> dict[str, int]:
        return {"output_token": 1}

    class Service:
        @with_token_process(feature_endpoint_id="f", user_id=lambda _self, user, **_: user, client=client)
        def method(self, user: str, *, more: int) -> dict[str, int]:
            return {"output_token": more}

    function({"user_id": "ann"})
    Service().method("bob", more=2)
    assert [(call.body["user_id"], call.body["output_token"]) for call in fake.of("end")] == [
        ("ann", 1),
        ("bob", 2),
    ]


def test_not_access_able_raises_with_the_balance_and_does_not_run() -> None:
    fake = Fake(start_data=LOW)
    with pytest.raises(InsufficientTokensError, match="Available: 50") as caught:
        wrap(fake, lambda: pytest.fail("it ran"))()
    assert caught.value.token == 50
    assert fake.paths() == ["start"]


def test_start_failing_keeps_the_function_from_running() -> None:
    with pytest.raises(UnavailableError):
        wrap(Fake(answers=[failure(503)] * 9), lambda: pytest.fail("it ran"))()


@pytest.mark.parametrize(
    "result", [{"data": 1}, {"input_token": 0, "output_token": 0}, None, "text", {"output_token": None}]
)
def test_a_free_run_calls_no_end(result: Any) -> None:
    fake = Fake()
    assert wrap(fake, lambda: result)() is result
    assert fake.paths() == ["start"]


def test_a_free_run_gives_its_hold_back() -> None:
    fake = Fake()
    wrap(fake, lambda: None, hold_token=100, hold_seconds=60)()
    assert fake.calls[0].body["hold_token"] == 100
    assert fake.paths() == ["start", "cancel"]


def test_input_alone_is_billed_too() -> None:
    fake = Fake()
    wrap(fake, lambda: {"input_token": 5})()
    assert billed(fake) == [(5, 0)]


class BoomError(Exception):
    pass


def test_a_raising_function_gives_its_hold_back_and_its_error_passes_untouched() -> None:
    fake = Fake()
    error = BoomError("boom")

    def fail() -> None:
        raise error

    with pytest.raises(BoomError) as caught:
        wrap(fake, fail)()
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert fake.paths() == ["start", "cancel"]
    assert fake.calls[1].body == {"user_id": "u", "process_id": "p-1"}


def test_a_failing_cancel_does_not_hide_the_functions_error(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(answers=[None, failure(404, "not_found")])
    with pytest.raises(ZeroDivisionError):
        wrap(fake, lambda: 1 // 0)()
    assert "was not given back" in caplog.text


def test_without_a_process_id_there_is_nothing_to_cancel() -> None:
    fake = Fake(start_data={"process_id": None})
    with pytest.raises(ZeroDivisionError):
        wrap(fake, lambda: 1 // 0)()
    assert fake.paths() == ["start"]


@pytest.mark.parametrize("fault", [failure(404), failure(503), failure(409), RuntimeError("a bug")])
def test_a_failing_end_costs_the_caller_nothing(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(answers=[None, *[fault] * 9])
    told: list[tuple[Exception, dict[str, Any]]] = []
    result = wrap(fake, lambda: {"output_token": 40}, on_end_error=lambda *both: told.append(both))()
    assert result == {"output_token": 40}
    [(_error, end)] = told
    assert end["idempotency_key"] == fake.of("end")[0].headers["idempotency-key"]
    assert (end["user_id"], end["output_token"], end["process_id"]) == ("u", 40, "p-1")
    assert end["idempotency_key"] in caplog.text


def test_unreadable_usage_and_a_failing_hook_cost_the_caller_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hook(_error: Exception, _end: dict[str, Any]) -> None:
        raise BoomError

    assert wrap(Fake(), lambda: {"output_token": "many"}, on_end_error=hook)() == {"output_token": "many"}
    assert "on_end_error failed" in caplog.text


def test_the_extractor_can_be_replaced() -> None:
    fake = Fake()
    wrap(fake, lambda: "four words of text", usage=lambda text: Usage(output_token=len(text.split())))()
    wrap(fake, lambda: "four words of text", usage=lambda text: {"output_token": len(text.split())})()
    assert billed(fake) == [(0, 4), (0, 4)]


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


def _called(function: Any) -> Any:
    return function()


def test_a_plain_function_must_not_be_asynchronous_inside() -> None:
    async def inner() -> None:
        """Never awaited."""

    with pytest.raises(ConfigurationError, match="async def"):
        wrap(Fake(), functools.partial(_called, inner))()


def test_the_client_must_fit_the_function() -> None:
    fake = Fake()

    async def asynchronous() -> None:
        """Never called."""

    with pytest.raises(ConfigurationError):
        wrap(fake, asynchronous)
    with pytest.raises(ConfigurationError):
        wrap(fake, numbers, client=fake.async_client())


def test_coroutine_functions() -> None:
    fake = Fake()

    async def work() -> None:
        async def good(text: str) -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"text": text, "output_token": 40}

        async def bad() -> None:
            raise BoomError

        class Callable:
            async def __call__(self) -> dict[str, int]:
                return {"output_token": 1}

        assert (await wrap_async(fake, good)("hi"))["text"] == "hi"
        with pytest.raises(BoomError):
            await wrap_async(fake, bad)()
        await wrap_async(fake, functools.partial(good, "hi"))()
        await wrap_async(fake, Callable())()

    asyncio.run(work())
    assert billed(fake) == [(0, 40), (0, 40), (0, 1)]
    assert fake.paths() == ["start", "end", "start", "cancel", "start", "end", "start", "end"]


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


def test_a_run_as_context_manager() -> None:
    fake = Fake()
    client = fake.client()
    with client.run(user_id="u", feature_endpoint_id="f") as run:
        run.use(input_token=3)
        run.read({"output_token": 40, "model": "m"})
    assert run.ended is not None
    assert run.ended.cost == 11
    run.finish()
    assert billed(fake) == [(3, 40)], "over is over"

    def fails_half_way() -> None:
        with client.run(user_id="u", feature_endpoint_id="f") as run:
            run.use(output_token=8)
            raise BoomError

    with pytest.raises(BoomError):
        fails_half_way()
    assert billed(fake)[1:] == [(0, 8)], "used before it failed"

    with pytest.raises(BoomError), client.run(user_id="u", feature_endpoint_id="f"):
        raise BoomError
    assert fake.paths()[-1] == "cancel"

    fake.start_data = LOW
    with pytest.raises(InsufficientTokensError), client.run(user_id="u", feature_endpoint_id="f"):
        pytest.fail("it ran")


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


def users(fake: Fake) -> list[str]:
    return [call.body["user_id"] for call in fake.of("start")]


def test_the_user_is_found_however_the_arguments_are_passed() -> None:
    fake = Fake()

    def work(prompt: str, user_id: str = "default", *, tone: str = "plain") -> dict[str, int]:
        return {"output_token": 1}

    options: dict[str, Any] = {"feature_endpoint_id": "f", "client": fake.client()}
    by_position = with_token_process(work, user_id=lambda _prompt, user, **_more: user, **options)
    by_position("hi", "ann")
    by_position("hi", user_id="bob")
    by_position(user_id="cem", prompt="hi", tone="loud")
    by_name = with_token_process(work, user_id=lambda user_id: user_id, **options)
    by_name("hi", "dan")
    by_name(user_id="eve", prompt="hi")
    by_name("hi")
    other_order = with_token_process(work, user_id=lambda tone, prompt: f"{prompt}-{tone}", **options)
    other_order("hi", tone="loud")
    assert users(fake) == ["ann", "bob", "cem", "dan", "eve", "default", "hi-loud"]
    with pytest.raises(TypeError, match="prompt"):
        by_name(user_id="fay")  # type: ignore[call-arg]
    assert len(users(fake)) == 7, "refused before anything was started"


def test_a_hold_may_depend_on_the_call() -> None:
    fake = Fake()
    options: dict[str, Any] = {"feature_endpoint_id": "f", "user_id": "u", "client": fake.client()}
    work = with_token_process(
        lambda prompt: {"output_token": 1}, hold_token=lambda prompt: len(prompt) or None, **options
    )
    work("four")
    work(prompt="")
    assert [call.body.get("hold_token") for call in fake.of("start")] == [4, None]


def test_on_asyncio_the_user_may_be_asked_for() -> None:
    fake = Fake()

    async def user_of(request: str) -> str:
        await asyncio.sleep(0)
        return f"user-{request}"

    async def hold_of(request: str) -> int:
        return len(request)

    async def answer(request: str) -> dict[str, int]:
        return {"output_token": 1}

    async def stream(request: str) -> AsyncIterator[dict[str, int]]:
        yield {"output_token": 1}

    async def work() -> None:
        options: dict[str, Any] = {
            "feature_endpoint_id": "f",
            "user_id": user_of,
            "hold_token": hold_of,
            "client": fake.async_client(),
        }
        await with_token_process(answer, **options)("a")
        await with_token_process(answer, **options)(request="bb")
        async for _ in with_token_process(stream, **options)("ccc"):
            pass

    asyncio.run(work())
    assert users(fake) == ["user-a", "user-bb", "user-ccc"]
    assert [call.body["hold_token"] for call in fake.of("start")] == [1, 2, 3]
    assert len(billed(fake)) == 3
    plain = with_token_process(
        lambda request: None, feature_endpoint_id="f", user_id=user_of, client=fake.client()
    )
    with pytest.raises(ConfigurationError, match="async def"):
        plain("a")
