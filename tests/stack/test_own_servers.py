"""Every process behind PgBouncer, with Redis Sentinel, as an ACL user with the least rights, and over TLS.

PgBouncer, Redis and Sentinel are Debian's. What docs/stores.md tells operators to configure is read from there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.bootstrap import Container
from app.config import Config
from app.stores.redis.client import create_client
from stack.embedded import PostgresServer
from stack.procfile import ROOT, commands
from tests import processes
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.debian import NOBODY, Debian, Server, debian
from tests.emptying import empty_stores
from tests.processes import BIN, free_port, wait_until

pytestmark = pytest.mark.long

HOST = "127.0.0.1"
PASSWORD = "a/password@with#signs"
CATALOG = (
    "features create chat --name Chat",
    "packages create basic --name Basic --feature chat",
    "wallets create alice --package basic",
)
# A process takes longer to start than all that it does.
IN_ONE_PROCESS = """
import shlex, sys
from flask.cli import ScriptInfo
from app.cli import cli
for line in sys.argv[1:]:
    cli.main(shlex.split(line), obj=ScriptInfo("app:create_app"), standalone_mode=False)
"""
DOCUMENT = (ROOT / "docs" / "stores.md").read_text()


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Debian:
    return debian(request.config)


def told(heading: str) -> list[str]:
    """The lines of the first fenced block under a heading of the document, ready to be used."""
    section = DOCUMENT.split(f"## {heading}\n", 1)[1]
    block = re.search(r"```\w*\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line and not line.startswith("#")]


def acl_user(database: int) -> str:
    """The user `tokentill` as the document tells to make it, for a configuration file."""
    [line] = told("Redis: a user with the least rights")
    return line.replace("/0.", f"/{database}.").replace("ACL SETUSER", "user").replace(">PASSWORD", f">{PASSWORD}")


@dataclass
class Certificates:
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own, and what it signed for this machine."""
    found = Certificates(tmp_path_factory.mktemp("certificates"))

    program = shutil.which("openssl")
    assert program is not None

    def openssl(*arguments: str | Path) -> None:
        subprocess.run([program, *arguments], check=True, capture_output=True, cwd=found.folder)

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", found.ca, "-subj", "/CN=Our own authority")
    openssl("req", *new, "-keyout", found.key, "-out", "server.csr", "-subj", "/CN=localhost")
    (found.folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", found.ca, "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "names", "-out", found.cert)  # fmt: skip
    return found


def redis_lines(port: int, *more: str, database: int = 0) -> list[str]:
    lines = [f"bind {HOST}", "appendonly yes", "maxmemory-policy noeviction", 'save ""', f"port {port}", *more]
    return [*lines, "user default on >operator ~* &* +@all", acl_user(database)]


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            with contextlib.suppress(AttributeError):
                server.kill()


