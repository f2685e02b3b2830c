"""The wrapper's rules that need no money: what is called, in which order, and what the caller gets."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.fake import Fake, failure
from tests.unit.wrapping import LOW, BoomError, billed, wrap, wrap_async
from tokentill import (
    ConfigurationError,
    InsufficientTokensError,
    UnavailableError,
    Usage,
    with_token_process,
)


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


def _called(function: Any) -> Any:
    return function()


def test_a_plain_function_must_not_be_asynchronous_inside() -> None:
    async def inner() -> None:
        """Never awaited."""

    with pytest.raises(ConfigurationError, match="async def"):
        wrap(Fake(), functools.partial(_called, inner))()

    class AsyncMessageStreamManager:
        """As the anthropic package answers from `messages.stream()` of its asynchronous client."""

        async def __aenter__(self) -> None:
            """Never entered."""

    with pytest.raises(ConfigurationError, match="async def"):
        wrap(Fake(), AsyncMessageStreamManager)()


def test_the_client_must_fit_the_function() -> None:
    fake = Fake()

    async def asynchronous() -> None:
        """Never called."""

    with pytest.raises(ConfigurationError):
        wrap(fake, asynchronous)
    with pytest.raises(ConfigurationError):
        wrap(fake, lambda: None, client=fake.async_client())


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
