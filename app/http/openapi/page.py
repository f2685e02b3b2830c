"""The description as a page for people: the document laid out in HTML, with one style sheet and no script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from app.http.openapi import examples
from app.wire import json

# How deep nested fields are listed. No answer of the API is nested deeper.
DEPTH_MAX = 4
# The fields of a named object are also listed where it is used, if it has at most this many.
SHORT = 12

Part = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter or a field. Nested fields have dotted names. `object` is the name of a field's named object."""

    name: str
    type: str
    text: str
    is_required: bool = False
    place: str = ""
    object: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    title: str
    request: str
    status: int
    response: str


@dataclass(frozen=True, slots=True)
class Response:
    status: str
    text: str
    rows: list[Row]
    media_types: list[str]
    headers: list[Row]


@dataclass(slots=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    text: str
    key: str
    scopes: list[str]
    parameters: list[Row]
    body: list[Row]
    body_text: str
    answers: list[Response] = field(default_factory=list)
    refusals: list[Response] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    operations: list[Operation]

    @property
    def anchor(self) -> str:
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Object:
    name: str
    text: str
    rows: list[Row]


def objects(document: Part) -> list[Object]:
    """The named objects that answers and bodies refer to."""
    reader = _Reader(document)
    return [
        Object(name, shape.get("description", ""), list(reader.rows(shape)))
        for name, shape in sorted(document["components"]["schemas"].items())
        if "properties" in shape
    ]


def groups(document: Part) -> list[Group]:
    """The operations by tag, in the document's order."""
    reader = _Reader(document)
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append(reader.operation(method.upper(), path, operation))
    return [Group(name, operations) for name, operations in found.items()]


def prose(text: str) -> Markup:
    """Render paragraphs, `code` and **strong** as HTML; everything else is plain text."""
    paragraphs = [_inline(paragraph) for paragraph in text.split("\n\n") if paragraph.strip()]
    return Markup("").join(Markup("<p>{}</p>").format(paragraph) for paragraph in paragraphs)


def breakable(text: str) -> Markup:
    """A path or a name as HTML that may be wrapped between its parts."""
    return Markup(re.sub(r"(/|_|\.)(?=.)", r"\1<wbr>", str(escape(text))))  # noqa: S704


def _inline(text: str) -> Markup:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    # The text is the server's own, and is escaped above.
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked))  # noqa: S704


