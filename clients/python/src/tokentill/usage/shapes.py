"""Where each provider's results and chunks carry their usage, the id of their answer and their text.

`look` tries the shapes in order; the first that knows the value reads it. A shape works on mappings,
dataclasses, pydantic models and any object with attributes: it looks at names, never at types, so no
provider's package is imported. To add a provider, add its names to `arithmetic` and, where its usage stands
elsewhere, a shape here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tokentill.errors import UsageUnreadableError
from tokentill.usage.arithmetic import counts_of
from tokentill.usage.model import COUNTS, Kind, Usage, count, get, record, text


@dataclass(frozen=True)
class Reading:
    """What one value says. Without counts it is a model's, too: a piece, or an answer without usage."""

    usage: Usage
    # Pieces of output in it: about a token each, for want of anything better.
    pieces: int = 0
    report: Any = None
    unreadable: UsageUnreadableError | None = None
    # The feature's own counts, in the guide's words.
    own: bool = False
    # The input counts only where it is more than is known already.
    input_at_least: bool = False


Shape: TypeAlias = Callable[[Any], Reading | None]


def look(value: Any) -> Reading | None:
    """The reading of one value, or None: nothing a model would answer. Raises nothing."""
    if not record(value):
        return None
    try:
        for shape in SHAPES:
            reading = shape(value)
            if reading is not None:
                return reading
    except Exception as error:
        # A stranger's object may fail at anything, and must not take the feature with it.
        unreadable = UsageUnreadableError(f"Looking at it fails with {type(error).__name__}: {error}")
        return Reading(Usage(), report=type(value).__name__, unreadable=unreadable, own=True)
    return None


def look_through(value: Any, depth: int = 3) -> Iterable[Reading]:
    """The readings of one value, or of all in a list or tuple."""
    if isinstance(value, (list, tuple)):
        if depth:
            for item in value:
                yield from look_through(item, depth - 1)
        return
    reading = look(value)
    if reading is not None:
        yield reading


def _reading(
    report: Any,
    *,
    model: Any = None,
    answer_id: Any = None,
    kind: Kind = "total",
    final: bool | None = None,
    pieces: int = 0,
) -> Reading:
    about = Usage(model=text(model), answer_id=text(answer_id), kind=kind, final=final)
    if report is None:
        return Reading(about, pieces)
    try:
        counts = counts_of(report)
    except UsageUnreadableError as error:
        return Reading(about, pieces, report, error)
    told: dict[str, Any] = {name: getattr(counts, name) for name in COUNTS}
    return Reading(replace(about, **told), pieces, report)


def _guide(value: Any) -> Reading | None:
    """The guide's words, `input_token` and `output_token`: the feature's own counts, which are added up."""
    if get(value, "input_token", "output_token") is None:
        return None
    model = get(value, "model")
    about = Usage(model=None if model is None else str(model))
    counts = {name: get(value, name) for name in COUNTS}
    try:
        told: dict[str, Any] = {name: count(name, counts[name]) for name in COUNTS}
        return Reading(replace(about, **told).checked(), report=counts, own=True)
    except UsageUnreadableError as error:
        return Reading(about, report=counts, unreadable=error, own=True)


def _raw_response(value: Any) -> Reading | None:
    """`with_raw_response` of the openai and anthropic packages: the answer is in the HTTP response's body."""
    response = get(value, "http_response")
    if response is None or not hasattr(value, "parse"):
        return None
    if get(response, "is_stream_consumed") is not True:
        # A stream that the caller will read by itself, out of our sight.
        return Reading(Usage())
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    return look(body) or Reading(Usage())


def _responses_event(value: Any) -> Reading | None:
    """A stream event of OpenAI's Responses; `response.created` has the id, only the last one the usage."""
    kind = text(get(value, "type"))
    if kind is None or not kind.startswith("response."):
        return None
    response = get(value, "response")
    piece = kind.endswith(".delta") and "audio" not in kind and bool(get(value, "delta"))
    return _reading(
        get(response, "usage"),
        model=get(response, "model"),
        answer_id=get(response, "id"),
        final=True if kind in _RESPONSE_OVER else None,
        pieces=int(piece),
    )


_RESPONSE_OVER = {"response.completed", "response.incomplete", "response.failed"}


def _anthropic_event(value: Any) -> Reading | None:
    """A stream event of Anthropic's Messages; `message_start` counts the input, and hardly any output."""
    kind = text(get(value, "type"))
    if kind not in _ANTHROPIC_EVENTS:
        return None
    message = get(value, "message")
    if kind == "message_start":
        return _message(message, final=False)
    if kind == "message_stop":
        return _message(message, final=True) if message is not None else Reading(Usage(kind="total"))
    if kind == "message_delta":
        # Some who copy Anthropic repeat the input here without its cached part, or as 0.
        return replace(_reading(get(value, "usage")), input_at_least=True)
    delta = get(value, "delta")
    piece = get(delta, "text", "thinking", "partial_json") if delta is not None else None
    return _reading(None, pieces=int(bool(piece)))


