"""Each route as an OpenAPI operation: its parameters, its body, its answers and failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask
from marshmallow import RAISE, Schema
from werkzeug.routing import Rule

from app.domain.inputs import ACTOR_LENGTH_MAX
from app.http import query
from app.http.auth import ADMIN_PREFIX, SERVER_PREFIX
from app.http.calls import BODY_BYTES_MAX
from app.http.headers import ACTOR_HEADER, IDEMPOTENCY_HEADER, REPLAYED_HEADER
from app.http.json import MEDIA_TYPE
from app.http.openapi import failures, glossary
from app.http.openapi.answers import answer_schema
from app.http.openapi.bodies import body_schema
from app.http.openapi.components import Components, reference
from app.http.openapi.describe import Bare, Description, ItemsOf, OrTable, PageOf, description_of
from app.http.request_context import REQUEST_ID_HEADER
from app.http.schemas import shapes
from app.http.schemas.fields import IDEMPOTENCY_KEY_LENGTH_MAX
from app.http.schemas.shapes import Shape
from app.http.scopes import SCOPES
from app.wire.tables import MEDIA_TYPES

SERVER_KEY, ADMIN_KEY, BEARER_KEY = "serverKey", "adminKey", "bearerKey"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Paths of pages for people, which don't belong to the API.
OUTSIDE = ("/static/", "/console")

_CONVERTED: dict[str, Callable[[], Shape]] = {
    "IdConverter": shapes.identifier,
    "WalletIdConverter": shapes.identifier,
    "UUIDConverter": lambda: {"type": "string", "format": "uuid"},
    "IntegerConverter": lambda: {**shapes.whole_number(0, 2**63 - 1), "format": "int64"},
    "UnicodeConverter": lambda: {"type": "string", "minLength": 1},
}


class NotDescribed(Exception):
    """A route, a parameter or a field has no description."""


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    rule: Rule
    view: Callable[..., Any]

    @property
    def is_of_services(self) -> bool:
        return self.path.startswith(SERVER_PREFIX)

    @property
    def is_of_operators(self) -> bool:
        return self.path.startswith(ADMIN_PREFIX)

    @property
    def has_key(self) -> bool:
        return self.is_of_services or self.is_of_operators

    @property
    def scopes(self) -> list[str]:
        """The scopes that the key must have."""
        scope = SCOPES.get(f"{self.method} {self.rule.rule}")
        return [] if scope is None else [str(scope)]

    @property
    def operation_id(self) -> str:
        return self.view.__name__

    @property
    def tag(self) -> str:
        """The subject of the route: the first significant part of its path."""
        if self.is_of_services:
            return "Token process"
        if self.is_of_operators:
            return self.path.removeprefix(ADMIN_PREFIX).split("/")[0].replace("-", " ").capitalize()
        return "Server"


def routes(app: Flask) -> Iterator[Route]:
    """Every route of the API, in the order in which they were registered."""
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
        if path.startswith(OUTSIDE):
            continue
        for method in METHODS:
            if method in (rule.methods or ()):
                yield Route(method, path, rule, app.view_functions[rule.endpoint])


def operation(route: Route, components: Components) -> Shape:
    """Raises NotDescribed."""
    described = description_of(route.view)
    if described is None:
        raise NotDescribed(f"{route.method} {route.path}: decorate {route.operation_id} with `answers`")
    made: Shape = {
        "operationId": route.operation_id,
        "summary": route.operation_id.replace("_", " ").capitalize(),
        "tags": [route.tag],
    }
    if text := glossary.docstring(route.view):
        made["description"] = text
    if route.has_key:
        made["security"] = [{SERVER_KEY if route.is_of_services else ADMIN_KEY: route.scopes}]
    elif described.has_optional_key:
        made["security"] = [{ADMIN_KEY: route.scopes}, {BEARER_KEY: route.scopes}, {}]
    if parameters := [*_path(route), *_query(route), *_headers(route, described)]:
        made["parameters"] = parameters
    if described.body is not None:
        made["requestBody"] = _body(described, described.body, components)
    made["responses"] = _responses(route, described, components)
    return made


def _path(route: Route) -> Iterator[Shape]:
    for name in re.findall(r"{(\w+)}", route.path):
        shape = _CONVERTED[type(route.rule._converters[name]).__name__]()
        yield _parameter(route, "path", name, shape, glossary.meaning(name), required=True)


def _query(route: Route) -> Iterator[Shape]:
    for parameter in query.parameters_of(route.view).values():
        text = parameter.description or glossary.meaning(parameter.name)
        made = _parameter(route, "query", parameter.name, parameter.shape, text)
        if parameter.shape.get("type") == "array":
            made |= {"style": "form", "explode": False}
        yield made


def _headers(route: Route, described: Description) -> Iterator[Shape]:
    if described.takes_key:
        text = "Makes the call repeatable: the same key and the same body answer as the first time."
        yield _parameter(route, "header", IDEMPOTENCY_HEADER, shapes.identifier(IDEMPOTENCY_KEY_LENGTH_MAX), text)
    if takes_actor(route, described):
        text = "On whose behalf the call is made. It stands in the ledger and in the audit log."
        yield _parameter(route, "header", ACTOR_HEADER, shapes.identifier(ACTOR_LENGTH_MAX), text)


def takes_actor(route: Route, described: Description) -> bool:
    """Whether a route reads the header that names a person. Operators' routes that change something do by default."""
    if described.takes_actor is not None:
        return described.takes_actor
    return route.is_of_operators and route.method != "GET"


