"""Anthropic's Messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tokentill.usage.model import Usage, get, text
from tokentill.usage.shapes.reading import Reading, reading_of

_EVENTS = {
    "message_start",
    "message_delta",
    "message_stop",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
}


def event(value: Any) -> Reading | None:
    """A stream event; `message_start` counts the input, and hardly any output."""
    kind = text(get(value, "type"))
    if kind not in _EVENTS:
        return None
    whole = get(value, "message")
    if kind == "message_start":
        return _message(whole, final=False)
    if kind == "message_stop":
        return _message(whole, final=True) if whole is not None else Reading(Usage(kind="total"))
    if kind == "message_delta":
        # Some who copy Anthropic repeat the input here without its cached part, or as 0.
        return replace(reading_of(get(value, "usage")), input_at_least=True)
    delta = get(value, "delta")
    piece = get(delta, "text", "thinking", "partial_json") if delta is not None else None
    return reading_of(None, pieces=int(bool(piece)))


def message(value: Any) -> Reading | None:
    """A whole message."""
    if text(get(value, "type")) != "message" or text(get(value, "role")) != "assistant":
        return None
    return _message(value, final=True)


def stream_helper(value: Any) -> Reading | None:
    """What `messages.stream()` gives: it keeps the message so far."""
    snapshot = get(value, "current_message_snapshot")
    return None if snapshot is None else _message(snapshot, final=get(snapshot, "stop_reason") is not None)


def _message(value: Any, *, final: bool) -> Reading:
    return reading_of(get(value, "usage"), model=get(value, "model"), answer_id=get(value, "id"), final=final)