_ANTHROPIC_EVENTS = {
    "message_start",
    "message_delta",
    "message_stop",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
}


def _anthropic_message(value: Any) -> Reading | None:
    if text(get(value, "type")) != "message" or text(get(value, "role")) != "assistant":
        return None
    return _message(value, final=True)


def _message(message: Any, *, final: bool) -> Reading:
    return _reading(
        get(message, "usage"), model=get(message, "model"), answer_id=get(message, "id"), final=final
    )


def _stream_helper(value: Any) -> Reading | None:
    """The stream object of a provider's package, where it keeps the answer so far: `messages.stream()`."""
    message = get(value, "current_message_snapshot")
    if message is not None:
        return _message(message, final=get(message, "stop_reason") is not None)
    completion = get(value, "current_completion_snapshot")
    if completion is None:
        return None
    report = get(completion, "usage")
    return _reading(
        report,
        model=get(completion, "model"),
        answer_id=get(completion, "id"),
        final=True if report is not None else None,
    )


def _openai_helper_event(value: Any) -> Reading | None:
    """An event of `chat.completions.stream()`: one hands on the chunk itself, the others repeat it."""
    if text(get(value, "type")) != "chunk":
        return None
    chunk = get(value, "chunk")
    return look(chunk) if record(chunk) else None


def _langchain_event(value: Any) -> Reading | None:
    """An event of LangChain's `astream_events`. Those of the chains around a model repeat the model's."""
    event, data = text(get(value, "event")), get(value, "data")
    if event is None or not record(data):
        return None
    if event in {"on_chat_model_stream", "on_llm_stream"}:
        return look(get(data, "chunk"))
    if event not in {"on_chat_model_end", "on_llm_end"}:
        return Reading(Usage(), own=True)
    whole = look(get(data, "output"))
    return None if whole is None else replace(whole, usage=replace(whole.usage, kind="total", final=True))


def _langchain(value: Any) -> Reading | None:
    """A message of LangChain's. Its chunks are added up, also by LangChain itself."""
    kind = text(get(value, "type"))
    if kind not in {"ai", "AIMessage", "AIMessageChunk"}:
        return None
    about = get(value, "response_metadata")
    report = get(value, "usage_metadata") or get(about, "token_usage", "usage")
    chunk = kind == "AIMessageChunk"
    piece = chunk and bool(get(value, "content") or get(value, "tool_call_chunks"))
    return _reading(
        report,
        model=get(about, "model_name", "model"),
        answer_id=get(value, "id"),
        kind="increment" if chunk else "total",
        final=None if chunk else True,
        pieces=int(piece),
    )


def _openai_chunk(value: Any) -> Reading | None:
    """A chunk of a chat or text completion. The usage comes last, in a chunk without choices."""
    choices = get(value, "choices")
    if not isinstance(choices, list):
        return None
    pieces = sum(1 for choice in choices if _piece(choice))
    streamed = text(get(value, "object")) == "chat.completion.chunk" or any(
        get(choice, "delta") is not None for choice in choices
    )
    report = get(value, "usage")
    if not streamed and choices:
        return None
    over = any(get(choice, "finish_reason") for choice in choices)
    final = True if not choices and report is not None else None if over else False
    return _reading(report, model=get(value, "model"), answer_id=get(value, "id"), final=final, pieces=pieces)


def _piece(choice: Any) -> bool:
    delta = get(choice, "delta")
    return any(get(delta, name) for name in _DELTA)


_DELTA = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")


def _openai_answer(value: Any) -> Reading | None:
    """A whole answer of OpenAI's and of those who copy it; it says so itself."""
    kind = text(get(value, "object"))
    if kind not in {"chat.completion", "text_completion", "response"}:
        return None
    over, pieces = True, 0
    if kind == "text_completion":
        # Looks the same in pieces: there only the last has its reason to finish.
        choices = get(value, "choices") or []
        over = any(get(choice, "finish_reason") for choice in choices)
        pieces = 0 if over else sum(1 for choice in choices if get(choice, "text"))
    return _reading(
        get(value, "usage"),
        model=get(value, "model"),
        answer_id=get(value, "id"),
        final=over or None,
        pieces=pieces,
    )


