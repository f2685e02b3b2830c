"""Which run the code that runs now belongs to, for code that no run was handed to."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokentill.run import AsyncRun, Run
    from tokentill.streams import AsyncStream, Stream

# Outermost first: each run, and the stream of it that is being read, if one is.
_runs: ContextVar[tuple[_Entry, ...]] = ContextVar("tokentill_runs", default=())


def current_run() -> Run | AsyncRun | None:
    """The run this code is part of: of the wrapped function, `with` block or stream it was called from.

    The innermost, where one runs inside another; None outside of all. Tasks and `asyncio.to_thread` see their
    maker's; a thread of its own sees none, unless it is run in a copy of the context (`contextvars`). A task
    that outlives its run sees the one around it, or its own where there is none: what that is told then
    goes to `on_end_error`.
    """
    runs = [entry.run for entry in _runs.get()]
    return next((run for run in reversed(runs) if not run.finished), runs[-1] if runs else None)


def stream_around() -> Stream[Any] | AsyncStream[Any] | None:
    """The stream whose source is being asked for a chunk by the code that runs now."""
    entries = _runs.get()
    reference = entries[-1].stream if entries else None
    return None if reference is None else reference()


@contextlib.contextmanager
def inside(run: Run | AsyncRun, stream: Stream[Any] | AsyncStream[Any] | None = None) -> Iterator[None]:
    entry = _Entry(run, None if stream is None else weakref.ref(stream))
    _runs.set((*_runs.get(), entry))
    try:
        yield
    finally:
        # Blocks in generators end in any order, and an asynchronous one perhaps in another context: so
        # take out this very entry, wherever it is, and leave the others alone.
        _runs.set(tuple(each for each in _runs.get() if each is not entry))


class _Entry(NamedTuple):
    run: Run | AsyncRun
    # Weak, as whatever is begun meanwhile keeps a copy of the context, and would keep a forgotten stream.
    stream: weakref.ref[Any] | None
