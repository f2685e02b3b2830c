"""Lists over HTTP: `?limit=` and an opaque `?cursor=` in, `{items, next_cursor}` out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import request
from marshmallow import ValidationError

from app.domain.inputs import PAGE_SIZE_DEFAULT
from app.domain.pages import Item, Key, Page
from app.wire.cursors import BY_EXPIRY, BY_ID, NEWEST_FIRST, OLDEST_FIRST, Order, from_cursor, page_answer, page_size


def by_id(fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """A list in the order of text ids. Raises ValidationError."""
    return _listed(BY_ID, fetch, answer)


def oldest_first(
    fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    """A list in the order of UUIDs that begin with their time. Raises ValidationError."""
    return _listed(OLDEST_FIRST, fetch, answer)


def by_expiry(fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], dict[str, Any]]) -> dict[str, Any]:
    """A list in the order of when its items end. Raises ValidationError."""
    return _listed(BY_EXPIRY, fetch, answer)


def newest_first(
    fetch: Callable[[int, int], Page[Item, int]], answer: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    """A list from the highest number down. Raises ValidationError."""
    return _listed(NEWEST_FIRST, fetch, answer)


def _listed(
    order: Order[Key], fetch: Callable[[int, Key], Page[Item, Key]], answer: Callable[[Item], dict[str, Any]]
) -> dict[str, Any]:
    errors: dict[str, list[str]] = {}
    limit, start = PAGE_SIZE_DEFAULT, order.first
    try:
        if (given := request.args.get("limit")) is not None:
            limit = page_size(given)
    except ValueError as error:
        errors["limit"] = [str(error)]
    try:
        if (cursor := request.args.get("cursor")) is not None:
            start = from_cursor(order, cursor)
    except ValueError as error:
        errors["cursor"] = [str(error)]
    if errors:
        raise ValidationError(errors)
    return page_answer(fetch(limit, start), answer)
