"""Anthropic: a stream that is left early closes its provider's stream at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.providers.billing import Billing
from tests.providers.slow import SlowProvider

ASK: Any = [{"role": "user", "content": "?"}]


@pytest.fixture
def claude(slow: SlowProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=slow.url, api_key="k", max_retries=0) as client:
        yield client


def test_the_providers_own_stream(slow: SlowProvider, billing: Billing, claude: anthropic.Anthropic) -> None:
    def chat() -> Any:
        return claude.messages.create(model="m", max_tokens=9, messages=ASK, stream=True)

    with billing.wrap(chat)() as stream:
        assert isinstance(stream, anthropic.Stream)
        for _ in range(5):
            next(stream)
    assert slow.wait_for_hang_up() < 15
    assert billing.fake.paths() == ["start", "end"]


def test_a_generator_over_text_stream(
    slow: SlowProvider, billing: Billing, claude: anthropic.Anthropic
) -> None:
    def chat() -> Iterator[str]:
        with claude.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
            yield from stream.text_stream

    stream = billing.wrap(chat)()
    assert [next(stream) for _ in range(3)] == ["x", "x", "x"]
    stream.close()
    assert slow.wait_for_hang_up() < 13
    assert billing.ends()["input_token"] == 100


def test_anthropics_stream_manager(slow: SlowProvider, billing: Billing, claude: anthropic.Anthropic) -> None:
    def chat() -> Any:
        return claude.messages.stream(model="m", max_tokens=9, messages=ASK)

    with billing.wrap(chat)() as stream:
        assert isinstance(stream, anthropic.MessageStream)
        texts = stream.text_stream
        assert [next(texts) for _ in range(3)] == ["x", "x", "x"]
    assert slow.wait_for_hang_up() < 13
    assert billing.fake.paths() == ["start", "end"]
    assert billing.ends()["input_token"] == 100, "read past us, and counted all the same"


def test_asyncio_with_anthropics_stream_manager(slow: SlowProvider, billing: Billing) -> None:
    async def work() -> None:
        async with anthropic.AsyncAnthropic(base_url=slow.url, api_key="k", max_retries=0) as claude:

            async def chat() -> Any:
                return claude.messages.stream(model="m", max_tokens=9, messages=ASK)

            async with await billing.wrap_async(chat)() as stream:
                for _ in range(4):
                    await anext(stream)
            assert await asyncio.to_thread(slow.wait_for_hang_up) < 13

    asyncio.run(work())
    assert billing.ends()["input_token"] == 100
