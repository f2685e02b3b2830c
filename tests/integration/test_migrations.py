"""Migrations of a database that is in use: nobody who writes to it waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from app.stores.postgres import engine
from migrations.indexes import OthersInTheWay
from stack.embedded import PostgresServer
from tests.conftest import PROJECT
from tests.processes import wait_until

DATABASE = "migrated"
INDEX = "wallets_package_id"
BUILD = f'create_index("{INDEX}", on="wallets (package_id)")'
BUILD_UNIQUE = f'create_index("{INDEX}", on="wallets (package_id)", unique=True)'
DROP = f'drop_index("{INDEX}")'


class Migration:
    """One more of them, behind all that there are."""

    def __init__(self, url: str, folder: Path, body: str) -> None:
        versions = PROJECT / "migrations" / "versions"
        head = ScriptDirectory(str(PROJECT / "migrations")).get_current_head()
        (folder / "9999_more.py").write_text(
            "from alembic import op\nfrom migrations.indexes import create_index, drop_index\n"
            f"revision, down_revision = '9999', {head!r}\n\ndef upgrade():\n    {body}\n"
        )
        self.ini = folder / "alembic.ini"
        self.ini.write_text(
            f"[alembic]\nscript_location = {PROJECT}/migrations\nprepend_sys_path = {PROJECT}\n"
            f"path_separator = os\nversion_locations = {versions}{os.pathsep}{folder}\n"
        )
        self.url = url

    def run(self) -> None:
        command.upgrade(AlembicConfig(str(self.ini)), "head")

    def is_done(self) -> bool:
        with psycopg.connect(self.url) as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


@pytest.fixture
def url(postgres_server: PostgresServer, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of the present schema, with two wallets of one package."""
    url = postgres_server.create_database(DATABASE)
    monkeypatch.setenv("DATABASE_URL", url)
    command.upgrade(AlembicConfig(str(PROJECT / "alembic.ini")), "head")
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO packages (id, name) VALUES ('basic', 'Basic')")
    open_wallets(url, "alice", "bob")
    yield url
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture
def migration(url: str, tmp_path: Path) -> Callable[[str], Migration]:
    return lambda body: Migration(url, tmp_path, body)


def open_wallets(url: str, *user_ids: str) -> None:
    """As the API does, who takes a wallet for busy after a second."""
    with psycopg.connect(url, options="-c lock_timeout=1s") as connection:
        for user_id in user_ids:
            connection.execute(
                "INSERT INTO wallets (wallet_id, user_id, package_id) VALUES (%s, %s, 'basic')", (user_id, user_id)
            )


@contextmanager
def kept_open(url: str, statement: str, isolation: str = "READ COMMITTED") -> Iterator[psycopg.Connection[Any]]:
    """A transaction that goes on until it is committed here, or to the end."""
    with psycopg.connect(url) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        connection.execute(statement)
        yield connection


def an_export(url: str) -> Any:
    """What a build waits for: somebody who sees the database as it was before."""
    return kept_open(url, "SELECT count(*) FROM wallets", "REPEATABLE READ")


def index_is_valid(url: str) -> bool | None:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"
        ).fetchone()
    return None if row is None else bool(row[0])


def test_an_index_is_built_while_rows_are_inserted(url: str, migration: Callable[[str], Migration]) -> None:
    building = migration(BUILD)
    with ThreadPoolExecutor(1) as pool, an_export(url) as export:
        done = pool.submit(building.run)
        wait_until(lambda: index_is_valid(url) is False, what="the build")
        open_wallets(url, "carol", "dave")
        assert index_is_valid(url) is False
        export.commit()
        done.result()
    assert index_is_valid(url)
    assert building.is_done()


def test_an_index_is_dropped_while_rows_are_inserted(url: str, migration: Callable[[str], Migration]) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE INDEX {INDEX} ON wallets (package_id)")
    dropping = migration(DROP)
    with ThreadPoolExecutor(1) as pool, an_export(url) as export:
        done = pool.submit(dropping.run)
        wait_until(lambda: index_is_valid(url) is False, what="the drop")
        open_wallets(url, "carol", "dave")
        export.commit()
        done.result()
    assert index_is_valid(url) is None
    assert dropping.is_done()


def test_what_a_broken_try_left_is_built_anew(url: str, migration: Callable[[str], Migration]) -> None:
    building = migration(BUILD_UNIQUE)
    with pytest.raises(sa.exc.IntegrityError):
        building.run()
    assert index_is_valid(url) is False
    assert not building.is_done()

    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM wallets WHERE wallet_id = 'bob'")
    building.run()
    assert index_is_valid(url)
    # The same again, as where the process died before it could note that it was done.
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (down_revision(building),))
    building.run()
    assert building.is_done()


def down_revision(migration: Migration) -> str:
    revision = ScriptDirectory.from_config(AlembicConfig(str(migration.ini))).get_revision("9999")
    assert revision is not None
    assert isinstance(revision.down_revision, str)
    return revision.down_revision


def test_a_build_gives_up_on_a_forgotten_transaction(
    url: str, migration: Callable[[str], Migration], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "INDEX_LOCK_SECONDS", 0.5)
    building = migration(BUILD)
    with an_export(url) as export:
        pid = export.info.backend_pid
        with pytest.raises(OthersInTheWay, match=rf"open are those of: {pid} \("):
            building.run()
    assert not building.is_done()
    building.run()
    assert index_is_valid(url)


def test_two_releases_at_once_wait_for_each_other(url: str, migration: Callable[[str], Migration]) -> None:
    building = migration(BUILD)
    alembic = [sys.executable, "-m", "alembic", "-c", building.ini, "upgrade", "head"]
    environment = {**os.environ, "DATABASE_URL": url}
    with an_export(url) as export, subprocess.Popen(alembic, cwd=PROJECT, env=environment) as first:
        wait_until(lambda: index_is_valid(url) is False, what="the build")
        with subprocess.Popen(alembic, cwd=PROJECT, env=environment) as second:
            wait_until(lambda: sessions_of_releases(url) == 3, what="the second release")
            export.commit()
            assert (first.wait(30), second.wait(30)) == (0, 0)
    assert index_is_valid(url)


def sessions_of_releases(url: str) -> int:
    """Two of each that migrates, one of each that waits."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            """SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'tokentill'"""
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_migration_that_waits_for_a_table_holds_up_nobody_for_long(
    url: str, migration: Callable[[str], Migration], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "MIGRATION_LOCK_SECONDS", 0.2)
    changing = migration('op.execute("ALTER TABLE wallets ADD COLUMN more text")')
    with ThreadPoolExecutor(1) as pool, kept_open(url, "SELECT count(*) FROM wallets") as export:
        done = pool.submit(changing.run)
        wait_until(lambda: "trying again" in capfd.readouterr().err, what="the first try")
        for user_id in ("carol", "dave", "erin"):
            open_wallets(url, user_id)
        assert not done.done()
        export.commit()
        done.result(30)
    assert changing.is_done()
