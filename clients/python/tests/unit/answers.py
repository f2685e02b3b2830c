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

# Of Gemini's interactions: 100 in, 60 of them cached, and 40 out, 30 of them thoughts.
INTERACTION_USAGE = {
    "total_input_tokens": 95,
    "total_tool_use_tokens": 5,
    "total_cached_tokens": 60,
    "total_output_tokens": 10,
    "total_thought_tokens": 30,
    "total_tokens": 140,
}
