"""The token process's types in TypeScript, made of the description: what the TypeScript client is compiled against.

python -m tests.typescript_types      writes the file again
"""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import PROJECT

PREFIX = "/api/token-process/"
GENERATED = PROJECT / "clients" / "typescript" / "test" / "support" / "openapi.ts"
HEAD = """\
// The shapes of the token process as the server describes them in /openapi.json.
// Made by `python -m tests.typescript_types` in the server's folder, whose tests hold this file to the description.
"""


def types_of_token_process(document: dict[str, Any]) -> str:
    """A TypeScript module: each schema that the calls use, and for each call its body and the data of its answer."""
    schemas = document["components"]["schemas"]
    lines: list[str] = []
    used: dict[str, None] = {}
    for path, methods in document["paths"].items():
        if not path.startswith(PREFIX):
            continue
        operation = methods["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        success = operation["responses"]["200"]["content"]["application/json"]["schema"]
        data = success["properties"]["data"]
        lines.append(
            f"  {operation['operationId']}: {{ body: {_type(body, used)}; data: {_type(data, used)} }};",
        )
    calls = ["export interface Calls {", *lines, "}"]
    _type({"$ref": "#/components/schemas/Failure"}, used)
    named: list[str] = []
    done: set[str] = set()
    while pending := [name for name in used if name not in done]:
        for name in pending:
            done.add(name)
            named.append(f"export type {name} = {_type({**schemas[name]}, used)};")
    return "\n\n".join([HEAD.strip(), "\n".join(calls), *sorted(named)]) + "\n"


def _type(shape: dict[str, Any], used: dict[str, None], indent: str = "") -> str:
    if "$ref" in shape:
        name = shape["$ref"].rsplit("/", 1)[1]
        used[name] = None
        return str(name)
    if "const" in shape:
        return json.dumps(shape["const"])
    if "enum" in shape:
        return " | ".join(json.dumps(value).replace('"', "'") for value in shape["enum"])
    # Rules about which fields stand together are no types of theirs.
    if "anyOf" in shape and "properties" not in shape:
        return " | ".join(_type(each, used, indent) for each in shape["anyOf"])
    types = shape.get("type", "unknown")
    return " | ".join(_plain(kind, shape, used, indent) for kind in ([types] if isinstance(types, str) else types))


def _plain(kind: str, shape: dict[str, Any], used: dict[str, None], indent: str) -> str:
    if kind in ("number", "integer"):
        return "number"
    if kind == "array":
        inner = _type(shape.get("items", {}), used, indent)
        return f"{inner}[]" if inner.isidentifier() else f"({inner})[]"
    if kind == "object":
        return _object(shape, used, indent)
    return kind


def _object(shape: dict[str, Any], used: dict[str, None], indent: str) -> str:
    if "properties" not in shape:
        more = shape.get("additionalProperties")
        return f"Record<string, {_type(more, used, indent) if isinstance(more, dict) else 'unknown'}>"
    inside = indent + "  "
    required = shape.get("required", [])
    fields = [
        f"{inside}{name}{'' if name in required else '?'}: {_type(each, used, inside)};"
        for name, each in shape["properties"].items()
    ]
    return "\n".join(["{", *fields, f"{indent}}}"])


if __name__ == "__main__":
    from tests.described import described

    GENERATED.write_text(types_of_token_process(described().document))
