"""The whole server as real processes on real stores, each of which can be killed, paused and restarted.

Commands are those of the `Procfile`. Our processes reach Postgres through the proxy, the auditor directly. Everything
listens on the loopback interface only, and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
from redis import Redis

from stack.embedded import PostgresServer, ValkeyServer
from stack.processes import free_port, last_lines, launch, until
from stack.procfile import ROOT, commands
from tests.faults.proxy import PostgresProxy

SERVER_KEY = "dev-server-key"
ADMIN_KEY = "dev-admin-key"
BIN = Path(sys.executable).parent
START_SECONDS_MAX = 60


class RunningProcess(NamedTuple):
    pid: int
    parent: int
    group: int


def running_processes() -> Iterator[RunningProcess]:
    """All processes of this machine that haven't ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # Fields after the name in brackets: state, parent, process group.
                state, parent, group, *_ = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if state != "Z":
                    yield RunningProcess(int(entry.name), int(parent), int(group))


def freeze(pid: int) -> list[int]:
    """SIGSTOP a process and its children (Postgres's children have sessions of their own). Returns all stopped pids."""
    frozen = [pid]
    os.kill(pid, signal.SIGSTOP)
    for each in running_processes():
        if each.parent == pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGSTOP)
                frozen.append(each.pid)
    return frozen


def thaw(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Program:
    """One of our processes with its children. What remains of a partly killed program is killed at its next start."""

    def __init__(self, name: str, command: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def children(self) -> list[int]:
        """Processes of its group other than itself."""
        return [each.pid for each in running_processes() if each.group == self.pid != each.pid]

    def start(self, command: str | None = None) -> None:
        """Start the program, then kill what is left of its last run. Call it from the main thread (see `launch`)."""
        before = self._process
        with self.log.open("ab") as output:
            self._process = launch(
                ["/bin/sh", "-c", command or self.command],
                death_signal="SIGKILL",
                cwd=ROOT,
                env=self._environment,
                output=output,
            )
        if before is not None:
            _kill_group(before)

    def kill_parent(self) -> None:
        """kill -9 of the process itself; its children notice that after a while."""
        self._signal(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def kill_child(self, which: int) -> bool:
        """kill -9 of one child. False: it has none now."""
        children = sorted(self.children)
        if not children:
            return False
        self._signal(children[which % len(children)], signal.SIGKILL)
        return True

    def kill(self) -> None:
        """kill -9 of the program and its children."""
        if self._process is not None:
            _kill_group(self._process)

    def pause(self) -> None:
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)

    def finish(self, seconds: float) -> int | None:
        """Ask the program to finish, as an operator does. Returns its exit code, None when it had to be killed."""
        if self._process is None:
            return None
        self._signal(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.poll()
        self.kill()
        return code

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader as long as one of its children runs.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class StackUnderTest:
    # The name by which Postgres tells the test's connections from the server's.
    application_name = "chaos"

    def __init__(self, folder: Path, *, seed: int, apis: int = 2, workers: int = 2) -> None:
        self.folder = folder
        self.postgres = PostgresServer(folder / "postgres", free_port())
        self.redis = ValkeyServer(folder / "redis", free_port())
        self._seed = seed
        self._counts = (apis, workers)
        self.proxy: PostgresProxy
        self.environment: dict[str, str] = {}
        self.api_urls: list[str] = []
        self.apis: list[Program] = []
        self.workers: list[Program] = []
        self.beat: Program

    @property
    def programs(self) -> list[Program]:
        return [*self.apis, *self.workers, *([self.beat] if hasattr(self, "beat") else [])]

    def start(self) -> None:
        self.postgres.start()
        self.redis.start()
        self.proxy = PostgresProxy(self.postgres.port, seed=self._seed)
        self.environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": os.environ.get("HOME", "/"),
            "LC_ALL": "C.UTF-8",
            "TOKENTILL_MODE": "local",
            "DATABASE_URL": self.postgres.url.replace(f":{self.postgres.port}/", f":{self.proxy.port}/"),
            "REDIS_URL": self.redis.url,
            "SERVER_API_KEY": SERVER_KEY,
            "ADMIN_API_KEY": ADMIN_KEY,
            "LOG_LEVEL": "WARNING",
            "DATA_DIR": str(self.folder),
            "WEB_WORKERS": "1",
            "WEB_THREADS": "16",
            "WORKER_CONCURRENCY": "2",
            # Shorter than in production, so that many waits end within a run.
            "DATABASE_TIMEOUT_SECONDS": "2",
            "RETRY_BASE_SECONDS": "3",
            "RETRY_CAP_SECONDS": "20",
        }
        lines = commands()
        release = Program("release", lines["release"], self.environment, self.folder)
        release.start()
        if not until(lambda: not release.is_running, START_SECONDS_MAX):
            raise AssertionError("the migration did not end")
        if release.exit_code != 0:
            raise AssertionError(f"the migration failed\n{last_lines(release.log)}")
        for i in range(self._counts[0]):
            port = free_port()
            self.api_urls.append(f"http://127.0.0.1:{port}")
            environment = {**self.environment, "PORT": str(port)}
            self.apis.append(Program(f"api-{i}", lines["web"], environment, self.folder))
        for i in range(self._counts[1]):
            command = f"{lines['worker']} -n worker-{i}@chaos"
            self.workers.append(Program(f"worker-{i}", command, self.environment, self.folder))
        self.beat = Program("beat", lines["beat"], self.environment, self.folder)

    def start_programs(self) -> None:
        """Start our processes and wait until every API takes ends and every worker listens."""
        for program in self.programs:
            program.start()
        for url, program in zip(self.api_urls, self.apis, strict=True):
            self._await(partial(is_ready, url), program)
        self._await(lambda: self.workers_listening() >= len(self.workers), *self.workers)

    def workers_listening(self) -> int:
        with self.redis_client() as client:
            return sum(entry["cmd"] == "brpop" for entry in client.client_list())

    def start_skewed(self, program: Program, clock_seconds: int) -> None:
        """Start a worker or beat with its clock off by this many seconds."""
        shim = f"exec {sys.executable} -m tests.faults.clock_shim {clock_seconds} "
        program.start(program.command.replace("exec celery ", shim, 1))

    def revive(self) -> list[str]:
        """Restart programs that ended by themselves. Returns their names."""
        ended = [program for program in self.programs if not program.is_running]
        for program in ended:
            program.start()
        return [program.name for program in ended]

    def connect(self) -> psycopg.Connection[Any]:
        """A connection that bypasses the proxy."""
        return psycopg.connect(
            self.postgres.url, autocommit=True, connect_timeout=5, application_name=self.application_name
        )

    def redis_client(self) -> Redis:
        return Redis.from_url(self.redis.url, decode_responses=True, socket_timeout=5)

    def stop(self) -> None:
        """Stop everything, however far the start got."""
        for program in self.programs:
            program.kill()
        if hasattr(self, "proxy"):
            self.proxy.close()
        self.redis.kill()
        self.postgres.kill()

    def _await(self, condition: Callable[[], bool], *programs: Program) -> None:
        if not until(condition, START_SECONDS_MAX, 0.1):
            tails = "\n".join(f"{program.name}:\n{last_lines(program.log)}" for program in programs)
            raise AssertionError(f"not up within {START_SECONDS_MAX} seconds\n{tails}")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