def _gemini(value: Any) -> Reading | None:
    """Gemini's answers and chunks look alike: each has the totals so far, the last a reason to finish."""
    candidates = get(value, "candidates")
    report = get(value, "usage_metadata", "usageMetadata")
    if report is None and not (isinstance(candidates, list) and get(value, "model_version", "modelVersion")):
        return None
    final = None
    pieces = 0
    if isinstance(candidates, list) and candidates:
        final = any(get(candidate, "finish_reason", "finishReason") is not None for candidate in candidates)
        pieces = sum(1 for candidate in candidates if get(get(candidate, "content"), "parts"))
    return _reading(
        report,
        model=get(value, "model_version", "modelVersion"),
        answer_id=get(value, "response_id", "responseId"),
        final=final,
        pieces=pieces,
    )


def _ollama(value: Any) -> Reading | None:
    """Ollama's own API: no ids, and the counts in the chunk that says `done`."""
    # By themselves, as the text stands beside them.
    counts = {name: get(value, name) for name in ("prompt_eval_count", "eval_count")}
    counted = any(count is not None for count in counts.values())
    done = get(value, "done")
    message, piece = get(value, "message"), get(value, "response", "thinking")
    if not counted and not (isinstance(done, bool) and (message is not None or piece is not None)):
        return None
    said = piece or get(message, "content") or get(message, "thinking") or get(message, "tool_calls")
    return _reading(
        counts if counted else None,
        model=get(value, "model"),
        # An embedding has counts and never says that it is done.
        final=bool(done) or (counted and done is None),
        pieces=int(bool(said) and not done),
    )


def _bedrock_event(value: Any) -> Reading | None:
    """An event of Bedrock's ConverseStream, and the metrics at the end of InvokeModelWithResponseStream."""
    report = get(get(value, "metadata"), "usage") or get(value, "amazon-bedrock-invocationMetrics")
    if report is not None:
        return _reading(report, final=True)
    if get(value, "contentBlockDelta") is None and get(value, "messageStart", "messageStop") is None:
        return None
    return _reading(None, final=False, pieces=int(get(value, "contentBlockDelta") is not None))


def _vercel(value: Any) -> Reading | None:
    """What services on the AI SDK hand over as JSON: a result's `totalUsage`, or a full stream's steps."""
    kind, total = text(get(value, "type")), get(value, "totalUsage")
    response = get(value, "response")
    about: dict[str, Any] = {"model": get(response, "modelId"), "answer_id": get(response, "id")}
    if kind in {"finish-step", "step-finish"}:
        return _reading(get(value, "usage"), final=True, **about)
    if kind == "finish" and total is not None:
        # The sum of the steps, which were counted one by one.
        return None
    if kind in {"text-delta", "reasoning-delta"}:
        return _reading(None, final=False, pieces=1)
    return _reading(total, final=True, **about) if total is not None else None


def _usage_somewhere(value: Any) -> Reading | None:
    """Anything else with a `usage`, on itself or on the message or response that it is about."""
    for holder in (value, get(value, "message"), get(value, "response")):
        report = get(holder, "usage") if record(holder) else None
        if report is not None:
            report = _embedding_usage(value, report)
            model = get(value, "model", "modelId") or get(holder, "model", "modelId")
            answer_id = get(holder, "id") or get(get(value, "ResponseMetadata"), "RequestId")
            return _reading(report, model=model, answer_id=answer_id)
    return None


def _embedding_usage(value: Any, report: Any) -> Any:
    """Voyage and Jina report the total of an embedding only, which is all input."""
    total = get(report, "total_tokens") if record(report) else None
    if total is None or get(report, "prompt_tokens", "input_tokens") is not None:
        return report
    vectors = get(value, "data")
    is_embedding = isinstance(vectors, list) and bool(vectors) and get(vectors[0], "embedding") is not None
    return {"prompt_tokens": total, "total_tokens": total} if is_embedding else report


def _bare_usage(value: Any) -> Reading | None:
    """The usage itself, handed on without its answer."""
    bare = any(all(get(value, name) is not None for name in names) for names in _BARE)
    return _reading(value) if bare else None


_BARE = (
    ("prompt_tokens", "completion_tokens"),
    ("input_tokens", "output_tokens"),
    ("inputTokens", "outputTokens"),
    ("prompt_token_count", "candidates_token_count"),
    ("promptTokenCount", "candidatesTokenCount"),
)

SHAPES: tuple[Shape, ...] = (
    _guide,
    _raw_response,
    _responses_event,
    _anthropic_event,
    _anthropic_message,
    _openai_helper_event,
    _langchain_event,
    _langchain,
    _openai_chunk,
    _openai_answer,
    _gemini,
    _vercel,
    _ollama,
    _bedrock_event,
    _usage_somewhere,
    _bare_usage,
    _stream_helper,
)
