"""Lists over HTTP: `?limit=` and an opaque `?cursor=` in, `{items, next_cursor}` out."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from uuid import UUID

from flask import request
from marshmallow import ValidationError

from app.billing.holds import check_position
from app.domain.inputs import ID_LENGTH_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, identifier
from app.domain.pages import FIRST_ID, NEWEST, Item, Key, Page

_DIGITS = re.compile(r"[0-9]{1,19}")


def by_id(fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """A list in the order of text ids. Raises ValidationError."""
    return _listed(fetch, answer, FIRST_ID, _text_key)


def oldest_first(
    fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    """A list in the order of UUIDs that begin with their time. Raises ValidationError."""
    return _listed(fetch, answer, str(UUID(int=0)), _uuid_key)


def by_expiry(fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """A list in the order of when its items end. Raises ValidationError."""
    return _listed(fetch, answer, FIRST_ID, check_position)


def newest_first(
    fetch: Callable[[int, int], Page[Item, int]], answer: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    """A list from the highest number down. Raises ValidationError."""
    return _listed(fetch, answer, NEWEST, _number_key)


def _listed(
    fetch: Callable[[int, Key], Page[Item, Key]],
    answer: Callable[[Item], dict[str, Any]],
    first: Key,
    parse: Callable[[str], Key],
) -> dict[str, Any]:
    errors: dict[str, list[str]] = {}
    limit, start = PAGE_SIZE_DEFAULT, first
    if (given := request.args.get("limit")) is not None:
        if _DIGITS.fullmatch(given) and 1 <= int(given) <= PAGE_SIZE_MAX:
            limit = int(given)
        else:
            errors["limit"] = [f"Must be a whole number from 1 to {PAGE_SIZE_MAX}."]
    if (cursor := request.args.get("cursor")) is not None:
        try:
            start = parse(_decoded(cursor))
        except ValueError:
            errors["cursor"] = ["Must be a next_cursor of this list."]
    if errors:
        raise ValidationError(errors)
    found = fetch(limit, start)
    return {
        "items": [answer(item) for item in found.items],
        "next_cursor": None if found.next_key is None else _encoded(str(found.next_key)),
    }


def _encoded(key: str) -> str:
    return urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except binascii.Error as error:
        raise ValueError(cursor) from error
    # The decoder passes over what isn't base64.
    if _encoded(key) != cursor:
        raise ValueError(cursor)
    return key


def _text_key(text: str) -> str:
    return identifier(text, ID_LENGTH_MAX)


def _uuid_key(text: str) -> str:
    # In the one form that we write.
    if str(UUID(text)) != text:
        raise ValueError(text)
    return text


def _number_key(text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > NEWEST:
        raise ValueError(text)
    return int(text)