class Everything:
    """All processes of the Procfile, with a wallet to bill."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.ends = 0
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        self._once(commands()["release"])
        self._once(shlex.join([sys.executable, "-c", IN_ONE_PROCESS, *CATALOG]))
        self.flask("wallets top-up alice --token 1000 --reference invoice-1")
        flower_port = free_port()
        with (
            processes.web(self.environment, self.folder) as (self.url, _),
            processes.worker(self.environment, self.folder) as self.worker,
            processes.beat(self.environment, self.folder),
            processes.run("flower", {**self.environment, "FLOWER_PORT": str(flower_port)}, self.folder / "flower.log"),
        ):
            self.flower_url = f"http://{HOST}:{flower_port}"
            yield

    def end(self) -> int:
        """Report a run of 10 tokens; the status."""
        try:
            answer = httpx.post(
                f"{self.url}/api/token-process/end",
                headers={"x-server-api-key": SERVER_KEY, "Idempotency-Key": f"run-{next(self._numbers)}"},
                json={"user_id": "alice", "feature_endpoint_id": "chat", "input_token": 1, "output_token": 40},
                timeout=20,
            )
        except httpx.TransportError:
            return 0
        self.ends += answer.status_code == 200
        return answer.status_code

    def assert_settled(self, seconds: float = 30) -> None:
        def posted() -> bool:
            answer = httpx.get(
                f"{self.url}/api/admin/wallets/alice", headers={"x-admin-api-key": ADMIN_KEY}, timeout=20
            )
            return answer.status_code == 200 and answer.json()["data"]["posted_token"] == 1000 - 10 * self.ends

        try:
            wait_until(posted, seconds=seconds, what="the settlement")
        except AssertionError as error:
            # Celery logs where each of its threads stands.
            self.worker.process.send_signal(signal.SIGUSR1)
            time.sleep(2)
            raise AssertionError(f"{error}\n{self.worker.log.read_text(errors='replace')[-8_000:]}") from None

    def assert_flower_shows_the_queues(self) -> None:
        def shown() -> bool:
            try:
                page = httpx.get(f"{self.flower_url}/broker", timeout=10)
            except httpx.TransportError:
                return False
            return {"settle", "retry", "maintenance"} <= set(re.findall(r'<tr id="(\w+)">', page.text))

        wait_until(shown, what="flower's page of the broker", log=self.folder / "flower.log")

    def readyz(self) -> Any:
        return httpx.get(f"{self.url}/readyz", timeout=20).json()["dependencies"]

    def flask(self, command: str) -> subprocess.CompletedProcess[str]:
        return self._once(f"flask {command}")

    def assert_nothing_was_refused(self) -> None:
        for log in self.folder.glob("*.log"):
            text = log.read_text(errors="replace")
            assert "unexpected_error" not in text, text
            assert "NOPERM" not in text, text
            assert "prepared statement" not in text, text
            assert "Unable to get queues" not in text, text

    def _once(self, command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=ROOT,
            env={"PATH": f"{BIN}:{os.environ['PATH']}", **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture
def everything(
    environment: dict[str, str], config: Config, redis_client: Redis, tmp_path: Path
) -> Callable[..., Everything]:
    # A profit rule that another test has left would change what each end costs.
    empty_stores(config, redis_client)
    return lambda **changes: Everything({**environment, **changes}, tmp_path)


def pgbouncer(
    programs: Debian, postgres: PostgresServer, folder: Path, *more: str, database: str
) -> tuple[Server, str]:
    """One as the document tells to run it, in front of a new database, and the URL's part behind the password."""
    postgres.create_database(database)
    port = free_port()
    folder.mkdir()
    users = folder / "users.txt"
    users.write_text(f'"{postgres.user}" "{postgres.password}"\n')
    given = {
        "POSTGRES_HOST": HOST,
        "POSTGRES_PORT": str(postgres.port),
        "LISTEN_PORT": str(port),
        "USERS_FILE": str(users),
    }
    lines = "\n".join(told("PgBouncer"))
    for name, value in given.items():
        assert name in lines
        lines = lines.replace(name, value)
    server = Server(programs, "pgbouncer", folder, [lines, *more, "unix_socket_dir ="], run_as=NOBODY)
    return server, f"postgresql://{postgres.user}:{postgres.password}@localhost:{port}/{database}"


def test_behind_pgbouncer_in_transaction_mode(
    programs: Debian, postgres_server: PostgresServer, everything: Callable[..., Everything], tmp_path: Path
) -> None:
    # Few, so that a session goes from one client to another all the time.
    few = "default_pool_size = 3"
    bouncer, url = pgbouncer(programs, postgres_server, tmp_path / "pgbouncer", few, database="pooled")
    with running(bouncer):
        bouncer.await_log("process up")
        billing = everything(DATABASE_URL=url, LOG_LEVEL="INFO")
        with billing.started():
            # More than five of each statement, after which psycopg would prepare it.
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(lambda _: billing.end(), range(80))) == {200}
            billing.assert_settled()
            reconciled = billing.flask("reconcile")
            assert "Money adds up." in reconciled.stdout + reconciled.stderr
        billing.assert_nothing_was_refused()
        # It pools indeed, and each transaction ends in time although sessions forget.
        container = Container(Config.from_environment({**billing.environment, "DATABASE_TIMEOUT_SECONDS": "1"}))
        with container.engine.connect() as connection:
            assert connection.execute(sa.text("SHOW timezone")).scalar_one() == "UTC"
            driver: Any = connection.connection.driver_connection
            assert driver.prepare_threshold is None
        container.close()


