"""How much one command or script may do: Redis serves nobody else meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# A few milliseconds of work, both for marks set by a script and for fields read at once.
ITEMS_PER_CALL = 500


def slices(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in parts that are small enough for one call."""
    return [items[i : i + ITEMS_PER_CALL] for i in range(0, len(items), ITEMS_PER_CALL)]
