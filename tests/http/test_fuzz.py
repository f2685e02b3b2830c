"""The whole API against its description, by schemathesis with all of its checks: examples, every limit of every field
on either side of it, random data, and calls in a row.

A server on loopback answers. What is sent is the same in each run. Rules that JSON Schema can't tell (one number is no
more than another one, a cursor is of this list) are kept for it by `MEANT`, so that data that is called valid is.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineFinished, FatalError, NonFatalError, ScenarioFinished
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.support import Billing

pytestmark = pytest.mark.long

BATCH = "/api/token-process/end/batch"
PRICES = {
    "litellm": {"model-1": {"mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}},
    "models.dev": {"maker": {"models": {"model-1": {"cost": {"input": 1, "output": 2}}}}},
}
SETTINGS: dict[str, Any] = {
    "seed": 20261126,
    "auth": {
        "openapi": {
            "serverKey": {"api_key": SERVER_KEY},
            "adminKey": {"api_key": ADMIN_KEY},
            "bearerKey": {"bearer": ADMIN_KEY},
        }
    },
    "continue-on-failure": True,
    "request-timeout": 60,
    "generation": {"deterministic": True, "database": "none", "max-examples": 3},
    "phases": {"stateful": {"generation": {"max-examples": 5}}},
    "operations": [
        # One bad end never fails its neighbours: it is refused in its place of the answer, which is 200.
        {"include-path": BATCH, "checks": {"negative_data_rejection": {"enabled": False}}},
    ],
}


class _Handler(WSGIRequestHandler):
    # Connections stay open, as a real server's do.
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        pass


@pytest.fixture
def url(app: Flask, billing: Billing, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with a small catalog and a wallet."""
    # So many wrong keys as are sent here would be made to wait: 429 in place of 401.
    monkeypatch.setattr(billing.container.wrong_keys, "wait_seconds", lambda _: 0.0)
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=1_000)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    "part",
    ["^/api/token-process/", "^/api/admin/[a-e]", "^/api/admin/[f-o]", "^/api/admin/[p-z]", "^/(?!api/)"],
    ids=["services", "operators a-e", "operators f-o", "operators p-z", "open"],
)
def test_schemathesis_finds_nothing(url: str, part: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    document["paths"] = {path: methods for path, methods in document["paths"].items() if re.match(part, path)}
    config = SchemathesisConfig.from_dict({**SETTINGS, "base-url": url})
    schema = schemathesis.openapi.from_dict(document, config=config)
    found: list[str] = []
    tried: set[str] = set()
    for event in from_schema(schema).execute():
        if isinstance(event, (NonFatalError, FatalError)):
            found.append(f"{event}")
        elif isinstance(event, EngineFinished):
            assert event.stop_reason == "completed"
        elif isinstance(event, ScenarioFinished):
            tried |= {case.value.operation.label for case in event.recorder.cases.values()}
            found += [
                f"{event.recorder.cases[number].value.operation.label}: {check.failure_info.failure}\n"
                f"{check.failure_info.code_sample}"
                for number, checks in event.recorder.checks.items()
                for check in checks
                if check.failure_info is not None
            ]
    assert not found, f"{len(found)} findings, the first of them:\n\n" + "\n\n".join(found[:10])
    assert tried


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make data that is valid by the schema mean something, too."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        # Only a list itself can make one.
        case.query.pop("cursor", None)
        _half_open(case.query)
        if case.operation.path.endswith("/balances"):
            # A year at most, up to today unless it is said until when.
            case.query.pop("from", None)
    if case.method == "DELETE" and case.operation.path.endswith("-rules"):
        # Of one, and not of both.
        case.query = {"package_id": "basic"}
    if isinstance(case.body, dict):
        for mean in MEANT.get(case.operation.path, ()):
            mean(case.body)


def _half_open(body: dict[str, Any]) -> None:
    """No range ends before it begins."""
    for first, last in RANGES:
        if body.get(first) is not None:
            body.pop(last, None)


def _parts(body: dict[str, Any]) -> None:
    """No part is more than its whole."""
    for part in ("cached_input_token", "cache_write_token", "reasoning_token"):
        if body.get(part):
            body[part] = 0


def _affordable(body: dict[str, Any]) -> None:
    """All rates together cost no more than can be counted, whatever the profit."""
    rates = {name: body[name] for name in body if name.endswith("_per_million") or name == "per_request"}
    body |= {name: min(rate, 1) for name, rate in rates.items() if rate is not None}


def _tiers(body: dict[str, Any]) -> None:
    """Each begins above another length."""
    by_length = {tier["above_input_token"]: tier for tier in body.get("tiers") or ()}
    if "tiers" in body and body["tiers"] is not None:
        body["tiers"] = list(by_length.values())
    for tier in by_length.values():
        _affordable(tier)


def _draft(body: dict[str, Any]) -> None:
    if body.get("price"):
        _affordable(body["price"])
        _tiers(body["price"])


def _list_of_prices(body: dict[str, Any]) -> None:
    """A list in its own format, of which something is wanted, from now on."""
    body |= {"list": PRICES[body["format"]], "tokens_per_dollar": 1}
    for name in ("providers", "models", "exclude_models", "effective_from"):
        body.pop(name, None)


def _calendar(body: dict[str, Any]) -> None:
    """A day of a week or of a month, and none of a day; a schedule ends after it has begun."""
    body["day"] = None if body["period"] == "daily" else 1
    body.pop("starts_on", None)
    body.pop("ends_on", None)


# Query parameters of which the first doesn't end before the second begins.
RANGES = (("from", "to"), ("older_than", "younger_than"), ("min_cost", "max_cost"))


def _endpoint(body: dict[str, Any]) -> None:
    """Somewhere on the internet."""
    if "url" in body:
        body["url"] = "https://shop.example.com/hooks"


def _auto_top_up(body: dict[str, Any]) -> None:
    """All of it, and no more in a month than fits."""
    body |= {"below_token": 1, "token": 2, "token_per_month": None}


def _low_balance(body: dict[str, Any]) -> None:
    """An amount or a percentage."""
    if body.get("below_token") is not None:
        body.pop("below_percent", None)


Meant = Callable[[dict[str, Any]], Any]
MEANT: dict[str, tuple[Meant, ...]] = {
    "/api/token-process/end": (_parts,),
    "/api/token-process/estimate": (_parts,),
    "/api/admin/ends/{end_id}/amendments": (_parts,),
    "/api/admin/prices": (_affordable, _tiers),
    "/api/admin/prices/estimate": (_parts, _draft),
    "/api/admin/price-imports": (_list_of_prices,),
    "/api/admin/repricings": (_half_open,),
    "/api/admin/bulk-actions": (lambda body: _half_open(body.get("filter") or {}),),
    "/api/admin/top-up-schedules": (_calendar,),
    "/api/admin/webhook-endpoints": (_endpoint,),
    "/api/admin/webhook-endpoints/{number}": (_endpoint,),
    "/api/admin/webhook-endpoints/{number}/replay": (_half_open,),
    "/api/admin/auto-top-up-rules": (_auto_top_up,),
    "/api/admin/low-balance-rules": (_low_balance,),
    # A key ends in the future.
    "/api/admin/keys": (lambda body: body.pop("expires_at", None),),
}
