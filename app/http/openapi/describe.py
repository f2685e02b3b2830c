"""What a route says of itself: what it answers, what it takes, what it refuses. All else is found where it is defined.

    @blueprint.post("/packages")
    @answers(PackageAnswer, status=201, body=_package, refuses=(AlreadyExists, NotFound))
    def create_package() -> Response:
        \"\"\"What a wallet may use.\"\"\"

The path and its parameters come from Flask's rule, query parameters from `takes`, the fields of the body from its
schema, those of the answer from its TypedDict, the operation's id from the function's name and its text from the
docstring. What every call may be refused for (key, body, stores) isn't named.
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
    """`{items, next_cursor}` of these, and `total` where there is one.

    `as_table`: also all of them as CSV or Parquet, as the caller accepts.
    """

    item: Any
    total: Any = None
    as_table: bool = True


@dataclass(frozen=True, slots=True)
class ItemsOf:
    """`{items}` of these, all of them. `as_table`: as of a page."""

    item: Any
    as_table: bool = False


@dataclass(frozen=True, slots=True)
class OrTable:
    """A TypedDict, or all of it as CSV or Parquet, as the caller accepts."""

    data: Any
    as_table: bool = True


@dataclass(frozen=True, slots=True)
class Bare:
    """An answer without the envelope: a TypedDict, or None for what isn't JSON."""

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
    `status`: of success; 201 and 200 where it is repeatable (see `routes.repeatable`).
    `body`: the schema that loads it. `refuses`: the domain errors that are this route's own.
    `takes_key`: reads Idempotency-Key. `takes_actor`: reads X-Actor, as what changes something for operators does
    unless said otherwise. `has_location`: answers Location. `has_optional_key`: an operator's key may be asked for,
    though the path is open. `bytes_max`: of the body, where it isn't the usual limit.
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
    """What a view was decorated with."""
    return getattr(view, _ATTRIBUTE, None)
