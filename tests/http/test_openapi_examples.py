"""The examples of the description are true: their calls are made, and answer what stands there.

RECORD_EXAMPLES=1 writes them again. Ids, moments and keys differ from run to run: they are compared by their places.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import simplejson
from flask.testing import FlaskClient

from app.http.openapi import examples
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.described import described
from tests.http.api_story import STORY, Meanwhile, Step
from tests.support import Billing

RECORDED = Path(examples.__file__).with_name("examples.json")
# Not to be repeated word by word: texts for people and for Prometheus.
WITHOUT = {"metrics", "show_description", "show_docs", "show_docs_style"}
_CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?:-[0-9a-f]{12})?"
    r"|20\d\d-\d\d-\d\dT[\d:.]+Z"
)
_SECRET = re.compile(r"(tt_\w+?_[0-9a-z]+_|whsec_)[\w+/=]+")


def test_each_example_is_true(client: FlaskClient, billing: Billing) -> None:
    told = [_told(client, step, kept) for kept in [{}] for step in _steps(billing)]
    if os.environ.get("RECORD_EXAMPLES"):
        RECORDED.write_text(_SECRET.sub(r"\1" + 43 * "x", simplejson.dumps(told, use_decimal=True, indent=1)) + "\n")
    recorded = simplejson.loads(RECORDED.read_text(), use_decimal=True)
    assert len(told) == len(recorded), "RECORD_EXAMPLES=1 writes the examples again"
    for made, expected in zip(_masked(told), _masked(recorded), strict=True):
        assert made == expected, "RECORD_EXAMPLES=1 writes the examples again"


def test_every_operation_has_an_example() -> None:
    known = {
        operation["operationId"] for methods in described().document["paths"].values() for operation in methods.values()
    }
    assert known - WITHOUT == {step.operation for step in STORY if isinstance(step, Step)}


def _steps(billing: Billing) -> Any:
    for step in STORY:
        if isinstance(step, Meanwhile):
            step.work(billing)
        else:
            yield step


def _told(client: FlaskClient, step: Step, kept: dict[str, Any]) -> dict[str, Any]:
    """Make a call, and tell it as an example."""
    path, method, operation = _operation(step.operation)
    parameters = {name: _filled(value, kept) for name, value in step.path.items()}
    body = _filled(step.body, kept)
    response = client.open(
        path.format(**parameters),
        method=method,
        query_string=dict(step.query),
        headers={"x-server-api-key": SERVER_KEY, "x-admin-api-key": ADMIN_KEY, **step.headers},
        data=None if body is None else simplejson.dumps(body, use_decimal=True),
        content_type=None if body is None else "application/json",
    )
    answer = simplejson.loads(response.data, use_decimal=True)
    expected = step.status or min(status for status in operation["responses"] if status < "300")
    assert response.status_code == int(expected) or (step.status is None and response.status_code < 300), answer
    kept |= {name: _at(answer, where) for name, where in step.keeps.items()}
    told = {"operation": step.operation, "title": step.title or "As usual", "status": response.status_code}
    given = {"path": parameters, "query": dict(step.query), "headers": dict(step.headers), "body": body}
    return {
        **told,
        **{name: value for name, value in given.items() if value is not None and (value != {} or name == "body")},
        "answer": answer,
    }


def _operation(name: str) -> tuple[str, str, dict[str, Any]]:
    for path, methods in described().document["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] == name:
                return path, method.upper(), operation
    raise AssertionError(f"There is no operation {name}")


def _filled(value: Any, kept: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(each, kept) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, kept) for each in value]
    if isinstance(value, str) and value.startswith("{") and value[1:-1] in kept:
        return kept[value[1:-1]]
    return value


def _at(answer: Any, where: str) -> Any:
    for part in where.split("."):
        answer = answer[int(part)] if isinstance(answer, list) else answer[part]
    return answer


def _masked(told: list[dict[str, Any]]) -> list[Any]:
    """What changes from run to run by its turn: the same thing has the same name wherever it stands."""
    text = _SECRET.sub("<secret>", simplejson.dumps(told, use_decimal=True, sort_keys=True))
    # Ids of keys are short texts: known by where they first stand.
    steps = [step for step in STORY if isinstance(step, Step)]
    for example, step in zip(told, steps, strict=True):
        for name, where in step.keeps.items():
            if "key" in name:
                text = text.replace(_at(example["answer"], where), f"<{name}>")
    names: dict[str, str] = {}

    def mask(found: re.Match[str]) -> str:
        is_moment = found[0][:2] == "20" and found[0][4] == "-"
        return "<moment>" if is_moment else names.setdefault(found[0], f"<{len(names)}>")

    masked: list[Any] = json.loads(_CHANGING.sub(mask, text))
    return masked
