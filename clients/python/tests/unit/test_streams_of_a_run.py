"""Streams that a function or a block reads within its run, or hands on: all are billed, each chunk once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.unit import wrapping
from tests.unit.fake import Fake
from tokentill import AsyncRun, Run, count_deltas, current_run


def four_of_five() -> Iterator[dict[str, int]]:
    for _ in range(5):
        yield {"output_token": 4}


async def async_four_of_five() -> AsyncIterator[dict[str, int]]:
    for chunk in four_of_five():
        yield chunk


def wrap(fake: Fake, **options: Any) -> Callable[[Any], Any]:
    return lambda function: wrapping.wrap(fake, function, **options)


def wrap_async(fake: Fake, **options: Any) -> Callable[[Any], Any]:
    return lambda function: wrapping.wrap_async(fake, function, **options)


def billed(fake: Fake) -> list[int]:
    return [end.body["output_token"] for end in fake.of("end")]


def here() -> Run:
    run = current_run()
    assert isinstance(run, Run)
    return run


def async_here() -> AsyncRun:
    run = current_run()
    assert isinstance(run, AsyncRun)
    return run


def test_a_stream_of_the_run_inside_its_function_counts_once() -> None:
    fake = Fake()

    @wrap(fake)
    def returned() -> Any:
        return here().stream(four_of_five())

    @wrap(fake)
    def passed_on() -> Iterator[Any]:
        yield from here().stream(four_of_five())

    @wrap(fake, usage=count_deltas)
    def as_text() -> Iterator[str]:
        for chunk in here().stream(four_of_five()):
            yield f"{chunk}"

    for function in (returned, passed_on, as_text):
        assert len(list(function())) == 5
    assert billed(fake) == [20] * 3
    assert fake.paths() == ["start", "end"] * 3

    @wrap_async(fake)
    async def async_returned() -> Any:
        return async_here().stream(async_four_of_five())

    @wrap_async(fake)
    async def async_passed_on() -> AsyncIterator[Any]:
        async for chunk in async_here().stream(async_four_of_five()):
            yield chunk

    async def work() -> None:
        assert len([chunk async for chunk in await async_returned()]) == 5
        assert len([chunk async for chunk in async_passed_on()]) == 5

    asyncio.run(work())
    assert billed(fake) == [20] * 5


def test_every_stream_of_a_run_is_billed_and_once() -> None:
    """Say a loop of tools, with a stream for each turn."""
    fake = Fake()

    @wrap(fake)
    def agent() -> str:
        for _ in range(3):
            list(here().stream(four_of_five()))
            assert "end" not in fake.paths()
        return "done"

    agent()
    with fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        list(run.stream(four_of_five()))
        list(run.stream(four_of_five()))
    assert billed(fake) == [60, 40]

    @wrap_async(fake)
    async def async_agent() -> str:
        async def turn() -> None:
            async for _ in async_here().stream(async_four_of_five()):
                await asyncio.sleep(0)

        await asyncio.gather(turn(), turn())
        await turn()
        return "done"

    async def work() -> None:
        await async_agent()
        async with fake.async_client().run(user_id="u", feature_endpoint_id="f") as run:
            for _ in range(2):
                async for _ in run.stream(async_four_of_five()):
                    pass

    asyncio.run(work())
    assert billed(fake) == [60, 40, 60, 40]


def test_a_run_waits_for_the_stream_that_its_function_handed_on() -> None:
    fake = Fake()

    @wrap(fake)
    def response() -> dict[str, Any]:
        body = here().stream(four_of_five())
        return {"first": next(body), "body": body}

    answer = response()
    assert fake.paths() == ["start"]
    assert len(list(answer["body"])) == 4
    assert billed(fake) == [20]
    with fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        unread = run.stream(four_of_five())
        begun = run.stream(four_of_five())
        next(begun)
    assert list(begun) == [], "what a block has begun to read ends with it"
    assert billed(fake) == [20]
    list(unread)
    assert billed(fake) == [20, 24]


def test_a_failing_function_closes_its_streams_before_it_is_billed() -> None:
    fake = Fake()
    order: list[str] = []

    def source() -> Iterator[Any]:
        try:
            yield from four_of_five()
        finally:
            order.append(f"closed after {fake.paths()}")

    @wrap(fake)
    def fails(kept: list[Any]) -> None:
        kept.append(here().stream(source()))
        next(kept[0])
        raise KeyError

    with pytest.raises(KeyError):
        fails([])
    assert order == ["closed after ['start']"]
    assert billed(fake) == [4]


def test_a_stream_that_was_left_in_a_function_that_went_on() -> None:
    """What a provider would have reported at the end counts by its pieces, as in a stream of its own."""
    fake = Fake()
    piece = {
        "object": "chat.completion.chunk",
        "id": "c",
        "choices": [{"index": 0, "delta": {"content": "x"}}],
    }

    @wrap(fake)
    def first_words() -> str:
        for number, _ in enumerate(here().stream(iter([piece] * 10))):
            if number == 2:
                break
        return "enough"

    first_words()
    assert billed(fake) == [3]


def test_a_stream_inside_of_a_web_response_counts_itself() -> None:
    class WebResponse:
        def __init__(self, body: Any) -> None:
            self.body_iterator = body

    fake = Fake()
    told: list[Any] = []

    def feature() -> WebResponse:
        run = current_run()
        assert isinstance(run, Run)
        return WebResponse(run.stream(four_of_five()))

    response = wrap(fake, on_end_error=lambda *both: told.append(both))(feature)()
    assert fake.of("end") == []
    list(response.body_iterator)
    assert wrapping.billed(fake) == [(0, 20)]
    assert told == []


def test_a_stream_left_early_says_nothing_of_one_that_goes_on() -> None:
    fake = Fake()
    told: list[Any] = []

    def pieces(answer_id: str) -> list[dict[str, Any]]:
        return [{"id": answer_id, "choices": [{"delta": {"content": "x"}}]}] * 5

    options: dict[str, Any] = {"on_end_error": lambda *both: told.append(both)}
    with fake.client().run(user_id="u", feature_endpoint_id="f", **options) as run:
        whole, left = run.stream(iter(pieces("c-1"))), run.stream(iter(pieces("c-2")))
        next(whole)
        next(left)
        left.close()
        list(whole)
    assert wrapping.billed(fake) == [(0, 1)], "what flowed of the one that was left"
    [(_, end)] = told
    assert [seen["answer_id"] for seen in end["seen"]] == ["c-1"]


def test_what_the_feature_says_by_hand_may_be_about_its_stream_of_text() -> None:
    fake = Fake()
    told: list[Any] = []
    options: dict[str, Any] = {"on_end_error": lambda *both: told.append(both)}
    with fake.client().run(user_id="u", feature_endpoint_id="f", **options) as run:
        list(run.stream(iter("ab")))
        run.use(output_token=7)
    assert wrapping.billed(fake) == [(0, 7)]
    assert told == []
