"""What is called elsewhere agrees with the description: the clients' bodies and answers, the guide's calls, and every
`curl` of the documents.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema_rs
import pytest

from tests.conftest import PROJECT
from tests.described import Described, described
from tests.typescript_types import GENERATED, types_of_token_process

TOKEN_PROCESS = "/api/token-process"
DOCUMENTS = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "clients").glob("*/README.md")),
]


@pytest.fixture(scope="module")
def wire() -> Iterator[ModuleType]:
    """The Python client's module of bodies and answers."""
    source = str(PROJECT / "clients" / "python" / "src")
    sys.path.insert(0, source)
    try:
        from tokentill import wire as found

        yield found
    finally:
        sys.path.remove(source)


def schema(part: dict[str, Any]) -> dict[str, Any]:
    """A schema of the description, whole."""
    return {**part, "components": described().document["components"]}


def body_schema(path: str) -> dict[str, Any]:
    part: dict[str, Any] = operation("post", path)["requestBody"]["content"]["application/json"]["schema"]
    return schema(part)


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = described().document["paths"][path][method]
    return found


def component(name: str) -> dict[str, Any]:
    found: dict[str, Any] = described().document["components"]["schemas"][name]
    return found


# What the client can say in each body, with everything that it can say.
def bodies(wire: ModuleType) -> dict[str, str]:
    usage = {"cached_input_token": 3, "cache_write_token": 2, "reasoning_token": 1, "requests": 2}
    run = {"user_id": "u", "feature_endpoint_id": "f", "input_token": 10, "output_token": 40, "model": "m"}
    end = wire.end_body(**run, **usage, process_id="p")
    return {
        f"{TOKEN_PROCESS}/start": wire.start_body("u", "f", 2, 60, "m"),
        f"{TOKEN_PROCESS}/end": end,
        f"{TOKEN_PROCESS}/estimate": end,
        f"{TOKEN_PROCESS}/hold/extend": wire.extend_body("u", "p", 2, 60),
        f"{TOKEN_PROCESS}/end/reverse": wire.reverse_body("u", "r", "reason", "p", "k"),
    }


def test_the_python_client_sends_what_is_described(wire: ModuleType) -> None:
    for path, text in bodies(wire).items():
        body = json.loads(text)
        jsonschema_rs.validate(body_schema(path), body)
        reference = operation("post", path)["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert set(body) == set(component(reference.rsplit("/", 1)[1])["properties"]), f"{path}: not all can be said"


@pytest.mark.parametrize(
    ("answer", "known", "own"),
    [
        ("Started", "Start", {"away"}),
        ("Ended", "End", {"replayed"}),
        ("ExtendedHold", "Hold", set()),
        ("Estimate", "Estimate", set()),
        ("Correction", "Reversal", {"replayed"}),
    ],
)
def test_the_python_client_reads_what_is_described(wire: ModuleType, answer: str, known: str, own: set[str]) -> None:
    """Each field that it reads is described, and required where it can't do without."""
    properties, required = component(answer)["properties"], set(component(answer)["required"])
    for field in dataclasses.fields(getattr(wire, known)):
        if field.name in own:
            continue
        assert field.name in properties, f"{known}.{field.name} isn't described"
        is_optional = field.default is not dataclasses.MISSING
        assert is_optional or field.name in required, f"{known}.{field.name} may be missing"


def test_the_python_clients_words_are_described(wire: ModuleType) -> None:
    assert wire.ACCESS_ABLE in component("Started")["properties"]["status"]["enum"]
    assert wire.RETURN_ABLE in component("Ended")["properties"]["status"]["enum"]
    codes = {
        code
        for response in described().document["components"]["responses"].values()
        for code in response["content"]["application/json"]["schema"]["properties"]["code"]["enum"]
    }
    assert set(wire._ERRORS_BY_CODE) <= codes
    assert set(wire._ERRORS) <= {int(name.split(".")[0]) for name in described().document["components"]["responses"]}


def test_the_typescript_client_is_compiled_against_these_types() -> None:
    """`clients/typescript/test/unit/openapi.test.ts` assigns the client's types to these, and these to the client's."""
    assert GENERATED.read_text() == types_of_token_process(described().document), (
        "the description of the token process has changed: python -m tests.typescript_types"
    )


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        (
            "start",
            {"user_id": "user123", "feature_endpoint_id": "feature456"},
            {"user_id": "user123", "token": 1000, "status": "access-able"},
        ),
        (
            "end",
            {"user_id": "user123", "feature_endpoint_id": "feature456", "input_token": 150, "output_token": 500},
            {"user_id": "user123", "token": 862.5, "cost": 137.5, "status": "return-able"},
        ),
    ],
)
def test_the_guides_calls_are_described(path: str, body: dict[str, Any], answer: dict[str, Any]) -> None:
    """Servers that were written after the guide send no more than this, and read no more than this."""
    jsonschema_rs.validate(body_schema(f"{TOKEN_PROCESS}/{path}"), body)
    responses = operation("post", f"{TOKEN_PROCESS}/{path}")["responses"]
    envelope = responses["200"]["content"]["application/json"]["schema"]
    jsonschema_rs.validate(schema(envelope), {"success": True, "message": "Done", "data": answer})


def curls() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        for line in re.findall(r"curl (?!-fs)[^|`\n]*", text):
            if "..." not in line:
                found.append((str(document.relative_to(PROJECT)), line))
    return found


@pytest.mark.parametrize(("document", "line"), curls())
def test_a_curl_of_the_documents_is_described(document: str, line: str) -> None:
    method, url, headers, body = parsed(line)
    api = described()
    parts = urlsplit(url)
    route = api.route_of(method, parts.path)
    assert route is not None, f"{document}: nothing answers {method} {parts.path}"
    operation = api.operation(route)
    parameters = {
        (each["in"], each["name"].lower() if each["in"] == "header" else each["name"]): each["schema"]
        for each in operation.get("parameters", [])
    }
    for name, values in parse_qs(parts.query).items():
        assert valid(api, parameters[("query", name)], values[0]), f"{document}: {name}={values[0]}"
    known = {name for place, name in parameters if place == "header"} | {"content-type", "accept"}
    keys = {
        api.document["components"]["securitySchemes"][name].get("name")
        for each in operation.get("security", [])
        for name in each
    }
    assert set(headers) <= known | keys, document
    is_open = not operation.get("security") or {} in operation["security"]
    assert is_open or keys & set(headers), f"{document}: no key is sent"
    if body is not None:
        jsonschema_rs.validate(schema(operation["requestBody"]["content"]["application/json"]["schema"]), body)


def parsed(line: str) -> tuple[str, str, dict[str, str], Any]:
    """Method, URL, headers and JSON body of a command line; a body from elsewhere is None."""
    words = shlex.split(line, comments=True)[1:]
    method, url, headers, body, has_body = None, "", {}, None, False
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(":")
            headers[name.strip().lower()] = value.strip()
        elif word in ("-d", "--data", "--json"):
            text = words.pop(0)
            has_body, body = True, None if text.startswith("@") else json.loads(text)
        elif word == "-o":
            words.pop(0)
        elif not word.startswith("-"):
            url = word
    return method or ("POST" if has_body else "GET"), url, headers, body


def valid(api: Described, shape: dict[str, Any], text: str) -> bool:
    value: Any = text
    if shape.get("type") == "integer":
        value = int(text)
    elif shape.get("type") == "array":
        value = text.split(",")
    return bool(jsonschema_rs.is_valid({**shape, "components": api.document["components"]}, value))
