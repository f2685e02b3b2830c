"""Exports through the real web server: whoever hangs up ends the query, and the server stays small."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests import processes
from tests.conftest import ADMIN_KEY
from tests.http.test_tables import fill, running
from tests.support import Billing

ROWS = 150_000
HEADERS = {"x-admin-api-key": ADMIN_KEY}


@pytest.fixture
def ledger(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet("ann")
    fill(billing, ROWS)
    return billing


@pytest.mark.parametrize("accept", ["text/csv", "application/vnd.apache.parquet"])
def test_who_hangs_up_ends_the_query(ledger: Billing, environment: dict[str, str], tmp_path: Path, accept: str) -> None:
    with processes.web(environment, tmp_path) as (url, _):
        for _ in range(3):
            call = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
            call.request("GET", "/api/admin/transactions", headers={**HEADERS, "Accept": accept})
            answer = call.getresponse()
            assert answer.status == 200
            assert answer.read(10_000)
            answer.close()
            call.close()
            processes.wait_until(lambda: running(ledger) == 0, seconds=20, what="the end of the query")


def test_the_whole_ledger_in_constant_memory(
    ledger: Billing, environment: dict[str, str], tmp_path: Path, postgres_url: str
) -> None:
    with processes.web(environment, tmp_path) as (url, _):
        call = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        call.request("GET", "/api/admin/transactions", headers={**HEADERS, "Accept": "text/csv"})
        answer = call.getresponse()
        lines = 0
        while block := answer.read(1_000_000):
            lines += block.count(b"\n")
        assert lines == ROWS + 2
        call.close()
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%'").fetchone() == (0,)
