"""Every route, parameter and field is described, and the description is one that tools can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis

from app.bootstrap import Container
from app.http.openapi.describe import description_of
from app.http.openapi.operations import routes
from app.web import create_app
from tests.unit.test_guards import CONFIG


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    response = create_app(container=Container(CONFIG)).test_client().get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = json.loads(response.data)
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described() -> None:
    """See "Adding a route" in CONTRIBUTING.md."""
    missing = [
        f"{route.method} {route.path}"
        for route in routes(create_app(container=Container(CONFIG)))
        if description_of(route.view) is None
    ]
    assert missing == []


def test_every_field_is_explained(document: dict[str, Any]) -> None:
    """By a text where it is defined, or by its name in the glossary."""
    for name, schema in document["components"]["schemas"].items():
        for field, shape in schema.get("properties", {}).items():
            assert shape.get("description"), f"{name}: say what {field} means (app/http/openapi/glossary.py)"


def test_tools_can_read_it(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_operations_have_ids_of_their_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(ids)


def test_what_changes_something_says_so(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["responses"], name
        assert name.startswith("GET ") or "security" in operation, name
