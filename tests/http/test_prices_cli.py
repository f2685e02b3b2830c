"""Prices from the command line."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from click.testing import Result
from flask import Flask

from app.bootstrap import Container
from app.cli import cli
from app.web import create_app
from tests.support import FEATURE, Billing

Run = Callable[..., Result]

RATES = ("--input-per-million", "2000", "--output-per-million", "8000")
USAGE = ("--input-token", "1000", "--output-token", "500")


@pytest.fixture
def run(billing: Billing, make_container: Callable[[], Container]) -> Run:
    """In a process of its own, which has seen nothing of the catalog yet."""
    billing.catalog(basis_points=1_250)
    billing.wallet("alice", tokens=100)

    def called(*arguments: str) -> Result:
        config = billing.container.config
        app: Flask = create_app(container=Container(config))
        try:
            return app.test_cli_runner().invoke(cli, arguments)
        finally:
            app.extensions["tokentill"].close()
            app.extensions["tokentill"].celery.close()

    return called


@pytest.fixture
def show(run: Run) -> Callable[..., Any]:
    def called(*arguments: str) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return simplejson.loads(result.stdout, use_decimal=True)

    return called


def test_add_and_list(run: Run, show: Callable[..., Any]) -> None:
    tiers = ("--tier", "500:per_request=0.5", "--tier", "200:input_per_million=4000,output_per_million=0.000001")
    made = show("prices", "add", "--model", "gpt-4.1*", "--feature", FEATURE, *RATES, "--per-request", "0.25", *tiers)
    assert (made["model"], made["feature_endpoint_id"], made["per_request"]) == ("gpt-4.1*", FEATURE, Decimal("0.25"))
    assert made["tiers"] == [
        {"above_input_token": 200, "input_per_million": 4_000, "output_per_million": Decimal("0.000001")},
        {"above_input_token": 500, "per_request": Decimal("0.5")},
    ]
    other = show("prices", "add", *RATES, "--effective-from", "2030-01-01T00:00:00Z")
    assert show("prices", "list")["items"] == [other, made]
    assert show("prices", "list", "--model", "gpt-4.1*", "--feature", FEATURE)["items"] == [made]
    shown = run("prices", "list", "--limit", "1", "--before", str(other["id"])).stdout
    assert "200:input_per_million=4000,output_per_million=0.000001, 500:per_request=0.5" in shown


def test_what_is_refused(run: Run, show: Callable[..., Any]) -> None:
    def refused(exit_code: int, text: str, *arguments: str) -> None:
        result = run("prices", *arguments)
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert text in result.stderr

    moment = ("--effective-from", "2030-01-01T00:00:00Z")
    show("prices", "add", *RATES, *moment)
    refused(1, "Price exists already", "add", *RATES, *moment)
    refused(1, "Feature endpoint not found", "add", *RATES, "--feature", "none")
    refused(1, "input_per_million: Too high", "add", "--input-per-million", "40000000", "--output-per-million", "1")
    refused(2, "--output-per-million", "add", "--input-per-million", "1")
    refused(2, "last character", "add", *RATES, "--model", "a*b")
    refused(2, "At most 6 decimals", "add", *RATES, "--per-request", "0.0000001")
    for tier in ("200", "x:per_request=1", "200:price=1", "200:per_request=1,per_request=2", "200:per_request=-1"):
        refused(2, "--tier", "add", *RATES, "--tier", tier)
    refused(2, "tiers", "add", *RATES, "--tier", "5:per_request=1", "--tier", "5:per_request=2")
    refused(1, "Feature endpoint not found", "estimate", "--feature", "none", *USAGE)
    refused(1, "wallet not found", "estimate", "--feature", FEATURE, *USAGE, "--user", "nobody")
    refused(2, "--reasoning-token", "estimate", "--feature", FEATURE, *USAGE, "--reasoning-token", "501")
    refused(2, "--output-per-million", "estimate", "--feature", FEATURE, *USAGE, "--input-per-million", "1")


def test_estimate(run: Run, show: Callable[..., Any]) -> None:
    asked = ("prices", "estimate", "--feature", FEATURE, "--model", "gpt-4.1", *USAGE)
    by_default = show(*asked)
    assert (by_default["cost"], by_default["price_id"], by_default["is_draft"]) == (Decimal("140.625"), None, False)
    price_id = show("prices", "add", "--model", "gpt-4.1", *RATES)["id"]
    now = show(*asked, "--cached-input-token", "400", "--user", "alice")
    assert (now["cost"], now["price_id"], now["token"]) == (Decimal("6.75"), price_id, Decimal("93.25"))
    assert now["status"] == "return-able"
    draft = show(*asked, "--input-per-million", "1000", "--output-per-million", "1000")
    assert (draft["base_cost"], draft["price_id"], draft["is_draft"]) == (Decimal("1.5"), None, True)
    assert draft["parts"]["output_token"] == Decimal("0.5")
    assert "of output_token" in run(*asked).stdout
