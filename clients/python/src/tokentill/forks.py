"""What a forked child has to make anew: it has its parent's locks, sockets and files, but not its threads.

And what must not be in use, nor even open, at the moment of the fork.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import Protocol, runtime_checkable


class Forkable(Protocol):
    def after_fork(self) -> None:
        """Called in the child, before anything else runs there: use nothing of the parent's, take no lock."""


@runtime_checkable
class ClosedForFork(Forkable, Protocol):
    def before_fork(self) -> None:
        """Called before a fork: close it, and keep others from opening it."""

    def after_fork_in_parent(self) -> None:
        """The fork is over: it may be opened again."""


# In the order of their making, as those that were made later use the earlier ones.
_known: list[weakref.ref[Forkable]] = []


def register(forkable: Forkable) -> None:
    """Have `after_fork` called in every forked child, for as long as `forkable` lives."""
    _known.append(weakref.ref(forkable, _known.remove))


def _living() -> Iterator[Forkable]:
    for reference in list(_known):
        forkable = reference()
        if forkable is not None:
            yield forkable


def _forks() -> None:
    for forkable in _living():
        if isinstance(forkable, ClosedForFork):
            forkable.before_fork()


def _forked_in_parent() -> None:
    for forkable in _living():
        if isinstance(forkable, ClosedForFork):
            forkable.after_fork_in_parent()


def _forked() -> None:
    for forkable in _living():
        forkable.after_fork()


# Where there is none, as on Windows, there is no fork either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks, after_in_parent=_forked_in_parent, after_in_child=_forked)
