"""Holds answers to the API's description: what is answered is described, to the last field and header."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import jsonschema_rs
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from app.http.openapi.describe import description_of
from app.http.openapi.document import build
from app.http.openapi.operations import Route, routes

# Answers to what no operation is: nothing is described there but the envelope.
NO_OPERATION = (404, 405)


class Described:
    """The operations of an application, by which its answers are checked."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.document = json.loads(build(app).content)
        self._strict = _strict(self.document)
        self._routes = {(route.method, route.rule.rule): route for route in routes(app)}
        self._validators: dict[str, Any] = {}

    def route(self, app: Flask, method: str, path: str) -> Route | None:
        try:
            rule, _ = app.url_map.bind("localhost").match(path, method, return_rule=True)
        except HTTPException:
            return None
        return self._routes.get((method, rule.rule))

    def route_of(self, method: str, path: str) -> Route | None:
        """The route of a path that is right for whatever application."""
        return self.route(self._app, method, path)

    def operation(self, route: Route) -> dict[str, Any]:
        found: dict[str, Any] = self.document["paths"][route.path][route.method.lower()]
        return found

    def check(self, route: Route, response: TestResponse) -> None:
        """Raises AssertionError for what isn't described."""
        named = f"{route.method} {route.path} answered {response.status_code}"
        described = self.operation(route)["responses"].get(str(response.status_code))
        assert described is not None, f"{named}, which isn't described: {response.text}"
        described = self._resolved(described)
        for name, header in described.get("headers", {}).items():
            assert name in response.headers or not self._resolved(header).get("required"), f"{named} without {name}"
        assert "Idempotent-Replayed" not in response.headers or "Idempotent-Replayed" in described["headers"], named
        assert response.mimetype in described["content"], f"{named} as {response.mimetype}"
        if response.mimetype != "application/json":
            return
        pointer = f"{route.path} {route.method} {response.status_code}"
        schema = described["content"]["application/json"]["schema"]
        error = next(self._validator(pointer, schema).iter_errors(json.loads(response.data)), None)
        assert error is None, f"{named}, not as described: {error}"

    def _validator(self, pointer: str, schema: dict[str, Any]) -> Any:
        if pointer not in self._validators:
            whole = {**_strict(copy.deepcopy(schema)), "components": self._strict["components"]}
            self._validators[pointer] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[pointer]

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if reference is None:
            return part
        found: Any = self.document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        resolved: dict[str, Any] = found
        return resolved


@cache
def described() -> Described:
    """What is described is the same for every application."""
    # Late: the settings of a test's process.
    from app.bootstrap import Container
    from app.web import create_app
    from tests.unit.test_guards import CONFIG

    return Described(create_app(container=Container(CONFIG)))


def body_schemas(route: Route) -> type | None:
    """The schema that a route says that it reads bodies by."""
    found = description_of(route.view)
    return None if found is None or found.body is None else type(found.body)


def _strict(schema: Any) -> Any:
    """The same, where no object has a field that isn't described."""
    document = copy.deepcopy(schema)
    _close(document)
    document.get("components", {}).get("schemas", {}).get("Failure", {}).pop("unevaluatedProperties", None)
    return document


def _close(part: Any) -> None:
    if isinstance(part, dict):
        if "properties" in part and isinstance(part["properties"], dict) and "additionalProperties" not in part:
            part.setdefault("unevaluatedProperties", False)
        for value in part.values():
            _close(value)
    elif isinstance(part, list):
        for value in part:
            _close(value)