def _parameter(
    route: Route, place: str, name: str, shape: Mapping[str, Any], text: str | None, *, required: bool = False
) -> Shape:
    if not text:
        raise NotDescribed(f"{route.method} {route.path}: nothing is said about the parameter {name}")
    return {"name": name, "in": place, "description": text, "required": required, "schema": dict(shape)}


def _body(described: Description, schema: Schema, components: Components) -> Shape:
    most = described.bytes_max or BODY_BYTES_MAX
    return {
        "description": f"At most {most // 1024} KiB. Unknown fields are {_unknown(schema)}.",
        "required": not described.body_is_optional,
        "content": {MEDIA_TYPE: {"schema": body_schema(components, schema)}},
    }


def _unknown(schema: Schema) -> str:
    return "refused" if schema.unknown == RAISE else "ignored"


def _responses(route: Route, described: Description, components: Components) -> Shape:
    responses: Shape = {}
    for status in described.statuses:
        responses[str(status)] = _success(route, described, status, components)
    usual = failures.usual(
        has_key=route.has_key,
        has_optional_key=described.has_optional_key,
        has_body=described.body is not None,
        has_path_parameters="{" in route.path,
        has_table=described.has_table,
    )
    for status, codes in failures.with_own(usual, described.refuses).items():
        if str(status) not in responses:
            responses[str(status)] = failures.failure_response(components, status, codes)
    return dict(sorted(responses.items()))


def _success(route: Route, described: Description, status: int, components: Components) -> Shape:
    headers = {REQUEST_ID_HEADER: reference("RequestId", "headers")}
    text = "Done" if route.method != "GET" else "Found"
    if described.is_repeatable and status == 200:
        headers[REPLAYED_HEADER] = reference("Replayed", "headers")
        if described.statuses != (200,):
            text = "Done before, by the same call: the same answer"
    if described.has_location:
        headers["Location"] = reference("Location", "headers")
    return {"description": f"{text}.", "headers": headers, "content": _content(route, described, components)}


def _content(route: Route, described: Description, components: Components) -> Shape:
    data = described.data.data if isinstance(described.data, OrTable) else described.data
    if isinstance(data, Bare):
        anything = {"type": "object" if data.media_type == MEDIA_TYPE else "string"}
        schema = anything if data.data is None else answer_schema(components, data.data)
        return {data.media_type: {"schema": schema}}
    shape = _items(data, components) if isinstance(data, (PageOf, ItemsOf)) else answer_schema(components, data)
    content: Shape = {MEDIA_TYPE: {"schema": _envelope(shape)}}
    if described.has_table:
        for media_type in MEDIA_TYPES.values():
            content[media_type] = {"schema": {"type": "string", "description": "All of it: a table has no pages."}}
    return content


def _items(data: PageOf | ItemsOf, components: Components) -> Shape:
    items: Shape = {"type": "array", "items": answer_schema(components, data.item)}
    if isinstance(data, ItemsOf):
        return {"type": "object", "required": ["items"], "properties": {"items": items}}
    cursor = {"type": ["string", "null"], "description": glossary.meaning("next_cursor")}
    properties = {"items": items, "next_cursor": cursor}
    if data.total is not None:
        total = answer_schema(components, data.total)
        properties["total"] = {**total, "description": "All that match together, on this page and on others."}
    return {"type": "object", "required": list(properties), "properties": properties}


def _envelope(data: Shape) -> Shape:
    return {
        "type": "object",
        "required": ["success", "message", "data"],
        "properties": {
            "success": {"const": True},
            "message": {"type": "string", "description": "For people to read."},
            "data": data,
        },
    }
