"""Ollama, Bedrock, Cohere, the AI SDK's JSON, LangChain's messages, and anything else that has a `usage`."""

from __future__ import annotations

from typing import Any

from tokentill.usage.model import get, record, text
from tokentill.usage.shapes.reading import NOTHING, Reading, reading_of


def langchain(value: Any) -> Reading | None:
    """A message of LangChain's. Its chunks are added up, also by LangChain itself."""
    kind = text(get(value, "type"))
    if kind not in {"ai", "AIMessage", "AIMessageChunk"}:
        return None
    about = get(value, "response_metadata")
    report = get(value, "usage_metadata") or get(about, "token_usage", "usage")
    is_chunk = kind == "AIMessageChunk"
    piece = is_chunk and bool(get(value, "content") or get(value, "tool_call_chunks"))
    return reading_of(
        report,
        model=get(about, "model_name", "model"),
        answer_id=get(value, "id"),
        kind="increment" if is_chunk else "total",
        final=None if is_chunk else True,
        pieces=int(piece),
    )


def ollama(value: Any) -> Reading | None:
    """Ollama's own API: no ids, and the counts in the chunk that says `done`."""
    # By themselves, as the text stands beside them.
    counts = {name: get(value, name) for name in ("prompt_eval_count", "eval_count")}
    counted = any(count is not None for count in counts.values())
    done = get(value, "done")
    message, piece = get(value, "message"), get(value, "response", "thinking")
    if not counted and not (isinstance(done, bool) and (message is not None or piece is not None)):
        return None
    said = piece or get(message, "content") or get(message, "thinking") or get(message, "tool_calls")
    return reading_of(
        counts if counted else None,
        model=get(value, "model"),
        # An embedding has counts and never says that it is done.
        final=bool(done) or (counted and done is None),
        pieces=int(bool(said) and not done),
    )


def bedrock_event(value: Any) -> Reading | None:
    """An event of Bedrock's ConverseStream, and the metrics at the end of InvokeModelWithResponseStream."""
    report = get(get(value, "metadata"), "usage") or get(value, "amazon-bedrock-invocationMetrics")
    if report is not None:
        return reading_of(report, final=True)
    if get(value, "contentBlockDelta") is None and get(value, "messageStart", "messageStop") is None:
        return None
    return reading_of(None, final=False, pieces=int(get(value, "contentBlockDelta") is not None))


def cohere_event(value: Any) -> Reading | None:
    """An event of Cohere's chat stream; the first has the id, the last the usage."""
    kind, delta = text(get(value, "type")), get(value, "delta")
    if kind == "message-start" and delta is not None:
        return reading_of(None, answer_id=get(value, "id"), final=False)
    if kind == "message-end" and delta is not None:
        return reading_of(get(delta, "usage"), answer_id=get(value, "id"), final=True)
    if kind in {"content-delta", "tool-plan-delta", "tool-call-delta"}:
        return reading_of(None, final=False, pieces=1)
    return None


def cohere_meta(value: Any) -> Reading | None:
    """Cohere's embeddings, and whatever else of it counts under `meta`."""
    units = get(get(value, "meta"), "billed_units")
    return None if units is None else reading_of(units, answer_id=get(value, "id"), final=True)


def vercel(value: Any) -> Reading | None:
    """What services on the AI SDK hand over as JSON: a result's `totalUsage`, or a full stream's steps."""
    kind, total = text(get(value, "type")), get(value, "totalUsage")
    response = get(value, "response")
    about: dict[str, Any] = {"model": get(response, "modelId"), "answer_id": get(response, "id")}
    if kind in {"finish-step", "step-finish"}:
        return reading_of(get(value, "usage"), final=True, **about)
    if kind == "finish" and total is not None:
        # The sum of the steps, which were counted one by one.
        return NOTHING
    if kind in {"text-delta", "reasoning-delta"}:
        return reading_of(None, final=False, pieces=1)
    return reading_of(total, final=True, **about) if total is not None else None


def usage_somewhere(value: Any) -> Reading | None:
    """Anything else with a `usage`, on itself or on the message or response that it is about."""
    for holder in (value, get(value, "message"), get(value, "response")):
        report = get(holder, "usage") if record(holder) else None
        if report is not None:
            report = _embedding_usage(value, report)
            model = get(value, "model", "modelId") or get(holder, "model", "modelId")
            answer_id = get(holder, "id") or get(get(value, "ResponseMetadata"), "RequestId")
            return reading_of(report, model=model, answer_id=answer_id)
    return None


def _embedding_usage(value: Any, report: Any) -> Any:
    """Voyage and Jina report the total of an embedding only, which is all input."""
    total = get(report, "total_tokens") if record(report) else None
    if total is None or get(report, "prompt_tokens", "input_tokens") is not None:
        return report
    vectors = get(value, "data")
    is_embedding = isinstance(vectors, list) and bool(vectors) and get(vectors[0], "embedding") is not None
    return {"prompt_tokens": total, "total_tokens": total} if is_embedding else report


def bare_usage(value: Any) -> Reading | None:
    """The usage itself, handed on without its answer."""
    bare = any(all(get(value, name) is not None for name in names) for names in _BARE)
    return reading_of(value) if bare else None


_BARE = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("inputTokens", "outputTokens"),
    ("prompt_token_count", "candidates_token_count"),
    ("promptTokenCount", "candidatesTokenCount"),
)
