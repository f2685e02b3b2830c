"""The whole description of the API. Each process makes it once, when it is first asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import Flask

from app.http.auth import ADMIN_HEADER, SERVER_HEADER
from app.http.openapi import examples, failures
from app.http.openapi.answers import answer_schema
from app.http.openapi.components import Components
from app.http.openapi.operations import ADMIN_KEY, BEARER_KEY, SERVER_KEY, NotDescribed, operation, routes
from app.http.schemas.shapes import Shape
from app.wire import json
from app.wire.types import Tokens

# The version of the wire contract, as in the guide for service servers.
API_VERSION = "2.0.0"

_ABOUT = """\
Tokentill decides whether a run of a feature may start, and bills what it used from a prepaid balance.

**Keys.** Service servers send `x-server-api-key`, operators `x-admin-api-key`; neither opens the other's calls.

**Envelope.** A success is `{"success": true, "message": ..., "data": {...}}`. A failure has `"success": false`, the
`status`, a stable `code`, and `errors` that name what is wrong with a request.

**Numbers.** Amounts of tokens are JSON numbers, exact to six decimals: read them as decimal numbers, not as binary
fractions, where each digit counts.

**Lists** take `limit` and `cursor` and answer `{"items": [...], "next_cursor": ...}`. With `Accept: text/csv` (or
`application/vnd.apache.parquet`, where the server can write it) they come whole, as a table.

A query parameter that a call doesn't know is a `400`; an unknown field in a body is ignored.\
"""


@dataclass(frozen=True, slots=True)
class Document:
    """`content` is the document as JSON, `etag` its hash."""

    parsed: dict[str, Any]
    content: bytes
    etag: str


def build(app: Flask) -> Document:
    """Describe every route of an application. Raises NotDescribed, ValueError or TypeError if that is impossible."""
    components = Components()
    # Have the component `Tokens` even if no answer uses it.
    answer_schema(components, Tokens)
    failures.add_schema(components)
    paths: dict[str, Shape] = {}
    ids: set[str] = set()
    tags: dict[str, None] = {}
    for route in routes(app):
        made = operation(route, components)
        examples.add(made, components)
        if made["operationId"] in ids:
            raise NotDescribed(f"Two views are called {made['operationId']}: an operation's id is its view's name")
        ids.add(made["operationId"])
        tags.update(dict.fromkeys(made["tags"]))
        paths.setdefault(route.path, {})[route.method.lower()] = made
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tokentill",
            "version": API_VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that this comes from."}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": components.responses,
            "headers": _HEADERS,
            "securitySchemes": {
                SERVER_KEY: {
                    "type": "apiKey",
                    "in": "header",
                    "name": SERVER_HEADER,
                    "description": "A service server's key.",
                },
                ADMIN_KEY: {
                    "type": "apiKey",
                    "in": "header",
                    "name": ADMIN_HEADER,
                    "description": "An operator's key.",
                },
                BEARER_KEY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An operator's key, as Prometheus sends it.",
                },
            },
        },
    }
    content = json.write(document)
    return Document(document, content, hashlib.sha256(content).hexdigest())


_HEADERS = {
    "RequestId": {
        "description": "The request's id: the one that was sent in `X-Request-Id`, if it will do, or one made here.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RetryAfter": {
        "description": "After how many seconds to try again.",
        "required": True,
        "schema": {"type": "integer"},
    },
    "Replayed": {
        "description": "Stands where the call was done before: nothing was done now.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Location": {
        "description": "Where to ask for it.",
        "schema": {"type": "string"},
    },
}
