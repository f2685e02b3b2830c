"""The real `openai` package, 1.x and newest alike, against a mock of its API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.providers.billing import Billing
from tests.providers.mock import PIECES
from tokentill import UsageMissingError, count_deltas, current_run

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
WHOLE = {"input_token": 100, "output_token": 40, "cached_input_token": 60, "reasoning_token": 30}
TWICE = {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}
WITH_USAGE: Any = {"include_usage": True}


@pytest.fixture
def client(provider: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{provider}/v1", api_key="k", max_retries=0) as client:
        yield client


def chat(client: Any, model: str = "gpt-4.1", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, **options)


def stream(client: Any, **options: Any) -> Any:
    return chat(client, stream=True, stream_options=WITH_USAGE, **options)


@pytest.mark.parametrize("model", ["gpt-4.1", "grok-4"])
def test_a_chat_completion(client: Any, billing: Billing, model: str) -> None:
    answer = billing.wrap(lambda: chat(client, model))()
    assert answer.choices[0].message.content == "Hello."
    assert billing.billed() == WHOLE
    assert billing.fake.of("end")[0].body["model"] == model


def test_a_raw_response(client: Any, billing: Billing) -> None:
    raw = client.chat.completions.with_raw_response
    answer = billing.wrap(lambda: raw.create(model="gpt-4.1", messages=MESSAGES))()
    assert answer.parse().choices[0].message.content == "Hello."
    assert billing.billed() == WHOLE


def test_several_completions_in_a_tuple_and_a_list(client: Any, billing: Billing) -> None:
    billing.wrap(lambda: ("text", chat(client), [chat(client)]))()
    assert billing.billed() == TWICE


class Greeting(BaseModel):
    text: str


def test_a_structured_answer_that_was_cut_off_is_paid_for(client: Any, billing: Billing) -> None:
    def feature() -> Any:
        try:
            return client.chat.completions.parse(
                model="gpt-4.1", messages=MESSAGES, max_tokens=40, response_format=Greeting
            )
        except openai.LengthFinishReasonError as error:
            raise RuntimeError("too long") from error

    with pytest.raises(RuntimeError):
        billing.wrap(feature)()
    assert billing.billed() == WHOLE
    block = Billing()
    with pytest.raises(RuntimeError), block.fake.client().run(user_id="u", feature_endpoint_id="f"):
        feature()
    assert block.billed() == WHOLE


def test_a_structured_answer_that_was_cut_off_on_asyncio(provider: str, billing: Billing) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{provider}/v1", api_key="k") as client:

            async def feature() -> Any:
                return await client.chat.completions.parse(
                    model="gpt-4.1", messages=MESSAGES, max_tokens=40, response_format=Greeting
                )

            with pytest.raises(openai.LengthFinishReasonError):
                await billing.wrap_async(feature)()

    asyncio.run(work())
    assert billing.billed() == WHOLE


def test_embeddings(client: Any, billing: Billing) -> None:
    billing.wrap(lambda: client.embeddings.create(model="embed", input="Hi"))()
    assert billing.billed() == {"input_token": 100, "output_token": 0}


def test_a_stream(client: Any, billing: Billing) -> None:
    assert len(list(billing.wrap(lambda: stream(client))())) == PIECES + 3
    assert billing.billed() == WHOLE


def test_a_tool_loop_that_streams_two_completions(client: Any, billing: Billing) -> None:
    def loop() -> Iterator[Any]:
        yield from stream(client)
        yield from stream(client)

    list(billing.wrap(loop)())
    assert billing.billed() == TWICE


def test_a_stream_left_early(client: Any, billing: Billing) -> None:
    chunks = billing.wrap(lambda: stream(client))()
    for _ in range(4):
        next(chunks)
    chunks.close()
    assert billing.billed() == {"input_token": 0, "output_token": 3}, "the first chunk has the role only"


def test_a_stream_without_usage(client: Any, billing: Billing) -> None:
    list(billing.wrap(lambda: chat(client, stream=True))())
    assert billing.ends() == {}
    [(error, end)] = billing.errors
    assert isinstance(error, UsageMissingError)
    assert end["seen"][0]["pieces"] == PIECES
    counted = Billing()
    list(counted.wrap(lambda: chat(client, stream=True), usage=count_deltas)())
    assert counted.billed() == {"input_token": 0, "output_token": PIECES}


def test_a_raw_stream_out_of_our_sight(client: Any, billing: Billing) -> None:
    raw = client.chat.completions.with_raw_response
    answer = billing.wrap(lambda: raw.create(model="m", messages=MESSAGES, stream=True))()
    answer.parse().close()
    [(error, _)] = billing.errors
    assert isinstance(error, UsageMissingError)


def _helper(client: Any) -> Any:
    completions = client.chat.completions
    # 1.x had it among what was new.
    at = completions if hasattr(completions, "stream") else client.beta.chat.completions
    return at.stream(model="gpt-4.1", messages=MESSAGES, stream_options=WITH_USAGE)


def test_the_chat_stream_helper(client: Any, billing: Billing) -> None:
    def events() -> Iterator[Any]:
        with _helper(client) as stream:
            yield from stream

    list(billing.wrap(events)())
    assert billing.billed() == WHOLE


def test_text_out_of_the_chat_stream_helper(client: Any, billing: Billing) -> None:
    def texts() -> Iterator[str]:
        with _helper(client) as stream:
            for event in stream:
                if event.type == "content.delta":
                    yield event.delta

    assert "".join(billing.wrap(texts)()) == "x" * PIECES
    assert billing.billed() == WHOLE


def test_text_whose_chunks_are_read_by_hand(client: Any, billing: Billing) -> None:
    def texts() -> Iterator[str]:
        for chunk in stream(client):
            run = current_run()
            assert run is not None
            run.read(chunk)
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""

    assert "".join(billing.wrap(texts)()) == "x" * PIECES
    assert billing.billed() == WHOLE


def test_text_whose_chunks_are_read_by_hand_left_early(client: Any, billing: Billing) -> None:
    def texts() -> Iterator[str]:
        for chunk in stream(client):
            run = current_run()
            assert run is not None
            run.read(chunk)
            yield chunk.choices[0].delta.content or ""

    answer = billing.wrap(texts)()
    for _ in range(4):
        next(answer)
    answer.close()
    assert billing.billed() == {"input_token": 0, "output_token": 3}


def test_a_response(client: Any, billing: Billing) -> None:
    billing.wrap(lambda: client.responses.create(model="gpt-4.1", input="Hi"))()
    assert billing.billed() == WHOLE


def test_a_streamed_response(client: Any, billing: Billing) -> None:
    list(billing.wrap(lambda: client.responses.create(model="gpt-4.1", input="Hi", stream=True))())
    assert billing.billed() == WHOLE


def test_a_streamed_response_left_early(client: Any, billing: Billing) -> None:
    events = billing.wrap(lambda: client.responses.create(model="gpt-4.1", input="Hi", stream=True))()
    for event in events:
        if event.type == "response.output_text.delta" and event.sequence_number == 6:
            break
    events.close()
    assert billing.billed() == {"input_token": 0, "output_token": 3}


def test_asyncio(provider: str, billing: Billing) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{provider}/v1", api_key="k") as client:

            async def loop() -> AsyncIterator[Any]:
                async for chunk in await stream(client):
                    yield chunk
                async for chunk in await stream(client):
                    yield chunk

            async for _ in billing.wrap_async(loop)():
                pass

    asyncio.run(work())
    assert billing.billed() == TWICE


def test_asyncio_text_out_of_the_chat_stream_helper(provider: str, billing: Billing) -> None:
    async def work() -> None:
        async with openai.AsyncOpenAI(base_url=f"{provider}/v1", api_key="k") as client:

            async def texts() -> AsyncIterator[str]:
                async with _helper(client) as stream:
                    async for event in stream:
                        if event.type == "content.delta":
                            yield event.delta

            async for _ in billing.wrap_async(texts)():
                pass

    asyncio.run(work())
    assert billing.billed() == WHOLE
