"""One way to list anything: in the order of a key, so many at a time, each page from where the last ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", str, int)

# Before every text, and above every number that a row is given.
FIRST_ID = ""
NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, Key]):
    """`next_key` is where the next page starts, None on the last one."""

    items: Sequence[Item]
    next_key: Key | None


def page(fetch: Callable[[int], Sequence[Item]], key: Callable[[Item], Key], limit: int) -> Page[Item, Key]:
    """The page that `fetch` gives. It is asked for one item more, to see whether any follow."""
    found = fetch(limit + 1)
    items = found[:limit]
    return Page(items, key(items[-1]) if len(found) > limit else None)
