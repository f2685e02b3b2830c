"""Query parameters. A route names those that it reads; any other is the caller's mistake, and is refused.

A parameter has both its check and its JSON Schema, so that the API's description follows from what routes read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask, current_app, request
from marshmallow import ValidationError

from app.domain.inputs import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from app.http.auth import ADMIN_PREFIX, SERVER_PREFIX
from app.http.schemas import shapes
from app.wire.cursors import page_size

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "query_parameters"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter. `check` converts its text, or raises ValueError with the reason; `shape` is its JSON Schema.
    If `description` is empty, the glossary explains its name (`app/http/openapi/glossary.py`).
    """

    name: str
    check: Callable[[str], Any]
    shape: Mapping[str, Any]
    description: str = ""


PAGE = (
    Parameter(
        "limit", page_size, {**shapes.whole_number(1, PAGE_SIZE_MAX), "default": PAGE_SIZE_DEFAULT}, "Items on a page."
    ),
    # A cursor's form depends on the list, so `paging` checks it.
    Parameter("cursor", str, {"type": "string"}, "`next_cursor` of the page before. Opaque."),
)


def takes(*parameters: Parameter) -> Callable[[View], View]:
    """Decorates a view with the query parameters that it reads."""

    def decorate(view: View) -> View:
        setattr(view, _ATTRIBUTE, {parameter.name: parameter for parameter in parameters})
        return view

    return decorate


# The parameters of every list: `paging` reads them.
takes_page = takes(*PAGE)


def parameters_of(view: Callable[..., Any]) -> Mapping[str, Parameter]:
    """The query parameters that a view takes, by name."""
    found: Mapping[str, Parameter] = getattr(view, _ATTRIBUTE, {})
    return found


def read(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """The given parameters, checked. Raises ValidationError with the errors of all of them."""
    found: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for parameter in parameters:
        if (given := request.args.get(parameter.name)) is not None:
            try:
                found[parameter.name] = parameter.check(given)
            except ValueError as error:
                errors[parameter.name] = [str(error)]
    if {"from", "to"} <= set(found) and found["from"] >= found["to"]:
        errors["to"] = ["Must be later than from."]
    if errors:
        raise ValidationError(errors)
    return found


def register(app: Flask) -> None:
    """Answer 400 to parameters that a route of the APIs doesn't read, or that are given twice."""

    @app.before_request
    def _check() -> None:
        if not request.args or not request.path.startswith((SERVER_PREFIX, ADMIN_PREFIX)):
            return
        if request.endpoint is None or request.method == "OPTIONS":
            # There is no such route, which is answered instead.
            return
        known = parameters_of(current_app.view_functions[request.endpoint])
        errors = {name: ["Unknown query parameter."] for name in request.args if name not in known}
        errors |= {
            name: ["Must be given once."] for name, values in request.args.lists() if name in known and len(values) > 1
        }
        if errors:
            raise ValidationError(errors)
