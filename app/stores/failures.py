"""What an error says about its store. `redis/failures.py` and `postgres/failures.py` classify their store's errors."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """The first two concern the store as a whole and close its gate; the third concerns one call."""

    AWAY = "away"
    """No answer: gone, unreachable, silent, or not taking connections."""
    CANNOT_WRITE = "cannot_write"
    """It answers but refuses every write: read-only, full, out of connections, or busy."""
    REFUSED = "refused"
    """This call was refused or took too long; another one may succeed."""