class _Reader:
    def __init__(self, document: Part) -> None:
        self._document = document

    def operation(self, method: str, path: str, operation: Part) -> Operation:
        body = operation.get("requestBody")
        made = Operation(
            id=operation["operationId"],
            method=method,
            path=path,
            summary=operation["summary"],
            text=operation.get("description", ""),
            key=self._key(operation),
            scopes=[
                scope for each in operation.get("security", [])[:1] for scopes in each.values() for scope in scopes
            ],
            parameters=[self._parameter(self._resolved(each)) for each in operation.get("parameters", [])],
            body=[] if body is None else list(self.rows(self._merged(_schema_of(body)))),
            body_text="" if body is None else body["description"],
        )
        for status, response in operation["responses"].items():
            said = self._response(status, self._resolved(response))
            is_refusal = "$ref" in response
            (made.refusals if is_refusal else made.answers).append(said)
        made.examples = [
            Example(
                each["title"],
                examples.curl(method, path, made.key, each),
                each["status"],
                json.write_readable(each["answer"]),
            )
            for each in examples.of_operation(made.id)
        ]
        return made

    def _key(self, operation: Part) -> str:
        schemes = self._document["components"]["securitySchemes"]
        return next((schemes[name]["name"] for each in operation.get("security", []) for name in each), "")

    def _parameter(self, parameter: Part) -> Row:
        return Row(
            parameter["name"],
            self.type_text(parameter["schema"]),
            parameter["description"],
            parameter["required"],
            parameter["in"],
        )

    def _response(self, status: str, response: Part) -> Response:
        content = response.get("content", {})
        schema = content.get("application/json", {}).get("schema")
        headers = [
            Row(name, self.type_text(header["schema"]), header["description"], header.get("required", False))
            for name, header in ((name, self._resolved(each)) for name, each in response.get("headers", {}).items())
        ]
        rows = [] if schema is None else list(self.rows(schema))
        if status >= "400" or [row.name for row in rows[:2]] == ["success", "message"]:
            rows = rows[2:]
        return Response(status, response["description"], rows, list(content), headers)

    def rows(self, schema: Part, prefix: str = "", depth: int = 0) -> Iterator[Row]:
        """The fields of an object, and those of nested objects without a name of their own."""
        if depth > DEPTH_MAX:
            return
        schema = self._merged(schema)
        required = schema.get("required", [])
        for name, shape in schema.get("properties", {}).items():
            text = shape.get("description") or self._merged(shape).get("description", "")
            named = self._named(shape)
            yield Row(f"{prefix}{name}", self.type_text(shape), text, name in required, object=named)
            inner, suffix = self._inner(shape)
            is_short = depth == 0 and inner is not None and len(self._merged(inner)["properties"]) <= SHORT
            if inner is not None and (not named or is_short):
                yield from self.rows(inner, f"{prefix}{name}{suffix}.", depth + 1)

    def _inner(self, shape: Part) -> tuple[Part | None, str]:
        """The object nested in a field, directly or as the items of a list, and the suffix of the field's name."""
        merged = self._merged(shape)
        if merged.get("properties"):
            return merged, ""
        items = merged.get("items")
        if items is not None and self._merged(items).get("properties"):
            return items, "[]"
        return None, ""

    def _named(self, shape: Part) -> str:
        """The name of the object that a field holds, directly or as the items of a list. Empty if it has none."""
        for each in (shape, *shape.get("anyOf", []), self._merged(shape).get("items", {})):
            if "$ref" in each and self._resolved(each).get("properties"):
                return str(each["$ref"]).rsplit("/", 1)[1]
        return ""

    def _merged(self, shape: Part) -> dict[str, Any]:
        """A schema with its references and combinations resolved, and without null."""
        merged: dict[str, Any] = {}
        if "$ref" in shape:
            merged |= self._merged(self._resolved(shape))
        for each in shape.get("allOf", []):
            merged |= self._merged(each)
        options = [each for each in shape.get("anyOf", []) if each != {"type": "null"} and "required" not in each]
        if len(options) == 1:
            merged |= self._merged(options[0])
        own = {name: value for name, value in shape.items() if name != "$ref"}
        if "properties" in merged and "properties" in own:
            own["properties"] = {
                **merged["properties"],
                **{name: {**merged["properties"].get(name, {}), **each} for name, each in own["properties"].items()},
            }
        return merged | own

    def type_text(self, shape: Part) -> str:
        """A type in words: `string, 1 to 128 characters`, `number above 0`."""
        if options := [each for each in shape.get("anyOf", []) if "type" in each or "$ref" in each]:
            return " or ".join(dict.fromkeys(self.type_text(each) for each in options))
        if "$ref" in shape:
            name = str(shape["$ref"]).rsplit("/", 1)[1]
            return {"Tokens": "tokens, up to 6 decimals", "Percent": "percent, up to 2 decimals"}.get(name, name)
        merged = self._merged(shape)
        if "const" in merged:
            return str(json.write(merged["const"]).decode())
        types = merged.get("type", "object" if "properties" in merged else "any")
        kinds = [types] if isinstance(types, str) else list(types)
        if "enum" in merged:
            return " | ".join("null" if each is None else str(each) for each in merged["enum"])
        if "array" in kinds:
            return f"list of {self.type_text(merged.get('items', {}))}{_bounds(merged)}"
        named = [merged.get("format", kind) if kind == "string" else kind for kind in kinds]
        return " or ".join(named) + _bounds(merged)

    def _resolved(self, part: Part) -> Part:
        if "$ref" not in part:
            return part
        found: Any = self._document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        resolved: Part = found
        return resolved


def _bounds(shape: Part) -> str:
    said = []
    least, most = shape.get("minimum"), shape.get("maximum")
    if "exclusiveMinimum" in shape:
        said.append(f"above {shape['exclusiveMinimum']}")
    if least is not None and most is not None:
        said.append(f"{least} to {most}")
    elif most is not None:
        said.append(f"at most {most}")
    if "maxLength" in shape:
        said.append(f"{shape.get('minLength', 0)} to {shape['maxLength']} characters")
    if "maxItems" in shape:
        said.append(f"{shape.get('minItems', 0)} to {shape['maxItems']}")
    if "multipleOf" in shape:
        said.append(f"up to {-shape['multipleOf'].as_tuple().exponent} decimals")
    if shape.get("default") is not None:
        said.append(f"{json.write(shape['default']).decode()} unless given")
    return "".join(f", {each}" for each in said)


def _schema_of(body: Part) -> Part:
    schema: Part = body["content"]["application/json"]["schema"]
    return schema
