"""Our own processes, run for tests as they are run in production."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from stack.procfile import commands

PROJECT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, timeout_seconds: float = 20) -> int:
        """Ask it to finish, as an operator's SIGTERM does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """kill -9 of it and of its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def run(
    name: str, environment: dict[str, str], log: Path, command: str | None = None, *, clock_seconds: int = 0
) -> Iterator[Running]:
    """A process of the Procfile, by its own line unless another is given; one of Celery's with a clock that is so many
    seconds off.
    """
    command = command or commands()[name]
    if clock_seconds:
        shim = f"exec {sys.executable} -m tests.faults.clock_shim {clock_seconds}"
        command = command.replace("exec celery", shim)
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=PROJECT,
            env={"PATH": f"{BIN}:{os.environ['PATH']}", "DATA_DIR": str(log.parent), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(process, log)
    try:
        yield running
    finally:
        running.stop()
        running.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def web(
    environment: dict[str, str], folder: Path, *, threads: int = 16, command: str | None = None
) -> Iterator[tuple[str, Running]]:
    """An API process; its base URL."""
    port = free_port()
    settings = {**environment, "PORT": str(port), "WEB_WORKERS": "1", "WEB_THREADS": str(threads)}
    with run("web", settings, folder / f"web-{port}.log", command) as running:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _is_up(url), what="the API", log=running.log)
        yield url, running


@contextmanager
def worker(
    environment: dict[str, str], folder: Path, name: str = "worker", *, clock_seconds: int = 0
) -> Iterator[Running]:
    """A Celery worker with two children."""
    settings = {**environment, "LOG_LEVEL": "INFO", "WORKER_CONCURRENCY": "2", "WORKER_NAME": f"{name}@test"}
    with run("worker", settings, folder / f"{name}.log", clock_seconds=clock_seconds) as running:
        wait_until(lambda: f"{name}@test ready" in running.log.read_text(), what="the worker", log=running.log)
        yield running


@contextmanager
def beat(environment: dict[str, str], folder: Path, *, clock_seconds: int = 0) -> Iterator[Running]:
    with run("beat", environment, folder / "beat.log", clock_seconds=clock_seconds) as running:
        yield running


def wait_until(
    condition: Callable[[], bool], *, seconds: float = 30, what: str = "it", log: Path | None = None
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            tail = "" if log is None else "\n" + log.read_text(errors="replace")[-4_000:]
            raise AssertionError(f"{what} did not come within {seconds} seconds{tail}")
        time.sleep(0.05)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=1).status_code == 200
    except httpx.TransportError:
        return False
