"""What a forked child has to make anew: it has its parent's locks, sockets and files, but not its threads."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    def after_fork(self) -> None:
        """Called in the child, before anything else runs there: use nothing of the parent's, take no lock."""


# In the order of their making, as those that were made later use the earlier ones.
_known: list[weakref.ref[Forkable]] = []


def register(forkable: Forkable) -> None:
    """Have `after_fork` called in every forked child, for as long as `forkable` lives."""
    _known.append(weakref.ref(forkable, _known.remove))


def _forked() -> None:
    for reference in list(_known):
        forkable = reference()
        if forkable is not None:
            forkable.after_fork()


# Where there is none, as on Windows, there is no fork either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
