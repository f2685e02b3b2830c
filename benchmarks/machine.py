"""Servers, processes and wallets for measurements. All are removed when the context ends or this process dies."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import sqlalchemy as sa

from app import logs
from app.bootstrap import Container
from app.config import Config
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.wallets import wallet_of
from app.stores.postgres.debts import IndebtedWallet
from benchmarks import wrk
from benchmarks.load import HOST, Plan, Result
from stack.embedded import PostgresServer, ValkeyServer
from stack.processes import free_port, launch, stop, until
from stack.procfile import ROOT, commands

API_KEY = "benchmark-server-key"
FEATURE = "feature-text"
PACKAGE = "package-basic"
HOT_USER = "user-hot"
USERS = [f"user-{i}" for i in range(200)]
# Enough for every end of every round.
OPENING_TOKENS = 100_000_000
PROFIT_BASIS_POINTS = 1_000

START_SECONDS = 60.0
WARMUP_SECONDS = 0.3


@dataclass(frozen=True)
class WebProcess:
    """A running web server; `label` names it in the tables."""

    label: str
    port: int
    process: subprocess.Popen[bytes]


@dataclass
class Machine:
    """Embedded servers with a catalog and wallets, and methods to start processes that use them."""

    folder: Path
    postgres: PostgresServer
    environment: Mapping[str, str]
    container: Container
    bells: Bells
    processes: ExitStack
    warnings: list[str] = field(default_factory=list)

    def web(
        self,
        label: str,
        target: str = "app.wsgi:app",
        *,
        threads: int = 32,
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> WebProcess:
        """Start the Procfile's web process, or the same with another WSGI target."""
        command = commands()["web"].replace("app.wsgi:app", target)
        counts = {"WEB_THREADS": str(threads), "WEB_WORKERS": str(workers)}
        return self.start(label, ["/bin/sh", "-c", command], {**counts, **(settings or {})})

    def start(self, label: str, command: Sequence[str], settings: Mapping[str, str] | None = None) -> WebProcess:
        """Start any command that serves HTTP on $PORT ({port} in the command), and wait until it is ready."""
        port = free_port()
        log = self.folder / f"{label.replace(' ', '-')}.log"
        with log.open("ab") as output:
            process = launch(
                [part.replace("{port}", str(port)) for part in command],
                death_signal="SIGTERM",
                cwd=ROOT,
                env={**self.environment, "PORT": str(port), **(settings or {})},
                output=output,
            )
        self.processes.callback(stop, process, (signal.SIGTERM, 15.0))
        until(lambda: process.poll() is not None or _is_ready(port), START_SECONDS)
        if not _is_ready(port):
            raise RuntimeError(f"{label} did not start:\n{log.read_text(errors='replace')[-2_000:]}")
        return WebProcess(label, port, process)

    @contextmanager
    def worker(self, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        """Run the Procfile's Celery worker. At the end of the context it has finished its tasks."""
        log = self.folder / "worker.log"
        log.unlink(missing_ok=True)
        with log.open("ab") as output:
            process = launch(
                ["/bin/sh", "-c", commands()["worker"]],
                death_signal="SIGTERM",
                cwd=ROOT,
                env={**self.environment, "WORKER_CONCURRENCY": str(processes), "WORKER_NAME": "worker@benchmark"},
                output=output,
            )
        try:
            until(lambda: "worker@benchmark ready" in log.read_text(errors="replace"), START_SECONDS)
            yield process
        finally:
            stop(process, (signal.SIGTERM, 15.0))

    def measure(
        self,
        web: WebProcess,
        kind: str,
        *,
        clients: int,
        seconds: float,
        user_ids: Sequence[str] = USERS,
        ends_per_batch: int = 1,
        rate: float | None = None,
    ) -> Measurement:
        """Put load on a web process from a separate process: as much as it can take, or at a rate."""
        plan = Plan(
            port=web.port,
            kind=kind,
            clients=clients,
            seconds=seconds,
            # The ledger's figures count from the first request, and wrk has no warm-up.
            warmup_seconds=0.0 if rate is None else WARMUP_SECONDS,
            api_key=API_KEY,
            user_ids=list(user_ids),
            feature_endpoint_id=FEATURE,
            run_id=uuid.uuid4().hex,
            ends_per_batch=ends_per_batch,
            rate=rate,
            keeps_answered_at=rate is not None and kind == "end",
        )
        cpu_before = cpu_seconds(web.process.pid)
        result = wrk.run(plan) if rate is None and wrk.is_installed() else _by_ourselves(plan)
        cpu = cpu_seconds(web.process.pid) - cpu_before
        if result.failures:
            self.warnings.append(
                f"{web.label}, {kind}: {result.failures} answers of {result.requests_total} weren't as they should be"
            )
        return Measurement(result, plan.run_id, server_cpu_us=cpu / max(1, result.requests_total) * 1e6)

    def unsettled(self) -> int:
        with self.container.engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM end_inbox")).scalar_one())

    def refresh_statistics(self) -> None:
        """Give the planner statistics of an empty inbox, as autovacuum does on servers that keep up with their ends."""
        with self.container.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))

    def settle_everything(self) -> None:
        """Settle the ends that a measurement left behind, so that each begins with small wallets and an empty inbox."""
        self.container.settlement.sweep(older_than_seconds=0)
        # Delete the messages, as no worker has consumed them and they must not burden the next measurement.
        for key in self.container.redis_client.scan_iter("tokentill:queue:*", count=1_000):
            self.container.redis_client.delete(key)


