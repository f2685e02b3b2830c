"""Finding the provider's stream that a service's generator reads, so that both can be closed.

    async for chunk in await openai_client.chat.completions.create(..., stream=True):
        yield chunk

Closing this generator ends the loop but not the stream: OpenAI's and Anthropic's are part of a reference
cycle, so they go on receiving, and their provider producing, until Python's garbage collector comes by.
Therefore the suspended generator is looked through for them after each chunk. A stream that was handed to
the generator as an argument belongs to who did that, and is left alone.
"""

from __future__ import annotations

import gc
import inspect
import types
import weakref
from collections.abc import Iterator
from typing import Any

_DEPTH_MAX = 4


class Upstream:
    """The streams seen in one generator, and in those that it delegates to."""

    def __init__(self, source: Any) -> None:
        self._generator = source if is_native(source) else None
        self._found: dict[int, weakref.ref[Any]] = {}
        self._given = {id(value) for value in _arguments(source)} if self._generator is not None else set()

    def look(self) -> None:
        """Between two chunks, when the generator stands still."""
        if self._generator is not None:
            for stream in _held_by(self._generator, self._given, _DEPTH_MAX):
                self._found[id(stream)] = weakref.ref(stream)

    def found(self) -> list[Any]:
        return [stream for reference in self._found.values() if (stream := reference()) is not None]


def is_native(source: Any) -> bool:
    return inspect.isgenerator(source) or inspect.isasyncgen(source)


def _arguments(generator: Any) -> list[Any]:
    """It has not begun, so its only variables are its arguments."""
    frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
    return [] if frame is None else list(frame.f_locals.values())


def _held_by(holder: Any, given: set[int], depth: int) -> Iterator[Any]:
    # What a frame refers to: its variables, and what its loops stand on, which no variable may name.
    for thing in gc.get_referents(holder):
        if id(thing) in given:
            continue
        if is_native(thing) or isinstance(thing, types.FrameType):
            if depth:
                yield from _held_by(thing, given, depth - 1)
        elif _is_provider_stream(thing):
            yield thing


def _is_provider_stream(thing: Any) -> bool:
    kind = type(thing)
    if not (hasattr(kind, "__next__") or hasattr(kind, "__anext__")):
        return False
    # What they have in common, and files, cursors and queues have not: the HTTP response behind them.
    names = getattr(thing, "__dict__", ())
    return hasattr(kind, "close") and (
        "response" in names or "_response" in names or hasattr(kind, "response")
    )
