"""The proxy passes everything on, and cuts exactly the commits it was armed for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.faults.proxy import PostgresProxy, Reader


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[PostgresProxy]:
    proxy = PostgresProxy(urlsplit(postgres_url).port or 0, seed=1)
    yield proxy
    proxy.close()


@pytest.fixture
def url(proxy: PostgresProxy, postgres_url: str) -> str:
    return postgres_url.replace(f":{urlsplit(postgres_url).port}/", f":{proxy.port}/")


def test_everything_passes(url: str) -> None:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT repeat('x', 500000)").fetchone()
        assert row is not None
        assert len(row[0]) == 500_000
        connection.execute("SELECT length(%s)", ["y" * 500_000])


def test_an_armed_commit_is_cut_and_others_are_not(proxy: PostgresProxy, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        connection.commit()
        proxy.arm("commit", 1)
        connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        connection.commit()
    assert sum(proxy.cuts.values()) == 1


def test_an_armed_insert_is_cut(proxy: PostgresProxy, url: str) -> None:
    # Prepared on the server, as psycopg does with frequent statements.
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        insert = "WITH nothing AS (SELECT 1 WHERE %s) INSERT INTO end_inbox SELECT * FROM end_inbox WHERE false"
        connection.execute(insert, [False])
        connection.execute(insert, [False])
        proxy.arm("insert", 1)
        connection.execute("SELECT %s", [1])
        with pytest.raises(psycopg.OperationalError):
            connection.execute(insert, [False])
    assert proxy.armed == 0


def test_refusing_cuts_and_keeps_out_until_allowed(proxy: PostgresProxy, url: str) -> None:
    with psycopg.connect(url) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)
    proxy.allow()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")


def test_the_reader_finds_a_commit_however_the_bytes_come() -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    start_up = (8).to_bytes(4, "big") + (196608).to_bytes(4, "big")
    stream = start_up + message(b"Q", b"BEGIN\0") + message(b"Q", b"COMMIT\0") + message(b"Q", b"SELECT 1\0")
    for step in (1, 3, 7, len(stream)):
        reader = Reader()
        passed, kinds = b"", []
        for i in range(0, len(stream), step):
            chunk = stream[i : i + step]
            while True:
                before, commit, kind = reader.feed(chunk)
                passed += before + commit
                if kind is None:
                    break
                kinds.append(kind)
                chunk = b""
        assert passed == stream
        assert kinds == ["commit"]
