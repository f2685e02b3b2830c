"""Describes a route by a decorator: its answer, its body and its own errors. Everything else follows from the code.

    @blueprint.post("/packages")
    @answers(PackageAnswer, status=201, body=_package, refuses=(AlreadyExists, NotFound))
    def create_package() -> Response:
        \"\"\"What a wallet may use.\"\"\"

The path and its parameters come from Flask's rule, query parameters from `takes`, the fields of the body from its
schema, those of the answer from its TypedDict, the operation's id from the function's name and its text from the
docstring. Errors that every call can have (key, body, stores) aren't named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from marshmallow import Schema

from app.domain.errors import DomainError
from app.http.json import MEDIA_TYPE

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "description"


@dataclass(frozen=True, slots=True)
class PageOf:
    """An answer of `{items, next_cursor}`, and `total` if there is one.

    `as_table`: if the caller accepts it, all items as CSV or Parquet.
    """

    item: Any
    total: Any = None
    as_table: bool = True


@dataclass(frozen=True, slots=True)
class ItemsOf:
    """An answer of `{items}`, with all items. `as_table`: as for PageOf."""

    item: Any
    as_table: bool = False


@dataclass(frozen=True, slots=True)
class OrTable:
    """An answer of a TypedDict or, if the caller accepts it, the whole table as CSV or Parquet."""

    data: Any
    as_table: bool = True


@dataclass(frozen=True, slots=True)
class Bare:
    """An answer without the envelope: a TypedDict, or None if it isn't JSON."""

    data: Any = None
    media_type: str = MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Description:
    data: Any
    statuses: tuple[int, ...]
    body: Schema | None
    body_is_optional: bool
    refuses: tuple[type[DomainError], ...]
    takes_key: bool
    takes_actor: bool | None
    is_repeatable: bool
    has_location: bool
    has_optional_key: bool
    bytes_max: int | None

    @property
    def has_table(self) -> bool:
        return isinstance(self.data, (PageOf, ItemsOf, OrTable)) and self.data.as_table


def answers(
    data: Any,
    *,
    status: int | tuple[int, ...] = 200,
    body: Schema | None = None,
    body_is_optional: bool = False,
    refuses: tuple[type[DomainError], ...] = (),
    takes_key: bool = False,
    takes_actor: bool | None = None,
    is_repeatable: bool = False,
    has_location: bool = False,
    has_optional_key: bool = False,
    bytes_max: int | None = None,
) -> Callable[[View], View]:
    """Decorates a view with its description.

    `data`: the TypedDict of the envelope's `data`, or PageOf, ItemsOf, OrTable or Bare.
    `status`: the status of success; 201 and 200 if the call is repeatable (see `routes.repeatable`).
    `body`: the schema that loads the body. `refuses`: the domain errors that only this route has.
    `takes_key`: reads Idempotency-Key. `takes_actor`: reads X-Actor; operators' routes that change something do so by
    default. `has_location`: answers Location. `has_optional_key`: an operator's key may be required, though the path is
    open to everybody. `bytes_max`: the limit of the body, if it isn't the usual one.
    """
    statuses = (status,) if isinstance(status, int) else status
    described = Description(
        data,
        (201, 200) if is_repeatable else statuses,
        body,
        body_is_optional,
        refuses,
        takes_key,
        takes_actor,
        is_repeatable or takes_key,
        has_location,
        has_optional_key,
        bytes_max,
    )

    def decorate(view: View) -> View:
        setattr(view, _ATTRIBUTE, described)
        return view

    return decorate


def description_of(view: Callable[..., Any]) -> Description | None:
    """The description that a view was decorated with."""
    return getattr(view, _ATTRIBUTE, None)
