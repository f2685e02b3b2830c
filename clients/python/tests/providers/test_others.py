"""The real `google-genai`, `ollama` and `langchain-core` packages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google import genai
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from ollama import Client as OllamaClient

from tests.providers.billing import Billing
from tests.providers.mock import PIECES

GEMINI = {"input_token": 100, "output_token": 40, "cached_input_token": 60, "reasoning_token": 30}
OLLAMA = {"input_token": 100, "output_token": 40}
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def gemini(provider: str) -> Iterator[Any]:
    client = genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=provider))
    yield client
    client.close()


ASK: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "Hi"}


def test_gemini(gemini: Any, billing: Billing) -> None:
    billing.wrap(lambda: gemini.models.generate_content(**ASK))()
    assert billing.billed() == GEMINI
    assert billing.fake.of("end")[0].body["model"] == "gemini-2.5-flash"


def test_a_stream_of_gemini(gemini: Any, billing: Billing) -> None:
    assert len(list(billing.wrap(lambda: gemini.models.generate_content_stream(**ASK))())) == PIECES
    assert billing.billed() == GEMINI


def test_a_stream_of_gemini_left_early(gemini: Any, billing: Billing) -> None:
    stream = billing.wrap(lambda: gemini.models.generate_content_stream(**ASK))()
    for _ in range(3):
        next(stream)
    stream.close()
    assert billing.billed() == {"input_token": 100, "output_token": 3, "cached_input_token": 60}


def test_two_streams_of_gemini(gemini: Any, billing: Billing) -> None:
    def loop() -> Iterator[Any]:
        for _ in range(2):
            yield from gemini.models.generate_content_stream(**ASK)

    list(billing.wrap(loop)())
    assert billing.billed() == {name: count * 2 for name, count in GEMINI.items()} | {"requests": 2}


def test_embeddings_of_gemini(gemini: Any, billing: Billing) -> None:
    billing.wrap(lambda: gemini.models.embed_content(model="embed", contents="Hi"))()
    assert billing.billed() == {"input_token": 100, "output_token": 0}


INTERACTION: dict[str, Any] = {"model": "gemini-2.5-flash", "input": "Hi"}


def test_interactions_of_gemini(gemini: Any, billing: Billing) -> None:
    billing.wrap(lambda: gemini.interactions.create(**INTERACTION))()
    assert billing.billed() == GEMINI
    streamed = Billing()
    list(streamed.wrap(lambda: gemini.interactions.create(**INTERACTION, stream=True))())
    assert streamed.billed() == GEMINI


def test_an_interaction_of_gemini_left_early(gemini: Any, billing: Billing) -> None:
    events = billing.wrap(lambda: gemini.interactions.create(**INTERACTION, stream=True))()
    for _ in range(5):
        next(events)
    events.close()
    assert billing.billed() == {"input_token": 0, "output_token": 3}


@pytest.fixture
def ollama(provider: str) -> Iterator[Any]:
    client = OllamaClient(host=provider)
    yield client
    client._client.close()


def test_ollama(ollama: Any, billing: Billing) -> None:
    billing.wrap(lambda: ollama.chat(model="llama", messages=MESSAGES))()
    assert billing.billed() == OLLAMA
    assert billing.fake.of("end")[0].body["model"] == "llama"


def test_embeddings_of_ollama(ollama: Any, billing: Billing) -> None:
    billing.wrap(lambda: ollama.embed(model="embed", input="Hi"))()
    assert billing.billed() == {"input_token": 100, "output_token": 0}


def test_two_streams_of_ollama_without_ids(ollama: Any, billing: Billing) -> None:
    def loop() -> Iterator[Any]:
        for _ in range(2):
            yield from ollama.chat(model="llama", messages=MESSAGES, stream=True)

    list(billing.wrap(loop)())
    assert billing.billed() == {"input_token": 200, "output_token": 80, "requests": 2}


def test_a_second_stream_of_ollama_left_early(ollama: Any, billing: Billing) -> None:
    def loop() -> Iterator[Any]:
        for _ in range(2):
            yield from ollama.chat(model="llama", messages=MESSAGES, stream=True)

    stream = billing.wrap(loop)()
    for _ in range(PIECES + 1 + 3):
        next(stream)
    stream.close()
    assert billing.billed() == {"input_token": 100, "output_token": 43, "requests": 2}


def langchain(usage: list[int]) -> Any:
    """A chat model whose n-th chunk reports usage[n] output tokens, and the first the input, too."""

    def report(number: int, output: int) -> Any:
        read = 100 if number == 0 else 0
        return UsageMetadata(
            input_tokens=read,
            output_tokens=output,
            total_tokens=read + output,
            input_token_details={"cache_read": 60 if number == 0 else 0},
            output_token_details={"reasoning": 0},
        )

    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "mock"

        def _stream(self, *_: Any, **__: Any) -> Iterator[Any]:
            for number, output in enumerate(usage):
                chunk = AIMessageChunk(content="x", usage_metadata=report(number, output))
                yield ChatGenerationChunk(message=chunk)

        def _generate(self, *_: Any, **__: Any) -> Any:
            message = AIMessage(content="Hello.", usage_metadata=report(0, sum(usage)))
            return ChatResult(generations=[ChatGeneration(message=message)])

    return Model()


LANGCHAIN = {"input_token": 100, "output_token": 40, "cached_input_token": 60}


def test_forty_chunks_of_langchain_of_one_token(billing: Billing) -> None:
    model = langchain([1] * 40)
    assert len([chunk for chunk in billing.wrap(lambda: model.stream("Hi"))() if chunk.content]) == 40
    assert billing.billed() == LANGCHAIN


def test_a_stream_of_langchain_left_early(billing: Billing) -> None:
    stream = billing.wrap(lambda: langchain([1] * 40).stream("Hi"))()
    for _ in range(3):
        next(stream)
    stream.close()
    assert billing.billed() == {**LANGCHAIN, "output_token": 3}


def test_a_message_of_langchain_and_its_chunks_put_together(billing: Billing) -> None:
    billing.wrap(lambda: langchain([40]).invoke("Hi"))()
    assert billing.billed() == LANGCHAIN

    def together() -> Any:
        first, *more = list(langchain([1] * 40).stream("Hi"))
        for chunk in more:
            first += chunk
        return first

    summed = Billing()
    summed.wrap(together)()
    assert summed.billed() == LANGCHAIN


def test_pairs_of_a_chunk_and_what_it_is_about(billing: Billing) -> None:
    pairs = ((chunk, {"langgraph_node": "model"}) for chunk in langchain([1] * 40).stream("Hi"))
    list(billing.wrap(lambda: pairs)())
    assert billing.billed() == LANGCHAIN


def test_langchain_on_asyncio(billing: Billing) -> None:
    async def work() -> None:
        async def answers() -> Any:
            return langchain([1] * 40).astream("Hi")

        async for _ in await billing.wrap_async(answers)():
            pass

    asyncio.run(work())
    assert billing.billed() == LANGCHAIN


def test_events_of_langchain(billing: Billing) -> None:
    chain = RunnableLambda(lambda text: text) | langchain([1] * 40)

    async def events() -> AsyncIterator[Any]:
        async for event in chain.astream_events("Hi", version="v2"):
            yield event

    async def work() -> None:
        async for _ in billing.wrap_async(events)():
            pass

    asyncio.run(work())
    assert billing.billed() == LANGCHAIN


def test_events_of_langchain_left_early(billing: Billing) -> None:
    async def work() -> None:
        async def events() -> Any:
            return langchain([1] * 40).astream_events("Hi", version="v2")

        stream = await billing.wrap_async(events)()
        pieces = 0
        async for event in stream:
            pieces += event["event"] == "on_chat_model_stream"
            if pieces == 3:
                break
        await stream.aclose()

    asyncio.run(work())
    assert billing.billed() == {**LANGCHAIN, "output_token": 3}
