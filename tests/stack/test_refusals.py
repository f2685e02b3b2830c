"""What every process says, in one line, of stores that it can't use, and that it ends with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from stack.embedded import PostgresServer
from stack.procfile import ROOT, commands
from tests.processes import BIN, free_port

Try = Callable[..., str]


@pytest.fixture
def last_words(environment: dict[str, str], tmp_path: Path) -> Try:
    """Starts a process with other settings; the one line with which it ends."""

    def call(name: str, **changes: str) -> str:
        command = commands().get(name, name)
        own = {"PORT": str(free_port()), "FLOWER_PORT": str(free_port()), "DATA_DIR": str(tmp_path), "WEB_WORKERS": "1"}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=ROOT,
            env={"PATH": f"{BIN}:{os.environ['PATH']}", **environment, **own, **changes},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode != 0, done.stdout + done.stderr
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "_URL" in line]
        assert len(set(lines)) == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return lines[0]

    return call


@pytest.mark.parametrize("name", [*commands(), "flask wallets list"])
def test_a_url_that_is_none(last_words: Try, name: str) -> None:
    said = last_words(name, REDIS_URL="redis://:secret@cache/abc")
    assert "REDIS_URL must name a database by its number" in said
    assert "secret" not in said


@pytest.mark.parametrize("name", ["release", "web", "worker", "flask wallets list"])
def test_a_database_in_another_encoding(last_words: Try, postgres_server: PostgresServer, name: str) -> None:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ascii")
        connection.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    said = last_words(name, DATABASE_URL=postgres_server.url_of("ascii"))
    assert "DATABASE_URL names a database with the encoding SQL_ASCII; it must be UTF8." in said


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_database_that_redis_does_not_have(last_words: Try, environment: dict[str, str], name: str) -> None:
    url = environment["REDIS_URL"].removesuffix("/0") + "/99"
    assert "REDIS_URL names a database that this Redis doesn't have." in last_words(name, REDIS_URL=url)
