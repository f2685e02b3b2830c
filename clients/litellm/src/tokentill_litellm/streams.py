"""Seeing the chunks of LiteLLM's streams, and that one was closed.

LiteLLM tells its callbacks of a stream when it has ended by itself. One that is closed early it keeps to
itself, and in asyncio its chunks, too. So each chunk is looked at where it passes: in LiteLLM's own
`CustomStreamWrapper`, and in the iterators of its Responses API.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import litellm
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.responses.streaming_iterator import (
    MockResponsesAPIStreamingIterator,
    ResponsesAPIStreamingIterator,
    SyncResponsesAPIStreamingIterator,
)

logger = logging.getLogger("tokentill")


class Watcher(Protocol):
    def on_chunk(self, call_id: str, chunk: Any) -> None: ...

    def on_end(self, call_id: str, answer: Any, *, cached: bool) -> None:
        """The stream came to its end. May take its time.

        `answer` is all of it, put together by LiteLLM, or None where its chunks have said everything.
        """

    def on_close(self, call_id: str) -> None:
        """It was closed. Must not wait for anything."""


_watchers: weakref.WeakSet[Any] = weakref.WeakSet()


def watch_streams(watcher: Watcher) -> None:
    """Tell `watcher` of every stream of this process, for as long as it lives."""
    _watchers.add(watcher)
    if not hasattr(CustomStreamWrapper, "_tokentill_watched"):
        CustomStreamWrapper._tokentill_watched = True
        for kind in (CustomStreamWrapper, *_RESPONSES):
            for name, watched in _METHODS.items():
                if name in vars(kind):
                    original = getattr(kind, name)
                    setattr(kind, name, functools.wraps(original)(watched(original)))


def _watched_next(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def watched(stream: Any) -> Any:
        try:
            with _being_read(stream):
                chunk = original(stream)
        except StopIteration:
            _end(stream)
            raise
        _chunk(stream, chunk)
        return chunk

    return watched


def _watched_anext(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def watched(stream: Any) -> Any:
        try:
            with _being_read(stream):
                chunk = await original(stream)
        except StopAsyncIteration:
            await asyncio.to_thread(_end, stream)
            raise
        _chunk(stream, chunk)
        return chunk

    return watched


def _watched_close(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def watched(stream: Any) -> Any:
        try:
            return original(stream)
        finally:
            _closed(stream)

    return watched


def _watched_aclose(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def watched(stream: Any) -> Any:
        try:
            return await original(stream)
        finally:
            _closed(stream)

    return watched


_METHODS: dict[str, Callable[[Any], Any]] = {
    "__next__": _watched_next,
    "__anext__": _watched_anext,
    "close": _watched_close,
    "aclose": _watched_aclose,
}
_RESPONSES = (
    ResponsesAPIStreamingIterator,
    SyncResponsesAPIStreamingIterator,
    MockResponsesAPIStreamingIterator,
)


def _watchers_of(stream: Any) -> list[Any]:
    # A chat completion that LiteLLM makes of a response is watched where its caller reads it.
    inside = isinstance(stream, _RESPONSES) and "responses" not in str(stream.logging_obj.call_type)
    return [] if inside else list(_watchers)


def _chunk(stream: Any, chunk: Any) -> None:
    for watcher in _watchers_of(stream):
        watcher.on_chunk(_call_id(stream), chunk)


def _end(stream: Any) -> None:
    answer = None
    if not isinstance(stream, _RESPONSES):
        try:
            answer = litellm.stream_chunk_builder(chunks=stream.chunks, messages=stream.messages)
        except Exception:
            # LiteLLM's event of success, which follows, may know better.
            logger.warning("The answer of a LiteLLM stream could not be put together", exc_info=True)
            return
    cached = getattr(stream, "custom_llm_provider", None) == "cached_response"
    for watcher in _watchers_of(stream):
        watcher.on_end(_call_id(stream), answer, cached=cached)


@contextlib.contextmanager
def _being_read(stream: Any) -> Iterator[None]:
    stream._tokentill_being_read = True
    try:
        yield
    finally:
        stream._tokentill_being_read = False


def _closed(stream: Any) -> None:
    # LiteLLM closes it, too, when it has read its end or an error: what comes of that says more.
    if getattr(stream, "_tokentill_being_read", False):
        return
    for watcher in _watchers_of(stream):
        watcher.on_close(_call_id(stream))


def _call_id(stream: Any) -> str:
    return str(getattr(stream.logging_obj, "litellm_call_id", ""))
