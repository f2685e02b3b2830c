"""Examples: recorded calls with their answers. `tests/http/test_openapi_examples.py` repeats the calls."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from app.http.json import MEDIA_TYPE
from app.http.openapi.components import Components
from app.http.schemas.shapes import Shape
from app.wire import json as wire

_FILE = Path(__file__).with_name("examples.json")


@cache
def _all() -> tuple[Mapping[str, Any], ...]:
    return tuple(json.loads(_FILE.read_text(), parse_float=Decimal))


def of_operation(operation_id: str) -> Iterator[Mapping[str, Any]]:
    return (example for example in _all() if example["operation"] == operation_id)


def add(operation: Shape, components: Components) -> None:
    """Add an operation's examples where OpenAPI tools look for them: at its parameters, its body and its answers."""
    for number, example in enumerate(of_operation(operation["operationId"]), start=1):
        name = f"example-{number}"
        for place in ("path", "query", "headers"):
            _of_parameters(operation, place, example.get(place, {}), name)
        if "body" in example and example["status"] < 300:
            content = operation["requestBody"]["content"][MEDIA_TYPE]
            content.setdefault("examples", {})[name] = {"summary": example["title"], "value": example["body"]}
        response = operation["responses"][str(example["status"])]
        if "$ref" in response:
            response = components.responses[response["$ref"].rsplit("/", 1)[1]]
            name = example["answer"]["code"]
        content = response["content"][MEDIA_TYPE]
        content.setdefault("examples", {}).setdefault(name, {"summary": example["title"], "value": example["answer"]})


def _of_parameters(operation: Shape, place: str, given: Mapping[str, Any], name: str) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == place.removesuffix("s") and parameter["name"] in given:
            value = given[parameter["name"]]
            is_list = parameter["schema"].get("type") == "array"
            example = {"value": value.split(",") if is_list else value}
            parameter.setdefault("examples", {})[name] = example


def curl(method: str, path: str, key_header: str, example: Mapping[str, Any]) -> str:
    """The call as a command line."""
    place = path.format(**{name: quote(str(value), safe="") for name, value in example.get("path", {}).items()})
    query = f"?{urlencode(example['query'], safe=',:')}" if example.get("query") else ""
    words = ["curl", shlex.quote(f"http://127.0.0.1:5000{place}{query}")]
    if method not in ("GET", "POST") or (method == "POST" and "body" not in example):
        words += ["-X", method]
    headers = {**({key_header: f"${key_header.upper().replace('-', '_')}"} if key_header else {})}
    headers |= example.get("headers", {})
    lines = [" ".join(words)]
    for name, value in headers.items():
        lines.append(f'-H "{name}: {value}"')
    if "body" in example:
        lines += ["-H 'content-type: application/json'", f"-d {shlex.quote(wire.write(example['body']).decode())}"]
    return " \\\n  ".join(lines)
