"""What providers answer, as plain data."""

from __future__ import annotations

from typing import Any


def chunk(
    text: str | None, usage: dict[str, Any] | None = None, answer_id: str | None = "c-1"
) -> dict[str, Any]:
    choices = [] if text is None else [{"delta": {"content": text}}]
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "model": "gpt",
        "choices": choices,
        "usage": usage,
    }


def openai(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **more,
    }


ANTHROPIC = {
    "id": "msg-1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "usage": {
        "input_tokens": 3,
        "output_tokens": 4,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 2},
    },
}
ANTHROPIC_COUNTS = {
    "input_token": 28,
    "output_token": 4,
    "cached_input_token": 20,
    "cache_write_token": 5,
    "reasoning_token": 2,
}
