"""The clients' corrections and chargebacks on a server without faults: the auditor finds nothing wrong."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
from flask import Flask
from redis import Redis

from app.bootstrap import Container
from tests.faults import auditor, corrections, trouble
from tests.faults.book import Book, End
from tests.faults.load import LoadThread, company
from tests.faults.run import ChaosRun

pytestmark = pytest.mark.long

ACTIONS = 400


class InProcess:
    """Stands in for an API in the clients."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()

    def post(self, path: str, json: Any, headers: dict[str, str]) -> Any:
        response = self._client.post(path, json=json, headers=headers)
        return SimpleNamespace(status_code=response.status_code, json=lambda: response.json)

    def close(self) -> None:
        pass


def test_it_adds_up(
    app: Flask,
    container: Container,
    postgres_url: str,
    redis_client: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect() -> Any:
        return psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True)

    run = ChaosRun(tmp_path, 1, [], 1, 1, True, lambda _: None)
    run.book = book = Book()
    company(book)
    # Skipped, because other tests share this database.
    monkeypatch.setattr(trouble, "make_poison_possible", lambda _: None)
    run._furnish(SimpleNamespace(connect=connect))  # type: ignore[arg-type]
    with connect() as connection:
        connection.execute("UPDATE system_state SET catalog_version = catalog_version + 1")
    container.catalog.refresh()
    monkeypatch.setattr(httpx, "Client", lambda **_: InProcess(app))
    load = LoadThread(0, book, ["http://in-process"], 1, threading.Event())
    for i in range(ACTIONS):
        load._act()
        if i % 20 == 0:
            container.settlement.sweep(older_than_seconds=0)
            for wallet in container.collection.due_wallets(100):
                container.collection.collect(wallet.wallet_id, seconds=1)
    assert book.violations == []
    kinds = {correction.kind for correction in book.corrections.values()}
    assert {"reverse", "amendments"} <= kinds
    assert book.chargebacks
    assert book.open_corrections() == book.open_chargebacks() == book.open_ends() == []

    container.settlement.sweep(older_than_seconds=0)
    with connect() as connection:
        connection.execute("UPDATE wallets SET collect_at = now() WHERE debt_micros > 0")
    for wallet in container.collection.due_wallets(100):
        container.collection.collect(wallet.wallet_id, seconds=5)
    container.stale_copies.refresh(older_than_seconds=0)
    with connect() as connection:
        snapshot = auditor.take(connection, redis_client)
    # Holds may still be open.
    found = [violation for violation in auditor.check(book, snapshot) if "held" not in violation.text]
    found = [violation for violation in found if "poison" not in violation.kind]
    assert found == []

    # The auditor would find a correction that the server forgot or made twice.
    [first, *_] = (entry for entry in snapshot.ledger if entry.kind in ("reversal", "amendment"))
    snapshot.ledger.remove(first)
    assert "amount" in {violation.kind for violation in corrections.check(book, snapshot)}
    snapshot.ledger += [first, first]
    assert "amount" in {violation.kind for violation in corrections.check(book, snapshot)}
    lost = snapshot.corrections.pop()
    assert {"lost"} <= {violation.kind for violation in corrections.check(book, snapshot)}
    snapshot.corrections += [lost, lost]
    assert {"double"} <= {violation.kind for violation in corrections.check(book, snapshot)}
    assert corrections.next_of(book, End("unanswered", "hot", 1), random.Random(1)) is None
