"""Lists over HTTP: a page by `?limit=` and an opaque `?cursor=`, as `{items, next_cursor}`, or all of it as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic

from flask import Response, request
from marshmallow import ValidationError

from app.domain.inputs import PAGE_SIZE_DEFAULT
from app.domain.pages import Item, Key, Page
from app.domain.tables import Kind
from app.http import tables
from app.http.routes import success
from app.wire.cursors import (
    BY_EXPIRY,
    BY_ID,
    NEWEST_FIRST,
    OLDEST_FIRST,
    OLDEST_NUMBER_FIRST,
    Order,
    from_cursor,
    page_answer,
    page_size,
)
from app.wire.tables import csv_of_rows

# How many items a table fetches at a time.
ROWS_PER_FETCH = 1_000


@dataclass(frozen=True)
class Listing(Generic[Item, Key]):
    """A list in one order, and how each of its items is answered."""

    order: Order[Key]
    fetch: Callable[[int, Key], Page[Item, Key]]
    answer: Callable[[Item], Mapping[str, Any]]

    def page(self) -> dict[str, Any]:
        """The page that the request asks for. Raises ValidationError."""
        return page_answer(self.fetch(*position(self.order)), self.answer)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """All items, fetched ROWS_PER_FETCH at a time."""
        start: Key | None = self.order.first
        while start is not None:
            found = self.fetch(ROWS_PER_FETCH, start)
            yield from map(self.answer, found.items)
            start = found.next_key


def position(order: Order[Key]) -> tuple[int, Key]:
    """The number of items that the request asks for, and the key after which they begin. Raises ValidationError."""
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
    return limit, start


def listed(
    message: str,
    listing: Listing[Any, Any],
    columns: Mapping[str, Kind],
    beside: Callable[[], dict[str, Any]] = dict,
) -> Response:
    """A page as JSON, or all of the list as a table, as the caller accepts. Raises ValidationError or NotAcceptable.

    `beside` returns what a JSON page has besides its items. It is called after they are fetched.
    """
    format = tables.wanted()
    if format is None:
        return success(message, listing.page() | beside())
    tables.refuse_pages()
    rows = listing.rows()
    # Fetch the first row before answering, so that an immediate failure gets an error status.
    first = next(rows, None)
    lines = csv_of_rows(columns, rows if first is None else chain([first], rows))
    return tables.respond(message, columns, lines, format)


def by_id(
    fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], Mapping[str, Any]]
) -> Listing[Item, str]:
    """A list in the order of text ids."""
    return Listing(BY_ID, fetch, answer)


def oldest_first(
    fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], Mapping[str, Any]]
) -> Listing[Item, str]:
    """A list in the order of time-ordered UUIDs."""
    return Listing(OLDEST_FIRST, fetch, answer)


def by_expiry(
    fetch: Callable[[int, str], Page[Item, str]], answer: Callable[[Item], Mapping[str, Any]]
) -> Listing[Item, str]:
    """A list in the order of when its items end."""
    return Listing(BY_EXPIRY, fetch, answer)


def by_number(
    fetch: Callable[[int, int], Page[Item, int]], answer: Callable[[Item], Mapping[str, Any]]
) -> Listing[Item, int]:
    """A list from the lowest number up."""
    return Listing(OLDEST_NUMBER_FIRST, fetch, answer)


def newest_first(
    fetch: Callable[[int, int], Page[Item, int]], answer: Callable[[Item], Mapping[str, Any]]
) -> Listing[Item, int]:
    """A list from the highest number down."""
    return Listing(NEWEST_FIRST, fetch, answer)
