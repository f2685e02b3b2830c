"""The real `anthropic` package against a mock of its API."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest

from tests.providers.billing import Billing
from tests.providers.mock import PIECES

ASK: dict[str, Any] = {
    "model": "claude-mock",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "Hi"}],
}
WHOLE = {"input_token": 100, "output_token": 40, "cached_input_token": 60, "cache_write_token": 10}
LEFT = {**WHOLE, "output_token": 3}


@pytest.fixture
def client(provider: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=provider, api_key="k", max_retries=0) as client:
        yield client


def test_a_message(client: Any, billing: Billing) -> None:
    billing.wrap(lambda: client.messages.create(**ASK))()
    assert billing.billed() == WHOLE
    assert billing.fake.of("end")[0].body["model"] == ASK["model"]


def test_a_raw_response(client: Any, billing: Billing) -> None:
    answer = billing.wrap(lambda: client.messages.with_raw_response.create(**ASK))()
    assert answer.parse().content[0].text == "Hello."
    assert billing.billed() == WHOLE


def test_a_stream_of_events(client: Any, billing: Billing) -> None:
    list(billing.wrap(lambda: client.messages.create(**ASK, stream=True))())
    assert billing.billed() == WHOLE


def test_a_stream_of_events_left_early(client: Any, billing: Billing) -> None:
    events = billing.wrap(lambda: client.messages.create(**ASK, stream=True))()
    pieces = 0
    for event in events:
        pieces += event.type == "content_block_delta"
        if pieces == 3:
            break
    events.close()
    assert billing.billed() == LEFT


def test_two_streams_of_events_in_a_loop(client: Any, billing: Billing) -> None:
    def loop() -> Iterator[Any]:
        yield from client.messages.create(**ASK, stream=True)
        yield from client.messages.create(**ASK, stream=True)

    list(billing.wrap(loop)())
    assert billing.billed() == {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


def test_two_streams_of_events_at_the_same_time(client: Any, billing: Billing) -> None:
    with billing.fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        one, two = (run.stream(client.messages.create(**ASK, stream=True)) for _ in range(2))
        for _ in itertools.zip_longest(one, two):
            pass
    assert billing.billed() == {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


def test_events_that_generators_read_by_hand_at_the_same_time(client: Any, billing: Billing) -> None:
    def words(run: Any) -> Iterator[str]:
        for event in client.messages.create(**ASK, stream=True):
            run.read(event)
            yield event.type

    with billing.fake.client().run(user_id="u", feature_endpoint_id="f") as run:
        for _ in itertools.zip_longest(run.stream(words(run)), run.stream(words(run))):
            pass
    assert billing.billed() == {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


def test_the_stream_helper(client: Any, billing: Billing) -> None:
    def events() -> Iterator[Any]:
        with client.messages.stream(**ASK) as stream:
            yield from stream

    list(billing.wrap(events)())
    assert billing.billed() == WHOLE


def test_the_results_of_a_batch(client: Any, billing: Billing) -> None:
    list(billing.wrap(lambda: client.messages.batches.results("batch_1"))())
    assert billing.billed() == {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


def texts(client: Any) -> Iterator[str]:
    with client.messages.stream(**ASK) as stream:
        for text in stream.text_stream:
            yield text.upper()


def test_a_generator_over_the_text_stream(client: Any, billing: Billing) -> None:
    assert "".join(billing.wrap(texts)(client)) == "X" * PIECES
    assert billing.billed() == WHOLE


def test_a_generator_over_the_text_stream_left_early(client: Any, billing: Billing) -> None:
    stream = billing.wrap(texts)(client)
    for _ in range(3):
        next(stream)
    stream.close()
    assert billing.billed() == LEFT


def test_two_text_streams_in_a_generator_that_delegates(client: Any, billing: Billing) -> None:
    def both() -> Iterator[str]:
        yield from texts(client)
        yield from texts(client)

    list(billing.wrap(both)())
    assert billing.billed() == {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


def test_a_text_stream_handed_out(client: Any, billing: Billing) -> None:
    with client.messages.stream(**ASK) as stream:
        assert len(list(billing.wrap(lambda: stream.text_stream)())) == PIECES
    assert billing.billed() == WHOLE


def test_the_final_message_of_a_helper(client: Any, billing: Billing) -> None:
    def final() -> Any:
        with client.messages.stream(**ASK) as stream:
            return stream.get_final_message()

    billing.wrap(final)()
    assert billing.billed() == WHOLE


def test_asyncio(provider: str, billing: Billing) -> None:
    async def work(left_early: Billing) -> None:
        async with anthropic.AsyncAnthropic(base_url=provider, api_key="k") as client:

            async def texts() -> AsyncIterator[str]:
                async with client.messages.stream(**ASK) as stream:
                    async for text in stream.text_stream:
                        yield text

            assert len([text async for text in billing.wrap_async(texts)()]) == PIECES
            stream = left_early.wrap_async(texts)()
            for _ in range(3):
                await anext(stream)
            await stream.aclose()

    left_early = Billing()
    asyncio.run(work(left_early))
    assert billing.billed() == WHOLE
    assert left_early.billed() == LEFT
