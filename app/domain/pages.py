"""Lists in pages: in the order of a key, each page continuing where the last one ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", str, int)

# FIRST_ID sorts before every text, NEWEST above every id that a row can get.
FIRST_ID = ""
NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, Key]):
    """`next_key` is where the next page starts; None on the last page."""

    items: Sequence[Item]
    next_key: Key | None


def page(fetch: Callable[[int], Sequence[Item]], key: Callable[[Item], Key], limit: int) -> Page[Item, Key]:
    """A page of what `fetch` returns. `fetch` is asked for one item more, to see whether another page follows."""
    found = fetch(limit + 1)
    items = found[:limit]
    return Page(items, key(items[-1]) if len(found) > limit else None)
