"""Pages of lists. The number of rows and the cursor of a page are in the address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic
from urllib.parse import urlencode

from flask import request
from werkzeug.exceptions import BadRequest

from app.domain.inputs import PAGE_SIZE_DEFAULT
from app.domain.pages import Item, Key, Page
from app.wire.cursors import Order, from_cursor, page_answer, page_size


@dataclass(frozen=True)
class Paged(Generic[Item]):
    items: Sequence[Item]
    limit: int
    # `next_url` is None on the last page, `first_url` on the first one.
    next_url: str | None
    first_url: str | None


def paged(order: Order[Key], fetch: Callable[[int, Key], Page[Item, Key]]) -> Paged[Item]:
    """The page of a list that the address asks for. Raises BadRequest."""
    limit, start = PAGE_SIZE_DEFAULT, order.first
    try:
        if given := request.args.get("limit"):
            limit = page_size(given)
        if cursor := request.args.get("cursor"):
            start = from_cursor(order, cursor)
    except ValueError as error:
        raise BadRequest(f"This page of the list doesn't exist: {error}") from None
    found = fetch(limit, start)
    next_cursor = page_answer(found, lambda _: {})["next_cursor"]
    return Paged(
        found.items,
        limit,
        next_url=None if next_cursor is None else _url(cursor=next_cursor),
        first_url=_url(cursor=None) if cursor else None,
    )


def _url(**changed: Any) -> str:
    """The address of this page with some parameters replaced, or removed if None."""
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in {*changed, "done"}]
    added = [(name, value) for name, value in changed.items() if value is not None]
    query = urlencode([*kept, *added])
    return f"{request.path}?{query}" if query else request.path
