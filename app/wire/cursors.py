"""Paging of lists: their orders, the size of a page, and cursors.

A position in a list is the key of the last item of a page; a cursor is that key in an opaque encoding.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic
from uuid import UUID

from app.domain.inputs import ID_LENGTH_MAX, PAGE_SIZE_MAX, identifier, printable
from app.domain.pages import FIRST_ID, NEWEST, Item, Key, Page

_DIGITS = re.compile(r"[0-9]{1,19}")
_MILLISECONDS = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Order(Generic[Key]):
    """The order of a list. `position` reads a key from its text, and raises ValueError if the text isn't one."""

    first: Key
    position: Callable[[str], Key]


def page_size(text: str) -> int:
    """Read the number of items of a page. Raises ValueError."""
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= PAGE_SIZE_MAX:
        raise ValueError(f"Must be a whole number from 1 to {PAGE_SIZE_MAX}.")
    return int(text)


def from_cursor(order: Order[Key], cursor: str) -> Key:
    """Decode a cursor made by `page_answer`. Raises ValueError."""
    try:
        return order.position(_decoded(cursor))
    except ValueError:
        raise ValueError("Must be a next_cursor of this list.") from None


def page_answer(page: Page[Item, Key], answer: Callable[[Item], Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "items": [answer(item) for item in page.items],
        "next_cursor": None if page.next_key is None else _encoded(str(page.next_key)),
    }


def hold_position(text: str) -> str:
    """Check a position in a list of holds: a hold's end in milliseconds, a colon, its process id. Raises ValueError."""
    milliseconds, colon, process_id = text.partition(":")
    if not colon or not _MILLISECONDS.fullmatch(milliseconds):
        raise ValueError("Must be a position in a list of holds.")
    printable(process_id, ID_LENGTH_MAX)
    return text


def _encoded(key: str) -> str:
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except binascii.Error as error:
        raise ValueError(cursor) from error
    # The decoder ignores characters that aren't base64, so encode again and compare.
    if _encoded(key) != cursor:
        raise ValueError(cursor)
    return key


def _text(text: str) -> str:
    return identifier(text, ID_LENGTH_MAX)


def _uuid(text: str) -> str:
    # Only the canonical form is a key.
    if str(UUID(text)) != text:
        raise ValueError(text)
    return text


def _number(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > NEWEST:
        raise ValueError(text)
    return int(text)


BY_ID = Order(FIRST_ID, _text)
# By time-ordered UUIDs.
OLDEST_FIRST = Order(str(UUID(int=0)), _uuid)
NEWEST_UUID_FIRST = Order(str(UUID(int=2**128 - 1)), _uuid)
NEWEST_FIRST = Order(NEWEST, _number)
# By numbers given by the server.
OLDEST_NUMBER_FIRST = Order(0, _number)
BY_EXPIRY = Order(FIRST_ID, hold_position)
