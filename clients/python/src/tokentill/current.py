"""Which run the code that runs now belongs to, for code that no run was handed to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokentill.run import AsyncRun, Run

_current: ContextVar[Run | AsyncRun | None] = ContextVar("tokentill_run", default=None)


def current_run() -> Run | AsyncRun | None:
    """The run this code is part of: of the wrapped function, `with` block or stream it was called from.

    The innermost, where one runs inside another; None outside of all. Tasks and `asyncio.to_thread` see their
    maker's; a thread of its own sees none, unless it is run in a copy of the context (`contextvars`).
    """
    return _current.get()


@contextlib.contextmanager
def inside(run: Run | AsyncRun) -> Iterator[None]:
    before = _current.get()
    _current.set(run)
    try:
        yield
    finally:
        # Not by its token: an asynchronous generator may be closed in another context than it was begun in.
        _current.set(before)
