"""Streams that the caller reads by itself when the run is over, so that nobody counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokentill.upstream import is_model_stream, is_native
from tokentill.usage.model import Usage, get
from tokentill.usage.shapes.reading import Reading


def out_of_sight(value: Any) -> Reading | None:
    """A model may answer by it, and its usage is missing."""
    # Of mappings only: a property with such a name may read what it stands for.
    inside = isinstance(value, Mapping) and any(_is_stream(value.get(name)) for name in ("stream", "body"))
    found = inside or _is_stream(value) or _is_streamed_response(value)
    # An answer of its own, so that no other hides it.
    return Reading(Usage(final=True), report=type(value).__name__) if found else None


def is_out_of_sight(result: object) -> bool:
    return out_of_sight(result) is not None


def _is_stream(value: Any) -> bool:
    kind = type(value).__name__
    # OpenAI's and Anthropic's `with_streaming_response` and `stream()`; Bedrock's streams and bodies.
    named = kind.endswith(("ResponseContextManager", "StreamManager")) or kind in _OF_BEDROCK
    return named or is_native(value) or is_model_stream(value)


_OF_BEDROCK = {"EventStream", "StreamingBody"}


def _is_streamed_response(value: Any) -> bool:
    """A web response: of Starlette and FastAPI, or of Flask."""
    return get(value, "body_iterator") is not None or get(value, "is_streamed") is True
