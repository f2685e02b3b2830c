"""Generators whose chunks say nothing of usage: what their providers' streams say is billed, or else told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest
from google import genai

from tests.providers.billing import Billing
from tests.providers.mock import PIECES
from tokentill import UsageMissingError, count_deltas, current_run

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
ASK: dict[str, Any] = {"model": "claude-mock", "max_tokens": 99, "messages": MESSAGES}
WHOLE = {"input_token": 100, "output_token": 40, "cached_input_token": 60, "cache_write_token": 10}
TWICE = {name: count * 2 for name, count in WHOLE.items()} | {"requests": 2}


@pytest.fixture
def claude(provider: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=provider, api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(provider: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{provider}/v1", api_key="k", max_retries=0) as client:
        yield client


def texts(client: Any) -> Iterator[str]:
    with client.messages.stream(**ASK) as stream:
        yield from stream.text_stream


def objects(client: Any) -> Iterator[dict[str, str]]:
    for text in texts(client):
        yield {"text": text}


def mapped(client: Any) -> Iterator[str]:
    return map(str.upper, texts(client))


@pytest.mark.parametrize("feature", [objects, mapped])
def test_the_helper_behind_objects_and_in_an_inner_generator(
    claude: Any, billing: Billing, feature: Callable[[Any], Iterator[Any]]
) -> None:
    assert len(list(billing.wrap(feature)(claude))) == PIECES
    assert billing.billed() == WHOLE
    left = Billing()
    stream = left.wrap(feature)(claude)
    for _ in range(3):
        next(stream)
    stream.close()
    assert left.billed() == {**WHOLE, "output_token": 3}


def test_a_second_stream_left_early_is_billed_for_its_own_pieces(claude: Any, billing: Billing) -> None:
    def both() -> Iterator[Any]:
        yield from objects(claude)
        yield from texts(claude)

    stream = billing.wrap(both)()
    for _ in range(PIECES + 3):
        next(stream)
    stream.close()
    assert billing.billed() == {**TWICE, "output_token": 43}


def test_the_helpers_own_events_left_early(claude: Any, billing: Billing) -> None:
    def events() -> Iterator[Any]:
        with claude.messages.stream(**ASK) as stream:
            yield from (event for event in stream if event.type == "text")

    stream = billing.wrap(events)()
    for _ in range(3):
        next(stream)
    stream.close()
    assert billing.billed() == {**WHOLE, "output_token": 3}


def test_what_an_extractor_counts_is_not_added_to_the_helpers_answer(claude: Any, billing: Billing) -> None:
    def count(text: str) -> dict[str, int]:
        return {"output_token": len(text)}

    list(billing.wrap(texts, usage=count)(claude))
    assert billing.billed() == {"input_token": 0, "output_token": PIECES}
    pieces = Billing()
    list(pieces.wrap(texts, usage=count_deltas)(claude))
    assert pieces.billed() == WHOLE


def test_asyncio(provider: str, billing: Billing) -> None:
    async def work() -> None:
        async with anthropic.AsyncAnthropic(base_url=provider, api_key="k") as client:

            async def inner() -> AsyncIterator[str]:
                async with client.messages.stream(**ASK) as stream:
                    async for text in stream.text_stream:
                        yield text

            async def outer() -> AsyncIterator[dict[str, str]]:
                async for text in inner():
                    yield {"text": text}

            assert len([chunk async for chunk in billing.wrap_async(outer)()]) == PIECES

    asyncio.run(work())
    assert billing.billed() == WHOLE


def of_openai(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        for chunk in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            yield {"text": chunk.choices[0].delta.content}


def of_gemini(url: str) -> Iterator[Any]:
    client = genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=url))
    for chunk in client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi"):
        yield {"text": chunk.text}
    client.close()


def of_ollama(url: str) -> Iterator[Any]:
    client = ollama.Client(host=url)
    for chunk in client.chat(model="llama", messages=MESSAGES, stream=True):
        yield {"text": chunk.message.content}
    client._client.close()


@pytest.mark.parametrize("feature", [of_openai, of_gemini, of_ollama])
def test_a_stream_that_nothing_can_be_read_of_is_told(provider: str, billing: Billing, feature: Any) -> None:
    assert len(list(billing.wrap(feature)(provider))) >= PIECES
    assert billing.ends() == {}
    [(error, end)] = billing.errors
    assert isinstance(error, UsageMissingError)
    assert feature.__name__.removeprefix("of_") in str(end["seen"]) or "generator" in str(end["seen"])


def test_a_stream_that_is_read_by_hand_is_not_told(gpt: Any, billing: Billing) -> None:
    def feature() -> Iterator[Any]:
        for chunk in gpt.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        ):
            run = current_run()
            assert run is not None
            run.read(chunk)
            yield {"text": "x"}

    list(billing.wrap(feature)())
    assert billing.billed()["output_token"] == 40
    free = Billing()
    list(free.wrap(of_openai, free=True)(str(gpt.base_url).removesuffix("/v1/")))
    assert free.billed() == {}


def test_streams_that_the_caller_reads_by_itself_are_told(gpt: Any, billing: Billing) -> None:
    class WebResponse:
        def __init__(self, body: Any) -> None:
            self.body_iterator = body

    create = gpt.chat.completions.create
    ask: dict[str, Any] = {"model": "m", "messages": MESSAGES, "stream": True}
    raw = gpt.chat.completions.with_streaming_response
    for result in (
        lambda: ("text", create(**ask)),
        lambda: {"chunks": create(**ask)},
        lambda: WebResponse(text for text in "ab"),
        lambda: raw.create(model="m", messages=MESSAGES),
        lambda: {"ResponseMetadata": {}, "stream": (text for text in "ab")},
    ):
        told = Billing()
        told.wrap(result)()
        [(error, end)] = told.errors
        assert isinstance(error, UsageMissingError)
        assert end["seen"][0]["usage"], "what it was"
        assert told.ends() == {}


def test_a_plain_stream_out_of_an_asynchronous_function_is_told(gpt: Any, billing: Billing) -> None:
    async def feature() -> Any:
        return gpt.chat.completions.create(model="m", messages=MESSAGES, stream=True)

    async def work() -> None:
        with await billing.wrap_async(feature)():
            pass

    asyncio.run(work())
    assert [type(error) for error, _ in billing.errors] == [UsageMissingError]


def test_a_stream_of_bedrocks_is_read_as_it_passes_by(billing: Billing) -> None:
    class EventStream:
        """As botocore has it: to be iterated, and no iterator."""

        closed = False

        def __iter__(self) -> Iterator[Any]:
            yield {"contentBlockDelta": {"delta": {"text": "x"}}}
            yield {"metadata": {"usage": {"inputTokens": 100, "outputTokens": 40, "totalTokens": 140}}}

        def close(self) -> None:
            self.closed = True

    source = EventStream()
    assert len(list(billing.wrap(lambda: source)())) == 2
    assert billing.billed() == {"input_token": 100, "output_token": 40}
    assert source.closed
    told = Billing()
    told.wrap(lambda: {"ResponseMetadata": {}, "stream": source})()
    assert [type(error) for error, _ in told.errors] == [UsageMissingError]
