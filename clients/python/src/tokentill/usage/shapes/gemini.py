"""Gemini's answers, embeddings and interactions."""

from __future__ import annotations

from typing import Any

from tokentill.usage.model import get, text
from tokentill.usage.shapes.reading import Reading, reading_of


def answer(value: Any) -> Reading | None:
    """Answers and chunks look alike: each has the totals so far, the last a reason to finish."""
    candidates = get(value, "candidates")
    report = get(value, "usage_metadata", "usageMetadata")
    if report is None and not (isinstance(candidates, list) and get(value, "model_version", "modelVersion")):
        return None
    final = None
    pieces = 0
    if isinstance(candidates, list) and candidates:
        final = any(get(candidate, "finish_reason", "finishReason") is not None for candidate in candidates)
        pieces = sum(1 for candidate in candidates if get(get(candidate, "content"), "parts"))
    return reading_of(
        report,
        model=get(value, "model_version", "modelVersion"),
        answer_id=get(value, "response_id", "responseId"),
        final=final,
        pieces=pieces,
    )


def embeddings(value: Any) -> Reading | None:
    """Embeddings, which count each of their texts, or nothing at all."""
    vectors = get(value, "embeddings")
    if not isinstance(vectors, list) or not vectors or get(vectors[0], "values") is None:
        return None
    statistics = [get(vector, "statistics") for vector in vectors]
    counts = [get(each, "token_count", "tokenCount") for each in statistics]
    if any(count is None for count in counts):
        return reading_of(None, final=True)
    return reading_of({"input_tokens": sum(counts)}, final=True)


def interaction(value: Any) -> Reading | None:
    """An interaction, or an event of its stream, whose last one has the usage."""
    kind = text(get(value, "event_type"))
    whole = get(value, "interaction")
    if kind is None and text(get(value, "object")) == "interaction":
        whole = value
    elif kind is None or not kind.startswith(("interaction.", "step.")):
        return None
    delta = get(value, "delta")
    report = get(whole, "usage")
    return reading_of(
        report,
        model=get(whole, "model"),
        answer_id=get(whole, "id"),
        final=True if report is not None or kind in {None, "interaction.completed"} else None,
        pieces=int(bool(get(delta, "text", "arguments"))) if delta is not None else 0,
    )