@dataclass(frozen=True)
class Measurement:
    load: Result
    # The prefix of the idempotency keys of its ends.
    run_id: str
    # Processor time of the server's own processes, without Postgres and Redis; 0 if the system doesn't provide it.
    server_cpu_us: float


def _by_ourselves(plan: Plan) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT,
        input=json.dumps(asdict(plan)).encode(),
        capture_output=True,
        timeout=plan.seconds + 60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{plan.kind}: {done.stderr.decode()[-2_000:]}")
    return Result(**json.loads(done.stdout))


@contextmanager
def machine() -> Iterator[Machine]:
    """Set up what measurements share, in a temporary folder."""
    logs.configure("WARNING")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokentill-bench-")))
        # The lag of an end is measured by the commit timestamp of its settlement.
        postgres = stack.enter_context(PostgresServer(folder / "postgres", settings={"track_commit_timestamp": "on"}))
        redis = stack.enter_context(ValkeyServer(folder / "redis"))
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(folder),
            "TOKENTILL_MODE": "production",
            "DATABASE_URL": postgres.url,
            "REDIS_URL": redis.url,
            "SERVER_API_KEY": API_KEY,
            "ADMIN_API_KEY": "benchmark-admin-key",
            "LOG_LEVEL": "INFO",
        }
        subprocess.run(["/bin/sh", "-c", commands()["release"]], cwd=ROOT, env=environment, check=True)
        bells = Bells()
        container = Container(Config.from_environment(environment), doorbell=bells)
        stack.callback(container.close)
        seed(container)
        # Cache the wallets: starts on wallets that aren't cached aren't measured here.
        container.loader.load([wallet_of(user_id) for user_id in (*USERS, HOT_USER)], container.catalog.epoch)
        yield Machine(folder, postgres, environment, container, bells, stack.enter_context(ExitStack()))


class Bells:
    """A doorbell that keeps the ids of ends instead of sending messages."""

    def __init__(self) -> None:
        self.end_ids: list[uuid.UUID] = []

    def settle(self, end_ids: Sequence[uuid.UUID]) -> None:
        self.end_ids += end_ids

    def collect(self, wallets: Sequence[IndebtedWallet]) -> None:
        """Ignored, as there are no failed ends here."""

    def close(self) -> None:
        """There is nothing to send."""

    def take(self) -> list[uuid.UUID]:
        """The ids received since the last call."""
        told, self.end_ids = self.end_ids, []
        return told


def seed(container: Container) -> None:
    """Create one feature in one package, a profit of 10 %, and the wallets."""
    statements: dict[str, dict[str, object]] = {
        "INSERT INTO feature_endpoints (id, name, min_micros) VALUES (:feature, 'Text', 1000000)": {"feature": FEATURE},
        "INSERT INTO packages (id, name) VALUES (:package, 'Basic')": {"package": PACKAGE},
        "INSERT INTO package_features VALUES (:package, :feature)": {"package": PACKAGE, "feature": FEATURE},
        "INSERT INTO profit_rules (basis_points, effective_from) VALUES (:points, '2020-01-01Z')": {
            "points": PROFIT_BASIS_POINTS
        },
        """
        INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros)
        SELECT user_id, user_id, :package, :micros FROM unnest(CAST(:users AS text[])) AS given (user_id)
        """: {"package": PACKAGE, "micros": OPENING_TOKENS * MICROS_PER_TOKEN, "users": [*USERS, HOT_USER]},
        """
        INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros, reference)
        SELECT wallet_id, user_id, 'top_up', posted_micros, posted_micros, 'opening' FROM wallets
        """: {},
        "UPDATE system_state SET catalog_version = catalog_version + 1": {},
    }
    with container.engine.begin() as connection:
        for statement, values in statements.items():
            connection.execute(sa.text(statement), values)
    container.catalog.refresh()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living descendants, from /proc; 0 without /proc (macOS)."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        seconds[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descends(process: int) -> bool:
        while process > 1:
            if process == pid:
                return True
            process = parents.get(process, 0)
        return False

    return sum(spent for process, spent in seconds.items() if descends(process))


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
