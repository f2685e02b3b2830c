"""The real Tokentill that these tests talk to, and processes of it that may be killed.

TOKENTILL_TEST_URL, TOKENTILL_TEST_SERVER_KEY and TOKENTILL_TEST_ADMIN_KEY name a running one. Without them
the whole stack is started from this repository, on free ports and in a folder of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[4]
READY_TIMEOUT_SECONDS = 150.0


@dataclass(frozen=True)
class Server:
    """A running server; `settings` is what one more web process on its stores needs, if it is ours."""

    url: str
    server_key: str
    admin_key: str
    settings: dict[str, str] | None = None


def from_environment() -> Server | None:
    url = os.environ.get("TOKENTILL_TEST_URL")
    if not url:
        return None
    return Server(
        url.rstrip("/"),
        os.environ.get("TOKENTILL_TEST_SERVER_KEY", "dev-server-key"),
        os.environ.get("TOKENTILL_TEST_ADMIN_KEY", "dev-admin-key"),
    )


@contextlib.contextmanager
def whole_stack(data_dir: Path) -> Iterator[Server]:
    """`python -m stack up`, until the block ends."""
    port, flower_port = free_ports(2)
    env = {
        **_plain_environment(),
        "TOKENTILL_MODE": "local",
        "PORT": str(port),
        "FLOWER_PORT": str(flower_port),
        "DATA_DIR": str(data_dir),
    }
    process = subprocess.Popen(
        [server_python(), "-m", "stack", "up"],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "ready http://" in line:
                ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not ready.wait(0.1):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The stack didn't get ready:\n" + "".join(said[-40:]))
        settings = dict(
            line.split("=", 1) for line in (data_dir / "stack.env").read_text().splitlines() if "=" in line
        )
        yield Server(
            f"http://127.0.0.1:{port}", settings["SERVER_API_KEY"], settings["ADMIN_API_KEY"], settings
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        assert process.stdout is not None
        process.stdout.close()


class WebProcess:
    """One more web process of a stack, on a port of its own, to be killed and started again."""

    def __init__(self, server: Server, log: Path) -> None:
        assert server.settings is not None, "Only beside a stack of our own"
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._env = {
            **_plain_environment(),
            **server.settings,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "WEB_WORKERS": "1",
            "WEB_THREADS": "16",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        web = next(line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web:"))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", web.partition(":")[2]],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"The web process didn't get ready:\n{self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """kill -9, the process and those it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def server_python() -> str:
    """The interpreter with the server's dependencies: the repository's own environment, if it is there."""
    for candidate in (ROOT / ".venv" / "bin" / "python", Path(sys.executable)):
        if candidate.exists():
            return str(candidate)
    return sys.executable


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def _plain_environment() -> dict[str, str]:
    """Ours, without what would point the stack or a client somewhere else."""
    mine = {"DATABASE_URL", "REDIS_URL", "SERVER_API_KEY", "ADMIN_API_KEY", "TOKEN_SERVER_URL", "PYTHONPATH"}
    bin_dir = Path(server_python()).parent
    env = {name: value for name, value in os.environ.items() if name not in mine}
    env["PATH"] = f"{bin_dir}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYTHONUNBUFFERED"] = "1"
    return env
