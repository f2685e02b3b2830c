"""What an error of a store says about the store. `redis/failures.py` and `postgres/failures.py` tell which it is."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """Only the first two speak against the store itself, and close its gate."""

    AWAY = "away"
    """No answer: gone, unreachable, silent, or not taking connections."""
    CANNOT_WRITE = "cannot_write"
    """It answers and takes no write from anybody: read-only, full, out of connections, or busy with itself."""
    REFUSED = "refused"
    """This call was refused or took too long, and another one may do well."""
