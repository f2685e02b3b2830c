"""Values that carry an answer: raw responses, events, lines of a batch, and results of the service's own.

Some always are what they look like (`ENVELOPES`). Of any other mapping, dataclass or pydantic model the
fields are looked at (`contents`): an answer that is one of them is counted. Answers in a list within, as in
LangGraph's `{"messages": [...]}`, may be older than the run: they are told, not counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from tokentill.errors import UsageMissingError
from tokentill.usage.model import Usage, get, record, text
from tokentill.usage.shapes.reading import NOTHING, Reading

Look: TypeAlias = Callable[[Any], "Reading | None"]

FIELDS_MAX = 50
ITEMS_MAX = 1_000
CAUSES_MAX = 5


def raw_response(value: Any, look: Look) -> Reading | None:
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


def openai_helper_event(value: Any, look: Look) -> Reading | None:
    """An event of `chat.completions.stream()`: one hands on the chunk itself, the others repeat it."""
    if text(get(value, "type")) != "chunk":
        return None
    chunk = get(value, "chunk")
    return look(chunk) if record(chunk) else None


def langchain_event(value: Any, look: Look) -> Reading | None:
    """An event of LangChain's `astream_events`. Those of the chains around a model repeat the model's."""
    event, data = text(get(value, "event")), get(value, "data")
    if event is None or not event.startswith("on_") or not record(data):
        return None
    if event in {"on_chat_model_stream", "on_llm_stream"}:
        return look(get(data, "chunk"))
    if event not in {"on_chat_model_end", "on_llm_end"}:
        return NOTHING
    whole = look(get(data, "output"))
    return None if whole is None else replace(whole, usage=replace(whole.usage, kind="total", final=True))


def bedrock_bytes(value: Any, look: Look) -> Reading | None:
    """An event of InvokeModelWithResponseStream: the model's own event, as JSON in bytes."""
    data = get(get(value, "chunk"), "bytes")
    if not isinstance(data, (bytes, bytearray)):
        return None
    try:
        return look(json.loads(data))
    except ValueError:
        return None


def batch_line(value: Any, look: Look) -> Reading | None:
    """A result of a batch: OpenAI's has the answer in its response's body, Anthropic's in its result."""
    if get(value, "custom_id") is None:
        return None
    answer = get(get(value, "response"), "body") or get(get(value, "result"), "message")
    return look(answer) if record(answer) else NOTHING


ENVELOPES: tuple[Callable[[Any, Look], Reading | None], ...] = (
    raw_response,
    openai_helper_event,
    langchain_event,
    bedrock_bytes,
    batch_line,
)


def contents(value: Any, answer_of: Look, usage_of: Look) -> Iterator[Reading]:
    """The answers among the fields of a value that is no model's; or else a bare usage among them."""
    fields = list(_fields(value))[:FIELDS_MAX]
    for look in (answer_of, usage_of):
        found = [reading for field in fields if record(field) and (reading := look(field)) is not None]
        if found:
            yield from found
            return
    answer = _listed(fields, answer_of)
    if answer is not None:
        why = "Answers in a list may be older than this run: hand the new ones to `run.read`"
        yield Reading(Usage(), report=answer.report, unreadable=UsageMissingError(why))


def _fields(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(getattr(type(value), "model_fields", None), Mapping):
        yield from vars(value).values()
        # Where instructor keeps the answer that it has parsed.
        yield getattr(value, "_raw_response", None)


def _listed(fields: list[Any], answer_of: Look) -> Reading | None:
    """An answer with usage in a list among the fields, or among those of a field."""
    nested = [field for value in fields if isinstance(value, Mapping) for field in value.values()]
    for items in [*fields, *nested]:
        for item in items[:ITEMS_MAX] if isinstance(items, (list, tuple)) else ():
            # LangChain has a batch of generations, each a list again, with the message inside.
            for one in item if isinstance(item, (list, tuple)) else [item]:
                reading = answer_of(get(one, "message") or one) if record(one) else None
                if reading is not None and reading.usage.said:
                    return reading
    return None


def answer_of_error(error: BaseException | None) -> Any:
    """The answer that an error is about, or one that it was raised from: OpenAI's and instructor's carry it.

    It was cut off or could not be parsed, and is paid for all the same.
    """
    for _ in range(CAUSES_MAX):
        answer = get(error, "completion", "last_completion")
        if error is None or answer is not None:
            return answer
        error = error.__cause__ or error.__context__
    return None
