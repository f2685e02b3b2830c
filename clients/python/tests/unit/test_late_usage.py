"""Usage that comes when its run is over: told, as nobody will bill it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.answers import openai
from tests.unit.fake import Fake, wait_until
from tokentill import UsageMissingError, current_run, with_token_process

ANSWER = {"id": "c-1", "object": "chat.completion", "model": "gpt", "usage": openai(100, 40)}


def run_of(fake: Fake, told: list[Any], **options: Any) -> Any:
    return fake.client().run(
        user_id="u", feature_endpoint_id="f", on_end_error=lambda *both: told.append(both), **options
    )


def test_what_comes_after_the_end_is_told_and_not_billed() -> None:
    fake = Fake()
    told: list[Any] = []
    with run_of(fake, told) as run:
        run.use(output_token=1)
    run.use(output_token=7)
    run.read(ANSWER)
    wait_until(lambda: len(told) == 2)
    assert [call.body["output_token"] for call in fake.of("end")] == [1]
    assert sorted(str(end["seen"]) for _, end in told) == [
        "[{'input_token': 100, 'output_token': 40}]",
        "[{'output_token': 7}]",
    ]
    for error, end in told:
        assert isinstance(error, UsageMissingError)
        assert end["output_token"] == 1, "the end that was billed"
        assert end["idempotency_key"] == run.idempotency_key
        assert error.repeat is not None
        getattr(fake.client(), error.operation or "")(**error.repeat)
    assert sorted(call.body["output_token"] for call in fake.of("end")) == [1, 7, 40]
    assert len({call.headers["Idempotency-Key"] for call in fake.of("end")}) == 3


def test_an_answer_that_is_read_again_after_the_end_is_no_news() -> None:
    fake = Fake()
    told: list[Any] = []
    with run_of(fake, told) as run:
        run.read(ANSWER)
    run.read(ANSWER)
    run.read({"data": 1})
    with run_of(fake, told, free=True) as free:
        pass
    free.use(output_token=7)
    run.use(output_token=1)
    wait_until(lambda: bool(told))
    assert [end["seen"] for _, end in told] == [[{"output_token": 1}]]


def test_an_answer_that_was_told_as_missing_is_not_told_as_late() -> None:
    fake = Fake()
    told: list[Any] = []
    with run_of(fake, told) as run:
        run.read({"id": "c-1", "choices": [{"delta": {"content": "x"}}]})
    run.read({"data": 1})
    run.use(output_token=1)
    wait_until(lambda: len(told) == 2)
    assert told[1][1]["seen"] == [{"output_token": 1}]


def test_a_task_that_outlives_its_function() -> None:
    fake, told = Fake(), []
    tasks: list[asyncio.Task[None]] = []

    async def feature() -> dict[str, Any]:
        async def later() -> None:
            await asyncio.sleep(0.01)
            run = current_run()
            assert run is not None
            run.use(output_token=9)

        tasks.append(asyncio.create_task(later()))
        return {"output_token": 1}

    async def work() -> None:
        await with_token_process(
            feature,
            feature_endpoint_id="f",
            user_id="u",
            client=fake.async_client(),
            on_end_error=lambda *both: told.append(both),
        )()
        await tasks[0]
        while not told:
            await asyncio.sleep(0.001)

    asyncio.run(work())
    assert [call.body["output_token"] for call in fake.of("end")] == [1]
    assert told[0][1]["seen"] == [{"output_token": 9}]


def test_a_stream_of_a_run_that_was_over_before_it_is_told() -> None:
    """Nothing else held the run open: it was over with its first stream."""
    fake = Fake()
    told: list[Any] = []
    run = run_of(fake, told)
    for count in (3, 5):
        list(run.stream([{"output_token": 1}] * count))
    wait_until(lambda: bool(told))
    assert [call.body["output_token"] for call in fake.of("end")] == [3]
    assert [end["seen"] for _, end in told] == [[{"output_token": 5}]]
