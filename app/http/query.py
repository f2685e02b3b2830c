"""Query parameters. A route names those that it reads; any other is a slip of the caller's, and no answer fits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, current_app, request
from marshmallow import ValidationError

from app.http.auth import ADMIN_PREFIX, SERVER_PREFIX

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "query_parameters"


def takes(*names: str) -> Callable[[View], View]:
    """Decorates a view with the query parameters that it reads."""

    def decorate(view: View) -> View:
        setattr(view, _ATTRIBUTE, frozenset(names))
        return view

    return decorate


# What every list reads, as `paging` does.
takes_page = takes("limit", "cursor")


def register(app: Flask) -> None:
    """Answer 400 to what a route of the APIs doesn't read, or gets twice."""

    @app.before_request
    def _check() -> None:
        if not request.args or not request.path.startswith((SERVER_PREFIX, ADMIN_PREFIX)):
            return
        if request.endpoint is None or request.method == "OPTIONS":
            # No route: that is what will be said.
            return
        read: frozenset[str] = getattr(current_app.view_functions[request.endpoint], _ATTRIBUTE, frozenset())
        errors = {name: ["Unknown query parameter."] for name in request.args if name not in read}
        errors |= {
            name: ["Must be given once."] for name, values in request.args.lists() if name in read and len(values) > 1
        }
        if errors:
            raise ValidationError(errors)