def test_an_acl_user_and_a_fail_over_by_sentinels(
    programs: Debian, everything: Callable[..., Everything], tmp_path: Path
) -> None:
    ports = [free_port() for _ in range(2)]
    follow = ("masteruser default", "masterauth operator")
    redis = [
        Server(programs, "redis-server", tmp_path / f"redis-{i}", redis_lines(port, *follow, *more, database=2))
        for i, (port, more) in enumerate(zip(ports, ([], [f"replicaof {HOST} {ports[0]}"]), strict=True))
    ]
    watchers = [free_port() for _ in range(3)]
    sentinels = [
        Server(
            programs,
            "redis-sentinel",
            tmp_path / f"sentinel-{port}",
            [
                f"bind {HOST}",
                f"port {port}",
                "requirepass sentinel",
                "sentinel sentinel-pass sentinel",
                f"sentinel monitor tills {HOST} {ports[0]} 2",
                "sentinel auth-user tills default",
                "sentinel auth-pass tills operator",
                "sentinel down-after-milliseconds tills 1000",
                "sentinel failover-timeout tills 5000",
            ],
        )
        for port in watchers
    ]
    hosts = ",".join(f"{HOST}:{port}" for port in watchers)
    url = f"redis+sentinel://tokentill:{quote(PASSWORD, '')}@{hosts}/tills/2?sentinel_password=sentinel"
    with running(*redis, *sentinels):
        replica = Redis(port=ports[1], password="operator", retry=Retry(NoBackoff(), 0))
        wait_until(lambda: up(replica), what="the replica")
        wait_until(lambda: len(known_sentinels(watchers[0])) == 2, what="the other Sentinels")
        billing = everything(REDIS_URL=url)
        with billing.started():
            assert [billing.end() for _ in range(3)] == [200] * 3
            billing.assert_settled()
            billing.assert_flower_shows_the_queues()
            master = Redis(port=ports[0], password="operator", db=2)
            assert master.hexists("tokentill:{alice}:wallet", "posted")
            assert master.acl_log() == []
            master.close()
            assert "Control command error" not in (billing.folder / "worker.log").read_text()
            redis[0].kill()
            wait_until(lambda: role(replica) == "master", what="the fail-over")
            # Postgres takes them meanwhile; the workers find the new master by themselves.
            assert [billing.end() for _ in range(3)] == [200] * 3
            wait_until(lambda: billing.readyz() == {"postgres": "up", "redis": "up"}, what="the new master")
            wait_until(lambda: waiting_workers(replica) > 0, what="the worker", log=billing.folder / "worker.log")
            assert billing.end() == 200
            billing.assert_settled()
            billing.assert_flower_shows_the_queues()
            wallet = Redis(port=ports[1], password="operator", db=2)
            assert wallet.hexists("tokentill:{alice}:wallet", "posted")
            assert wallet.acl_log() == []
            wallet.close()
        replica.close()


def test_tls_with_an_authority_of_ones_own(
    programs: Debian,
    certificates: Certificates,
    postgres_server: PostgresServer,
    everything: Callable[..., Everything],
    tmp_path: Path,
    config: Config,
) -> None:
    port = free_port()
    tls = (f"tls-port {port}", "port 0", f"tls-cert-file {certificates.cert}", f"tls-key-file {certificates.key}")
    tls += (f"tls-ca-cert-file {certificates.ca}", "tls-auth-clients no")
    redis = Server(programs, "redis-server", tmp_path / "redis", redis_lines(port, *tls))
    redis_url = f"rediss://tokentill:{quote(PASSWORD, '')}@localhost:{port}/0"
    # The embedded Postgres has no TLS; in front of it PgBouncer takes nothing else.
    for path in (certificates.cert, certificates.key):
        path.chmod(0o644)
    tls = ("client_tls_sslmode = require", f"client_tls_cert_file = {certificates.cert}")
    tls += (f"client_tls_key_file = {certificates.key}",)
    bouncer, url = pgbouncer(programs, postgres_server, tmp_path / "pgbouncer", *tls, database="encrypted")
    with running(redis, bouncer):
        bouncer.await_log("process up")
        billing = everything(
            REDIS_URL=f"{redis_url}?ssl_ca_certs={certificates.ca}",
            DATABASE_URL=f"{url}?sslmode=verify-full&sslrootcert={certificates.ca}",
        )
        with billing.started():
            assert [billing.end() for _ in range(3)] == [200] * 3
            billing.assert_settled()
            billing.assert_flower_shows_the_queues()
        for refused in ("sslmode=disable", "sslmode=verify-full&sslrootcert=system"):
            with pytest.raises(psycopg.OperationalError, match=r"SSL|certificate"):
                psycopg.connect(f"{url}?{refused}")
        billing.assert_nothing_was_refused()
        # An authority that nobody named is not believed, nor a name that isn't in the certificate.
        for wrong in (redis_url, f"{redis_url}?ssl_ca_certs={certificates.ca}".replace("localhost", "127.0.0.2")):
            client = create_client(replace(config, redis_url=wrong))
            with pytest.raises(RedisError):
                client.ping()
            client.close()


def up(replica: Redis) -> bool:
    try:
        return bool(replica.info("replication").get("master_link_status") == "up")
    except RedisError:
        return False


def known_sentinels(port: int) -> list[Any]:
    with Redis(port=port, password="sentinel", decode_responses=True) as client:
        return list(client.sentinel_sentinels("tills"))


def role(server: Redis) -> str:
    try:
        return str(server.info()["role"])
    except RedisError:
        # Sentinel has a server that changes its role hang up on its clients.
        return "changing"


def waiting_workers(client: Redis) -> int:
    return sum(entry["cmd"] == "brpop" for entry in client.client_list())
