"""A stand-in for an AI model: it answers with the prompt's words, one token each, and needs no key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

SECONDS_A_TOKEN = 0.02


def count(text: str) -> int:
    return len(text.split())


def generate(prompt: str) -> str:
    return " ".join(f"{word}!" for word in prompt.split())


def generate_words(prompt: str) -> Iterator[str]:
    for word in generate(prompt).split():
        time.sleep(SECONDS_A_TOKEN)
        yield f"{word} "


async def chat(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The chunks of an OpenAI-compatible provider that was asked for its usage: text, then the totals."""
    prompt = " ".join(str(message.get("content", "")) for message in body.get("messages", []))
    answer = generate(prompt).split()
    common = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "echo",
    }
    for word in answer:
        await asyncio.sleep(SECONDS_A_TOKEN)
        delta = {"role": "assistant", "content": f"{word} "}
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}
    yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
    usage = {
        "prompt_tokens": count(prompt),
        "completion_tokens": len(answer),
        "total_tokens": count(prompt) + len(answer),
    }
    yield {**common, "choices": [], "usage": usage}
