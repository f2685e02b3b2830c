"""A process is put together whole, and touches nothing before it is used."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery
from redis import Redis

from app import bootstrap
from app.bootstrap import Container
from app.config import Config
from app.stores.queue import CeleryDoorbell
from app.stores.redis.spool import Spool
from app.upkeep.watcher import Watcher

CONFIG = Config.from_environment(
    {
        "TOKENTILL_MODE": "local",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SERVER_API_KEY": "dev-server-key",
        "ADMIN_API_KEY": "dev-admin-key",
    }
)
SENTINELS = replace(CONFIG, redis_url="redis+sentinel://127.0.0.1:1,127.0.0.1:2/main/0")


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("psycopg.Connection.connect", refuse)


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize("config", [CONFIG, SENTINELS])
def test_it_neither_connects_nor_starts_a_thread(config: Config) -> None:
    threads = set(threading.enumerate())
    container = Container(config, is_watched=True)
    assert set(threading.enumerate()) <= threads
    container.close()


def test_a_missing_piece_is_missing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "LedgerAudit", lambda: None)
    with pytest.raises(TypeError):
        Container(CONFIG)


def test_close_ends_what_was_made_and_leaves_what_was_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    known: list[object] = []
    kinds = ((sa.Engine, "dispose"), (Redis, "close"), (Celery, "close"), (CeleryDoorbell, "close"), (Watcher, "stop"))
    for kind, method in kinds:
        # Clients that other tests have left are closed whenever they are collected.
        monkeypatch.setattr(kind, method, lambda self: closed.append(self) if self in known else None)
    made = Container(CONFIG)
    lent = Container(CONFIG, celery=made.celery, doorbell=made.doorbell)
    known = [*vars(made).values(), *vars(lent).values()]
    lent.close()
    assert closed == [
        lent.watcher,
        lent.watch_client,
        lent.redis_client,
        lent.export_engine,
        lent.watch_engine,
        lent.engine,
    ]
    closed.clear()
    made.close()
    made.close()
    # What uses something goes before it.
    assert closed == [
        made.watcher,
        made.doorbell,
        made.celery,
        made.watch_client,
        made.redis_client,
        made.export_engine,
        made.watch_engine,
        made.engine,
    ]


def test_all_share_one_of_each() -> None:
    container = Container(CONFIG)
    assert isinstance(container.spool, Spool)
    assert container.end._recorder._spool._spool is container.spool_drain._spool is container.stranded_marks._spool
    container.close()
