"""The hot routes answer what Flask's views answer, and both what was answered before there were hot routes.

`answers.json` holds the answers of the release before to `exchanges.requests()`, recorded through Flask with
marshmallow and simplejson alone. An answer that is meant to change changes there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import simplejson
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields, post_load, pre_load, validates_schema

from app.domain.amounts import token_number
from app.http import calls, hot
from app.http.schemas import RequestSchema
from app.http.schemas.compiled import compiled
from app.http.schemas.fields import Text, WholeNumber
from app.http.schemas.token_process import EndSchema, StartSchema
from app.wire.json import write
from tests.http import exchanges
from tests.support import Billing

ANSWERS = Path(__file__).parent / "answers.json"


class Counted:
    """Flask's own application, and how often it was asked."""

    def __init__(self, app: Flask) -> None:
        self.requests = 0
        self._flask = app.wsgi_app._flask

    def __call__(self, *arguments: Any) -> Any:
        self.requests += 1
        return self._flask(*arguments)


@pytest.fixture
def flask(app: Flask) -> Counted:
    """In the place of the Flask that is behind the hot routes."""
    counted = Counted(app)
    app.wsgi_app._flask = counted
    return counted


class TestSameAnswers:
    @pytest.mark.parametrize("way", ["hot", "flask"])
    def test_as_before(self, billing: Billing, app: Flask, flask: Counted, way: str) -> None:
        exchanges.set_up(billing)
        asked = list(exchanges.requests())
        before = json.loads(ANSWERS.read_text(), parse_float=Decimal)
        assert len(asked) == len(before)
        for request, then in zip(asked, before, strict=True):
            now = exchanges.ask(app.wsgi_app if way == "hot" else flask, request)
            assert now.status == then["status"], request
            assert now.headers == then["headers"], request
            assert now.body == then["body"], request
            # Digit by digit: 989, not 989.0.
            assert now.numbers == then["numbers"], request
        right = sum(then["status"] == 200 for then in before)
        if way == "hot":
            assert flask.requests < len(asked) - right / 2
        else:
            assert flask.requests == len(asked)

    @pytest.mark.parametrize("route", ["start", "end", "end/batch"])
    def test_what_is_usual_is_spared_flask(self, billing: Billing, app: Flask, flask: Counted, route: str) -> None:
        exchanges.set_up(billing)
        [request] = [r for r in exchanges.requests() if r.path.endswith(f"process/{route}")][:1]
        assert exchanges.ask(app.wsgi_app, request).status == 200
        assert flask.requests == 0

    def test_what_a_service_raises_is_told_alike(
        self, billing: Billing, app: Flask, flask: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exchanges.set_up(billing)
        [request] = [r for r in exchanges.requests() if r.path.endswith("process/start")][:1]

        def fail(*_: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(billing.container.start, "start", fail)
        answers = [exchanges.ask(way, request) for way in (app.wsgi_app, flask)]
        assert answers[0] == answers[1]
        assert answers[0].status == 500
        assert "bug" not in json.dumps(answers[0].body)

    def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one(self, billing: Billing, app: Flask) -> None:
        exchanges.set_up(billing)
        [request] = [r for r in exchanges.requests() if r.path.endswith("process/end")][:1]
        answer = exchanges.ask(_cut(app.wsgi_app), request)
        assert answer.status == 400

    def test_every_hot_route_has_its_view(self, app: Flask) -> None:
        rules = {rule.rule for rule in app.url_map.iter_rules() if rule.methods and "POST" in rule.methods}
        assert set(hot._ROUTES) <= rules


def _cut(app: Any) -> Callable[..., Any]:
    def cut(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read()[:-3])
        return app(environ, start_response)

    return cut


# JSON out --------------------------------------------------------------------------------------------

WIRE_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
AMOUNTS = st.integers(-(2**63), 2**63 - 1).map(token_number)
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | AMOUNTS | WIRE_TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WIRE_TEXT, inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(WIRE_TEXT, BODIES, max_size=5))
def test_bodies_are_written_as_simplejson_did(body: dict[str, Any]) -> None:
    ours = write(body).decode()
    theirs = simplejson.dumps(body, use_decimal=True, separators=(",", ":"), allow_nan=False)
    # Numbers as they stand there; texts may be escaped otherwise.
    as_written = {"parse_float": lambda digits: ("number", digits), "parse_int": lambda digits: ("number", digits)}
    assert json.loads(ours, **as_written) == json.loads(theirs, **as_written)


@given(st.integers(-(2**63), 2**63 - 1))
def test_amounts_are_written_without_exponent_or_trailing_zero(micros: int) -> None:
    text = write({"token": token_number(micros)}).decode().removeprefix('{"token":').removesuffix("}")
    assert set(text) <= set("-.0123456789")
    assert Decimal(text) * 1_000_000 == micros
    assert "." not in text or not text.endswith("0")


# Compiled schemas ------------------------------------------------------------------------------------

COMPILED = [StartSchema, EndSchema]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 200_000_000)
    | st.decimals(allow_nan=False)
    | st.text(max_size=140)
    | st.sampled_from(["user-1", "x" * 128, "x" * 129, "\x7f", "\u202e", "\u0085", "é", ""])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


