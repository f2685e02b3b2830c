"""Where each provider's results and chunks carry their usage, the id of their answer and their text.

`look` tries the shapes in order; the first that knows the value reads it. A shape works on mappings,
dataclasses, pydantic models and any object with attributes: it looks at names, never at types, so no
provider's package is imported. To add a provider, add its names to `arithmetic` and, where its usage stands
elsewhere, a shape to one of these modules:

- `openai`, `anthropic`, `gemini`, `others`: answers and events;
- `envelopes`: what carries the answer of a provider inside;
- `out_of_sight`: what will be read by others.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, ValuesView
from dataclasses import replace
from typing import Any, TypeAlias

from tokentill.errors import UsageUnreadableError
from tokentill.usage.model import COUNTS, Usage, count, get, record
from tokentill.usage.shapes import anthropic, gemini, openai, others
from tokentill.usage.shapes.envelopes import ENVELOPES, contents
from tokentill.usage.shapes.out_of_sight import out_of_sight
from tokentill.usage.shapes.reading import Reading

__all__ = ["Reading", "look", "look_through"]

Shape: TypeAlias = Callable[[Any], "Reading | None"]

_SEVERAL = (list, tuple, set, frozenset, deque, ValuesView)


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


_PROVIDERS: tuple[Shape, ...] = (
    openai.responses_event,
    anthropic.event,
    anthropic.message,
    others.langchain,
    openai.chunk,
    openai.answer,
    openai.assistants_run,
    openai.transcription_event,
    gemini.answer,
    gemini.interaction,
    gemini.embeddings,
    others.vercel,
    others.cohere_event,
    others.cohere_meta,
    others.ollama,
    others.bedrock_event,
)
_ANYBODY: tuple[Shape, ...] = (
    others.usage_somewhere,
    others.bare_usage,
    anthropic.stream_helper,
    openai.stream_helper,
    out_of_sight,
)


def look(value: Any) -> Reading | None:
    """The reading of one value, or None: nothing a model would answer. Raises nothing."""
    if not record(value):
        return None
    return _careful(value, lambda: _guide(value) or _answer(value) or _first(_ANYBODY, value))


def look_through(
    value: Any, *, skip: Callable[[Any], bool] = lambda _: False, depth: int = 3
) -> Iterator[Reading]:
    """The readings of one value, of all in a list or the like, and of the answers that a value carries.

    `skip` says of a value that it is to be left out.
    """
    if skip(value):
        return
    if isinstance(value, _SEVERAL):
        if depth:
            for item in value:
                yield from look_through(item, skip=skip, depth=depth - 1)
        return
    reading = look(value)
    if reading is not None:
        yield reading
    elif record(value):
        # A stranger's object may fail at anything: then it only wasn't what we look for.
        with contextlib.suppress(Exception):
            yield from contents(
                value, lambda field: None if skip(field) else _inner(field), others.bare_usage
            )


def _careful(value: Any, see: Callable[[], Reading | None]) -> Reading | None:
    try:
        return see()
    except Exception as error:
        # A stranger's object may fail at anything, and must not take the feature with it.
        unreadable = UsageUnreadableError(f"Looking at it fails with {type(error).__name__}: {error}")
        return Reading(Usage(), report=type(value).__name__, unreadable=unreadable, own=True)


def _answer(value: Any) -> Reading | None:
    for envelope in ENVELOPES:
        reading = envelope(value, look)
        if reading is not None:
            return reading
    return _first(_PROVIDERS, value)


def _inner(field: Any) -> Reading | None:
    """Inside something else only a provider's own answer counts: a `usage` alone may be about anything."""
    reading = _careful(field, lambda: _answer(field) or out_of_sight(field))
    if reading is None and isinstance(get(field, "choices"), list):
        reading = look(field)
    return reading


def _first(shapes: tuple[Shape, ...], value: Any) -> Reading | None:
    for shape in shapes:
        reading = shape(value)
        if reading is not None:
            return reading
    return None
