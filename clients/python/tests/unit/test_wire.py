from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.unit.fake import Fake, failure, success
from tokentill import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FeatureNotAvailableError,
    TokenProcess,
    TokenProcessError,
    UnavailableError,
    ValidationError,
    WalletNotFoundError,
    wire,
)


def parse(text: str) -> dict[str, Any]:
    data: dict[str, Any] = wire.parse(200, text)["data"]
    return data


def test_amounts_are_exact_and_never_floats() -> None:
    data = parse(
        '{"success": true, "data": {"a": 989, "b": 0.1, "c": 989.0, "d": 9007199254.740993, "e": -2.75}}'
    )
    assert data == {
        "a": 989,
        "b": Decimal("0.1"),
        "c": 989,
        "d": Decimal("9007199254.740993"),
        "e": Decimal("-2.75"),
    }
    assert [type(value) for value in data.values()] == [int, Decimal, int, Decimal, Decimal]


def test_a_hold_is_written_exactly_as_given() -> None:
    text = wire.start_body("u", "f", Decimal("9007199254.740993"), 60)
    assert json.loads(text, parse_float=Decimal) == {
        "user_id": "u",
        "feature_endpoint_id": "f",
        "hold_seconds": 60,
        "hold_token": Decimal("9007199254.740993"),
    }
    assert '"hold_token": 0.000001}' in wire.start_body("u", "f", Decimal("1E-6"), None)


@pytest.mark.parametrize("hold", [0, -1, Decimal("NaN"), Decimal("Infinity"), "much"])
def test_a_hold_that_is_no_amount_is_refused_before_it_is_sent(hold: Any) -> None:
    with pytest.raises(ValidationError, match="hold_token"):
        wire.start_body("u", "f", hold, None)


@pytest.mark.parametrize(("value", "count"), [(None, 0), (0, 0), (7, 7), (7.0, 7)])
def test_counts_of_tokens(value: Any, count: int) -> None:
    assert wire.token_count("output_token", value) == count


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", float("nan"), [1], {}])
def test_what_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        wire.token_count("output_token", value)
    assert list(caught.value.errors) == ["output_token"]


@pytest.mark.parametrize("user_id", ["", None, 7])
def test_ids_are_strings(user_id: Any) -> None:
    with pytest.raises(ValidationError, match="user_id"):
        wire.start_body(user_id, "f", None, None)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failure(400, "validation_failed"), ValidationError),
        (failure(401), AuthenticationError),
        (failure(403, "feature_not_available"), FeatureNotAvailableError),
        (failure(404, "wallet_not_found"), WalletNotFoundError),
        (failure(404), WalletNotFoundError),
        (failure(404, "not_found"), TokenProcessError),
        (failure(405, "method_not_allowed"), TokenProcessError),
        (failure(409, "idempotency_conflict"), ConflictError),
        (failure(413), ValidationError),
        (failure(415), ValidationError),
        (failure(500, "internal_error"), UnavailableError),
        (failure(503), UnavailableError),
        (httpx.Response(404, text="<html>"), TokenProcessError),
        (httpx.Response(302, headers={"Location": "/login"}), TokenProcessError),
        (httpx.Response(200, text="<html>"), UnavailableError),
        (httpx.Response(200, json=[1]), UnavailableError),
        (success({"user_id": "u"}), UnavailableError),
    ],
)
def test_each_answer_has_its_error(answer: httpx.Response, kind: type[TokenProcessError]) -> None:
    fake = Fake(answers=[answer] * 50)
    with fake.client(total_timeout_seconds=0.001) as client, pytest.raises(TokenProcessError) as caught:
        client.end("u", "f", 1, 1)
    assert type(caught.value) is kind


def test_an_error_says_what_the_server_said() -> None:
    answer = failure(400, "validation_failed", errors={"output_token": ["Too large."]}, request_id="r-1")
    with Fake(answers=[answer]).client() as client, pytest.raises(ValidationError) as caught:
        client.end("u", "f", 1, 1)
    error = caught.value
    assert (error.status, error.code, error.request_id) == (400, "validation_failed", "r-1")
    assert str(error) == "says 400 (output_token: Too large.; request r-1)"


def test_a_feature_outside_the_package_carries_the_balance() -> None:
    data = {"user_id": "u", "token": 50, "status": "not-access-able"}
    answer = failure(403, "feature_not_available", data=data)
    with Fake(answers=[answer]).client() as client, pytest.raises(FeatureNotAvailableError) as caught:
        client.start("u", "f")
    assert caught.value.token == 50


@pytest.mark.parametrize(
    ("url", "key", "named"),
    [
        ("http://localhost:5000", "", "SERVER_API_KEY"),
        ("localhost:5000", "key", "TOKEN_SERVER_URL"),
        ("http://", "key", "TOKEN_SERVER_URL"),
        ("http://localhost:5000", "kéy", "SERVER_API_KEY"),
        ("http://localhost:5000", "k\ney", "SERVER_API_KEY"),
    ],
)
def test_wrong_settings_name_their_variable(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, named: str
) -> None:
    monkeypatch.delenv("SERVER_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=named):
        TokenProcess(url, key)


def test_the_key_and_the_environment_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_SERVER_URL", "http://billing.test/")
    monkeypatch.setenv("SERVER_API_KEY", "from-the-environment")
    fake = Fake()
    with TokenProcess(transport=httpx.MockTransport(fake)) as client:
        assert client.start("u", "f").access_able
    assert fake.calls[0].headers["x-server-api-key"] == "from-the-environment"
    assert fake.calls[0].headers["host"] == "billing.test"
