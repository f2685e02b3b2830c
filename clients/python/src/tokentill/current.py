"""Which run the code that runs now belongs to, for code that no run was handed to."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokentill.run import AsyncRun, Run
    from tokentill.streams import AsyncStream, Stream

_current: ContextVar[Run | AsyncRun | None] = ContextVar("tokentill_run", default=None)
# Weak, as whatever is begun meanwhile keeps a copy of the context, and would keep a forgotten stream.
_reading: ContextVar[weakref.ref[Any] | None] = ContextVar("tokentill_stream", default=None)


def current_run() -> Run | AsyncRun | None:
    """The run this code is part of: of the wrapped function, `with` block or stream it was called from.

    The innermost, where one runs inside another; None outside of all. Tasks and `asyncio.to_thread` see their
    maker's; a thread of its own sees none, unless it is run in a copy of the context (`contextvars`).
    """
    return _current.get()


def stream_around() -> Stream[Any] | AsyncStream[Any] | None:
    """The stream whose source is being asked for a chunk by the code that runs now."""
    reference = _reading.get()
    return None if reference is None else reference()


@contextlib.contextmanager
def inside(run: Run | AsyncRun, stream: Stream[Any] | AsyncStream[Any] | None = None) -> Iterator[None]:
    run_before, stream_before = _current.get(), _reading.get()
    _current.set(run)
    _reading.set(None if stream is None else weakref.ref(stream))
    try:
        yield
    finally:
        # Not by their tokens: an asynchronous generator may be closed in another context than it was begun
        # in.
        _current.set(run_before)
        _reading.set(stream_before)
