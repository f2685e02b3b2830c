"""What becomes of usage in a run: what is billed, what is told to whom, and when it is raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.unit.fake import Fake
from tokentill import (
    UsageError,
    UsageMissingError,
    UsageUnreadableError,
    ValidationError,
    with_token_process,
)

NAN = {"usage": {"prompt_tokens": float("nan"), "completion_tokens": 40}}
WITHOUT: dict[str, Any] = {"id": "c-1", "object": "chat.completion", "model": "gpt", "usage": None}


def completion(answer_id: str, prompt: int = 100, output: int = 40) -> dict[str, Any]:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    return {"id": answer_id, "object": "chat.completion", "model": "gpt", "usage": usage}


class Told(list[tuple[Exception, dict[str, Any]]]):
    def __call__(self, error: Exception, end: dict[str, Any]) -> None:
        self.append((error, end))


def wrap(fake: Fake, function: Any, **options: Any) -> Any:
    client = fake.client()
    return with_token_process(function, feature_endpoint_id="f", user_id="u", client=client, **options)


def billed(fake: Fake) -> list[dict[str, Any]]:
    left_out = {"user_id", "feature_endpoint_id", "process_id"}
    return [
        {name: value for name, value in call.body.items() if name not in left_out} for call in fake.of("end")
    ]


def test_three_reads_of_a_run_are_three_answers() -> None:
    fake = Fake()
    with fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        for answer_id in ("c-1", "c-2", "c-3"):
            run.read(completion(answer_id))
    assert billed(fake) == [
        {
            "input_token": 300,
            "output_token": 120,
            "cached_input_token": 180,
            "reasoning_token": 90,
            "requests": 3,
            "model": "gpt",
        }
    ]


def test_a_run_adds_what_is_used_beside_and_tells_nameless_chunks_apart() -> None:
    fake = Fake()
    with fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        run.use(input_token=5, cached_input_token=4, model="embed")
        run.read(completion("c-1"))
        run.next_answer()
        run.read({"usage": {"input_tokens": 1, "output_tokens": 2}})
    [end] = billed(fake)
    assert (end["input_token"], end["output_token"], end["cached_input_token"]) == (106, 42, 64)
    with pytest.raises(ValidationError):
        run.use(output_token=-1)


def test_kinds_that_are_not_used_stay_off_the_wire() -> None:
    fake = Fake()
    wrap(fake, lambda: {"input_token": 1, "output_token": 2})()
    assert billed(fake) == [{"input_token": 1, "output_token": 2}]


def test_the_direct_call_takes_the_kinds_too() -> None:
    fake = Fake()
    kinds = {"cached_input_token": 2, "cache_write_token": 1, "reasoning_token": 3, "requests": 2}
    fake.client().end("u", "f", 9, 4, **kinds)  # type: ignore[arg-type]
    fake.client().end_batch([{"user_id": "u", "feature_endpoint_id": "f", "output_token": 4, **kinds}])
    assert billed(fake) == [{"input_token": 9, "output_token": 4, **kinds}]
    fake.client().end("u", "f", 9, 4, requests=1, cached_input_token=0)
    assert billed(fake)[1] == {"input_token": 9, "output_token": 4}, "nothing that says nothing"
    [end] = fake.of("end/batch")[0].body["ends"]
    assert {name: end[name] for name in kinds} == kinds


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (NAN, UsageUnreadableError),
        ({"usage": {"completion_tokens": "40"}}, UsageUnreadableError),
        ({"usage": {"seconds": 3}}, UsageUnreadableError),
        (
            {"usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 99}},
            UsageUnreadableError,
        ),
        (WITHOUT, UsageMissingError),
    ],
)
def test_no_run_is_free_in_silence(
    result: Any, kind: type[UsageError], caplog: pytest.LogCaptureFixture
) -> None:
    fake, told = Fake(), Told()
    assert wrap(fake, lambda: result, hold_token=9, on_end_error=told)() is result
    assert fake.paths() == ["start", "cancel"], "nothing to bill: its hold is given back"
    [(error, end)] = told
    assert isinstance(error, kind)
    assert end["seen"] == error.seen != []
    assert end["idempotency_key"] in caplog.text


def test_a_stream_without_usage_is_told_and_what_flowed_before_it_was_left_is_billed() -> None:
    chunk = {"id": "c-1", "choices": [{"delta": {"content": "x"}}]}
    fake, told = Fake(), Told()
    list(wrap(fake, lambda: iter([chunk] * 5), on_end_error=told)())
    [(error, end)] = told
    assert isinstance(error, UsageMissingError)
    assert end["seen"][0]["pieces"] == 5
    assert billed(fake) == []

    stream = wrap(fake, lambda: iter([chunk] * 5), on_end_error=told)()
    next(stream)
    next(stream)
    stream.close()
    assert billed(fake) == [{"input_token": 0, "output_token": 2}]
    assert len(told) == 1


def test_what_can_be_read_is_billed_and_the_rest_is_told() -> None:
    fake, told = Fake(), Told()
    wrap(fake, lambda: [completion("c-1"), NAN], on_end_error=told)()
    assert billed(fake)[0]["output_token"] == 40
    [(error, end)] = told
    assert isinstance(error, UsageUnreadableError)
    assert end["output_token"] == 40
    assert len(end["seen"]) == 1


@pytest.mark.parametrize(
    ("result", "kind"),
    [(WITHOUT, UsageMissingError), ({"data": 1}, UsageMissingError), (NAN, UsageUnreadableError)],
)
def test_required_usage_is_raised_once_the_feature_ran(result: Any, kind: type[UsageError]) -> None:
    fake, told = Fake(), Told()
    with pytest.raises(kind) as caught:
        wrap(fake, lambda: result, hold_token=9, require_usage=True, on_end_error=told)()
    assert caught.value.result is result
    assert fake.paths() == ["start", "cancel"]
    assert told == []
    wrap(fake, lambda: {"output_token": 0}, require_usage=True)()


def test_required_usage_of_streams_and_runs() -> None:
    fake, told = Fake(), Told()
    texts = wrap(fake, lambda: iter(["a", "b"]), require_usage=True)()
    assert [next(texts), next(texts)] == ["a", "b"]
    with pytest.raises(UsageMissingError):
        next(texts)
    left = wrap(fake, lambda: iter(["a", "b"]), require_usage=True, on_end_error=told)()
    next(left)
    left.close()
    assert [type(error) for error, _ in told] == [UsageMissingError], "nobody is there to raise it to"
    with (
        pytest.raises(UsageMissingError),
        fake.client().run(user_id="u", feature_endpoint_id="f", require_usage=True),
    ):
        pass
    with (
        pytest.raises(ZeroDivisionError),
        fake.client().run(user_id="u", feature_endpoint_id="f", require_usage=True),
    ):
        raise ZeroDivisionError


def test_required_usage_on_asyncio() -> None:
    fake = Fake()

    async def answer() -> Any:
        return WITHOUT

    async def texts() -> AsyncIterator[str]:
        yield "a"

    async def work() -> None:
        options: dict[str, Any] = {"feature_endpoint_id": "f", "user_id": "u", "require_usage": True}
        options["client"] = fake.async_client()
        with pytest.raises(UsageMissingError) as caught:
            await with_token_process(answer, **options)()
        assert caught.value.result is WITHOUT
        with pytest.raises(UsageMissingError):
            [text async for text in with_token_process(texts, **options)()]

    asyncio.run(work())


def test_a_feature_says_that_it_is_free() -> None:
    fake, told = Fake(), Told()

    def texts() -> Iterator[str]:
        yield "a"

    list(wrap(fake, texts, free=True, require_usage=True, on_end_error=told)())
    wrap(fake, lambda: completion("c-1"), free=True, hold_token=9, on_end_error=told)()
    with fake.client().run(user_id="u", feature_endpoint_id="f", require_usage=True) as run:
        run.read(NAN)
        run.free()
    assert fake.paths() == ["start", "start", "cancel", "start"]
    assert told == []


def test_what_was_seen_has_the_counts_and_never_the_text() -> None:
    told = Told()
    secret = {**completion("c-1"), "choices": [{"message": {"content": "secret"}}]}
    secret["usage"]["total_tokens"] = 7
    ollama = {"model": "llama", "message": {"content": "secret"}, "done": True, "eval_count": float("nan")}
    wrap(Fake(), lambda: [secret, ollama], on_end_error=told)()
    [(_, end)] = told
    assert end["seen"][0]["usage"]["prompt_tokens"] == 100
    assert "NaN" in end["seen"][1]["usage"]
    assert "secret" not in str(end)
