"""OpenAI's chat, text completions, Responses, Assistants and transcriptions, and whoever copies them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tokentill.usage.model import get, text
from tokentill.usage.shapes.reading import NOTHING, Reading, reading_of

_RESPONSE_OVER = {"response.completed", "response.incomplete", "response.failed", "response.done"}
_DELTA = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")


def responses_event(value: Any) -> Reading | None:
    """A stream event of Responses; `response.created` has the id, only the last one the usage."""
    kind = text(get(value, "type"))
    if kind is None or not kind.startswith("response."):
        return None
    response = get(value, "response")
    piece = kind.endswith(".delta") and "audio" not in kind and bool(get(value, "delta"))
    report = get(response, "usage")
    reading = reading_of(
        report,
        model=get(response, "model"),
        answer_id=get(response, "id"),
        final=True if kind in _RESPONSE_OVER else None,
        pieces=int(piece),
    )
    return replace(reading, broken=True) if kind == "response.failed" and report is None else reading


def chunk(value: Any) -> Reading | None:
    """A chunk of a chat or text completion. The usage comes last, in a chunk without choices."""
    choices = get(value, "choices")
    if not isinstance(choices, list):
        return None
    pieces = sum(1 for choice in choices if _piece(choice))
    streamed = text(get(value, "object")) == "chat.completion.chunk" or any(
        get(choice, "delta") is not None for choice in choices
    )
    if not streamed and choices:
        return None
    report = get(value, "usage") or get(get(value, "x_groq"), "usage")
    stopped = any(get(choice, "finish_reason") for choice in choices)
    final = True if not choices and report is not None else None if stopped else False
    return reading_of(
        report,
        model=get(value, "model"),
        answer_id=get(value, "id"),
        final=final,
        pieces=pieces,
        stopped=stopped,
    )


def _piece(choice: Any) -> bool:
    delta = get(choice, "delta")
    return any(get(delta, name) for name in _DELTA)


def answer(value: Any) -> Reading | None:
    """A whole answer; it says so itself."""
    kind = text(get(value, "object"))
    if kind not in {"chat.completion", "text_completion", "response"}:
        return None
    over, pieces = True, 0
    if kind == "text_completion":
        # Looks the same in pieces: there only the last has its reason to finish.
        choices = get(value, "choices") or []
        over = any(get(choice, "finish_reason") for choice in choices)
        pieces = 0 if over else sum(1 for choice in choices if get(choice, "text"))
    return reading_of(
        get(value, "usage"),
        model=get(value, "model"),
        answer_id=get(value, "id"),
        final=over or None,
        pieces=pieces,
    )


def assistants_run(value: Any) -> Reading | None:
    """A run of an assistant, which has the usage of all its steps; these repeat it piece by piece."""
    kind = text(get(value, "object"))
    if kind == "thread.run.step":
        return NOTHING
    if kind != "thread.run":
        return None
    report = get(value, "usage")
    about = {"model": get(value, "model"), "answer_id": get(value, "id")}
    return reading_of(report, final=True if report is not None else None, **about)


def transcription_event(value: Any) -> Reading | None:
    """A stream event of a transcription; only the last one has the usage."""
    kind = text(get(value, "type"))
    if kind == "transcript.text.delta":
        return reading_of(None, pieces=int(bool(get(value, "delta"))))
    return reading_of(get(value, "usage"), final=True) if kind == "transcript.text.done" else None


def stream_helper(value: Any) -> Reading | None:
    """What `chat.completions.stream()` gives: it keeps the answer so far."""
    completion = get(value, "current_completion_snapshot")
    if completion is None:
        return None
    report = get(completion, "usage")
    about: dict[str, Any] = {"model": get(completion, "model"), "answer_id": get(completion, "id")}
    return reading_of(report, final=True if report is not None else None, **about)