def right_values(field: fields.Field[Any]) -> st.SearchStrategy[Any]:
    if isinstance(field, Text):
        return st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)
    return st.integers(1, 1_000)


@pytest.mark.parametrize("schema", [schema() for schema in COMPILED], ids=lambda schema: type(schema).__name__)
@given(data=st.data())
@settings(max_examples=300)
def test_what_is_compiled_loads_and_refuses_as_the_schema_does(schema: Schema, data: st.DataObject) -> None:
    names = [field.data_key or name for name, field in schema.load_fields.items()]
    by_name = {field.data_key or name: field for name, field in schema.load_fields.items()}
    body: dict[str, Any] = {}
    # Mostly right, so that what is wrong stands alone now and then.
    for name in data.draw(st.lists(st.sampled_from(names), unique=True)):
        body[name] = data.draw(st.one_of(right_values(by_name[name]), right_values(by_name[name]), VALUES))
    for name in names:
        if by_name[name].required and name not in body and data.draw(st.integers(0, 4)):
            body[name] = data.draw(right_values(by_name[name]))
    body |= data.draw(st.dictionaries(st.text(max_size=5), VALUES, max_size=2))
    assert outcome(compiled(schema), body) == outcome(schema.load, body)


@pytest.mark.parametrize("body", [None, [], "text", 5, [{}]])
def test_what_is_no_object_is_refused_alike(body: Any) -> None:
    schema = StartSchema()
    assert outcome(compiled(schema), body) == outcome(schema.load, body)


def outcome(load: Callable[[Any], Any], body: Any) -> Any:
    try:
        return load(body)
    except ValidationError as error:
        return error.normalized_messages()


class TestNothingIsForgotten:
    def test_a_new_field_is_read(self) -> None:
        class Wider(EndSchema):
            extra = WholeNumber(load_default=7)

            @post_load
            def _request(self, data: dict[str, Any], **_: Any) -> Any:
                return data["extra"]

        load = compiled(Wider())
        right = {"user_id": "u", "feature_endpoint_id": "f", "input_token": 1, "output_token": 1}
        assert (load(right), load({**right, "extra": 3})) == (7, 3)
        with pytest.raises(ValidationError):
            load({**right, "extra": -1})

    def test_a_validator_of_a_field_is_asked(self) -> None:
        def refuse(_: str) -> None:
            raise ValidationError("no")

        class Strict(RequestSchema):
            text = Text(required=True, validate=refuse)

        with pytest.raises(ValidationError, match="no"):
            compiled(Strict())({"text": "right"})

    def test_what_only_marshmallow_runs_is_refused_at_once(self) -> None:
        class Before(RequestSchema):
            @pre_load
            def _before(self, data: Any, **_: Any) -> Any:
                return data

        class Whole(RequestSchema):
            @validates_schema
            def _whole(self, data: Any, **_: Any) -> None:
                return None

        class Original(RequestSchema):
            @post_load(pass_original=True)
            def _after(self, data: Any, original: Any, **_: Any) -> Any:
                return original

        class Absent(RequestSchema):
            text = Text()

        class Raising(Schema):
            text = Text(required=True)

        for schema in (Before, Whole, Original, Absent, Raising):
            with pytest.raises(TypeError):
                compiled(schema())


def test_calls_read_by_compiled_schemas_only() -> None:
    # Whatever is compiled there stands in COMPILED, and is compared above.
    source = Path(calls.__file__).read_text()
    assert source.count("compiled(") == len(COMPILED)
    assert all(f"compiled({schema.__name__}())" in source for schema in COMPILED)
