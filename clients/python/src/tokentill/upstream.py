"""Finding the provider's stream that a service's own iterator reads, so that both can be closed.

    async for chunk in await openai_client.chat.completions.create(..., stream=True):
        yield chunk

Closing this generator ends the loop but not the stream: OpenAI's and Anthropic's are part of a reference
cycle, so they go on receiving, and their provider producing, until Python's garbage collector comes by.
Therefore what the iterator holds is looked through for them after each chunk: the variables and loops of
generators, and whatever else they iterate, such as `map(text_of, stream)`.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import types
import weakref
from collections.abc import Iterator
from typing import Any

# Iterators within iterators. Also what an unusual object could cost with every chunk.
_DEPTH_MAX = 8


class Upstream:
    """The streams seen in one iterator, and in those that it reads."""

    def __init__(self, source: Any) -> None:
        # A provider's own stream is closed as the source.
        self._source = None if _is_provider_stream(source) else source
        self._found: dict[int, weakref.ref[Any]] = {}

    def look(self) -> list[Any]:
        """Between two chunks, when the iterator stands still. Answers the models' streams that it reads."""
        models: list[Any] = []
        if self._source is None:
            return models
        # Whatever an object does when it is looked at, the service's chunks flow on.
        with contextlib.suppress(Exception):
            for stream in _held_by(self._source, {id(self._source)}, _DEPTH_MAX):
                if _is_provider_stream(stream):
                    self._found[id(stream)] = weakref.ref(stream)
                if is_model_stream(stream):
                    models.append(stream)
        return models

    def found(self) -> list[Any]:
        return [stream for reference in self._found.values() if (stream := reference()) is not None]


def is_native(source: Any) -> bool:
    return inspect.isgenerator(source) or inspect.isasyncgen(source)


def _held_by(holder: Any, seen: set[int], depth: int) -> Iterator[Any]:
    for thing in _references(holder):
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if _is_provider_stream(thing):
            yield thing
            continue
        if is_model_stream(thing):
            yield thing
        if isinstance(thing, (types.FrameType, types.CellType)):
            yield from _held_by(thing, seen, depth)
        elif depth and _is_iterator(thing):
            yield from _held_by(thing, seen, depth - 1)


def _references(holder: Any) -> Iterator[Any]:
    """A generator's variables, and what its loops stand on, which no variable may name; else attributes."""
    for thing in gc.get_referents(holder):
        # Where `map` and `zip` have what they read.
        if type(thing) is tuple and not isinstance(holder, types.FrameType):
            yield from thing
        else:
            yield thing
    yield from getattr(holder, "__dict__", {}).values()


def is_model_stream(thing: Any) -> bool:
    """Whether a model's answer comes by it: a stream of a provider's package, that no run of ours reads."""
    if hasattr(type(thing), "tokentill_run") or not _is_iterator(thing):
        return False
    if _is_provider_stream(thing):
        return True
    frame = getattr(thing, "gi_frame", None) or getattr(thing, "ag_frame", None)
    module = frame.f_globals.get("__name__", "") if is_native(thing) and frame else type(thing).__module__
    return any(module == name or module.startswith(f"{name}.") for name in _MODEL_PACKAGES)


_MODEL_PACKAGES = (
    "anthropic",
    "botocore.eventstream",
    "cohere",
    "google.genai",
    "groq",
    "langchain_core.language_models",
    "litellm",
    "mistralai",
    "ollama",
    "openai",
)


def _is_iterator(thing: Any) -> bool:
    kind = type(thing)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__")


def _is_provider_stream(thing: Any) -> bool:
    kind = type(thing)
    if not _is_iterator(thing) or not hasattr(kind, "close"):
        return False
    # What they have in common, and files, cursors and queues have not: the HTTP response behind them. Or
    # it is one of ours.
    names = getattr(thing, "__dict__", ())
    return (
        "response" in names
        or "_response" in names
        or hasattr(kind, "response")
        or hasattr(kind, "tokentill_run")
    )
