"""How much one command or script may have to do: Redis serves nobody else meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# A few milliseconds' work, whether these are marks that a script sets or fields that are read at once.
ITEMS_PER_CALL = 500


def slices(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in parts that one call can take."""
    return [items[i : i + ITEMS_PER_CALL] for i in range(0, len(items), ITEMS_PER_CALL)]
