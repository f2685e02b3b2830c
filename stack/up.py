"""`make up`: everything Tokentill needs, started in order, watched, and stopped in order.

Embedded Postgres and Valkey (or the servers that DATABASE_URL and REDIS_URL name), the migrations, the demo
seed, then the processes of the Procfile. Says `ready ...` once an end can be taken, and runs until Ctrl-C or
until one of its processes ends by itself. Exit status 0 after Ctrl-C or SIGTERM, else 1; either
way nothing is left running.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psycopg
from redis.exceptions import RedisError

from app.store_urls import RedisUrl
from app.stores.redis.connect import connect
from stack.console import Console
from stack.embedded import EmbeddedServer, PostgresServer, ValkeyServer
from stack.processes import FolderLock, LaunchError, launch, port_in_use, stop
from stack.procfile import ROOT, commands
from stack.settings import LOCAL_DEFAULTS, Settings

READY_TIMEOUT_SECONDS = 90.0
WORKER_TIMEOUT_SECONDS = 30.0
WAIT_MESSAGE_EVERY_SECONDS = 10.0
WATCH_EVERY_SECONDS = 0.2
LINES_KEPT = 15
SAME_REQUEST_SECONDS = 0.3

# The order in which processes stop: first what takes requests, last what the others depend on.
STOPPED_TOGETHER = (("web",), ("beat",), ("worker", "webhooks"), ("flower",))
PROCESSES = tuple(name for names in STOPPED_TOGETHER for name in names)
PATIENCE_SECONDS = {"web": 4.0, "beat": 2.0, "worker": 4.0, "webhooks": 4.0, "flower": 2.0}

# Ignores the caller's proxy settings for our own server.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StopRequestedError(Exception):
    """Ctrl-C, SIGTERM or a closed terminal."""


class Running:
    """A process of the stack, whose output goes line by line to the console."""

    def __init__(self, name: str, command: str, env: dict[str, str], console: Console) -> None:
        self.name = name
        self.tail: deque[str] = deque(maxlen=LINES_KEPT)
        self._console = console
        self.process = launch(
            ["/bin/sh", "-c", command],
            death_signal="SIGTERM",
            cwd=ROOT,
            env=env,
            output=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 - we asked for a pipe
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line:
                self.tail.append(line)
                self._console.process_line(self.name, line)

    def stop(self, patience_seconds: float) -> None:
        # SIGTERM lets a worker's running tasks finish. SIGQUIT doesn't: the sweep finds what was cut off.
        stop(self.process, (signal.SIGTERM, patience_seconds), (signal.SIGQUIT, 1.0))
        self.sweep_up()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.sweep_up()

    def sweep_up(self) -> None:
        """End whatever the process has started and left behind; all of it is in its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(timeout=1)


class Stack:
    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.handover = settings.data_dir / "stack.env"
        self._lock = FolderLock(settings.data_dir / "lock")
        self._servers: dict[str, EmbeddedServer] = {}
        self._running: dict[str, Running] = {}
        self._env: dict[str, str] = {}
        self._signals = 0
        self._last_signal_at = 0.0

    def run(self) -> int:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, self._on_signal)
        try:
            self._claim()
        except LaunchError as error:
            self.console.say(f"tokentill: {error}")
            return 1
        try:
            self._start()
            self._announce()
            while True:
                self._pause(WATCH_EVERY_SECONDS)
        except StopRequestedError:
            self.console.say("stopping (Ctrl-C again to stop at once)")
            status = 0
        except LaunchError as error:
            self.console.say(f"tokentill: {error}")
            status = 1
        finally:
            self._stop()
        self.console.say("stopped")
        return status

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Handled where we wait, so that no child is started and then forgotten. One request may arrive as two signals:
        # one from the terminal and one passed on by make.
        if time.monotonic() - self._last_signal_at > SAME_REQUEST_SECONDS:
            self._signals += 1
        self._last_signal_at = time.monotonic()

    def _pause(self, seconds: float = 0.0) -> None:
        """Wait, and raise what has happened meanwhile."""
        time.sleep(seconds)
        if self._signals:
            raise StopRequestedError
        for server in self._servers.values():
            if not server.running:
                raise LaunchError(
                    f"{server.program} ended by itself; the end of {server.log_path}:\n{server.log_tail()}"
                )
        for running in self._running.values():
            if (status := running.process.poll()) is not None:
                running.sweep_up()
                lines = "\n".join(running.tail) or "(it said nothing)"
                raise LaunchError(f"{running.name} ended by itself ({_ending(status)}); its last lines:\n{lines}")

    def _claim(self) -> None:
        """Take the folder and the ports before anything is started."""
        try:
            self.settings.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(f"already running on {self.settings.data_dir}; another one needs another DATA_DIR")
            try:
                self._claim_port("PORT", self.settings.host, self.settings.port)
                self._claim_port("FLOWER_PORT", "127.0.0.1", self.settings.flower_port)
            except LaunchError:
                self._lock.release()
                raise
        except OSError as error:
            raise LaunchError(
                f"cannot write to {self.settings.data_dir} ({error.strerror}); set DATA_DIR to a folder of your own"
            ) from error

    @staticmethod
    def _claim_port(variable: str, host: str, port: int) -> None:
        if port_in_use(host, port):
            raise LaunchError(
                f"port {port} on {host} is already in use; choose another one: make up {variable}={port + 1}"
            )

    def _start(self) -> None:
        settings = self.settings
        database_url = settings.database_url or self._embedded("Postgres", PostgresServer)
        redis_url = settings.redis_url or self._embedded("Redis", ValkeyServer)
        if settings.database_url:
            self._await("Postgres", "DATABASE_URL", lambda: _ask_postgres(database_url))
        if settings.redis_url:
            self._await("Redis", "REDIS_URL", lambda: _ask_redis(redis_url))
        handed_over = {
            "TOKENTILL_MODE": settings.mode,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PORT": str(settings.port),
            "SERVER_API_KEY": settings.server_api_key,
            "ADMIN_API_KEY": settings.admin_api_key,
        }
        self._env = {
            **LOCAL_DEFAULTS,
            **os.environ,
            **handed_over,
            "HOST": settings.host,
            "FLOWER_PORT": str(settings.flower_port),
            "FLOWER_ADDRESS": "127.0.0.1",
            "DATA_DIR": str(settings.data_dir),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
        }
        self._write_handover(handed_over)
        lines = commands()
        self._once("release", lines["release"])
        if settings.is_local:
            self._once("seed", "exec flask demo seed")
        for name in PROCESSES:
            self._running[name] = Running(name, lines[name], self._env, self.console)
        self._await_ready(redis_url)

    def _embedded(self, name: str, kind: type[PostgresServer] | type[ValkeyServer]) -> str:
        self._pause()
        server = kind(self.settings.data_dir / name.lower())
        self.console.say(f"starting embedded {name}")
        server.start()
        self._servers[name] = server
        return server.url

    def _await(self, name: str, variable: str, ask: Callable[[], None]) -> None:
        """Wait for a server of the user's own as long as it takes, and print why."""
        next_message_at = 0.0
        while True:
            try:
                return ask()
            except (psycopg.Error, RedisError, ValueError, OSError) as error:
                if time.monotonic() >= next_message_at:
                    next_message_at = time.monotonic() + WAIT_MESSAGE_EVERY_SECONDS
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    self.console.say(f"waiting for {name} ({variable}): {reason}")
            self._pause(1.0)

    def _once(self, name: str, command: str) -> None:
        self._pause()
        running = Running(name, command, self._env, self.console)
        try:
            while running.process.poll() is None:
                self._pause(0.05)
        except BaseException:
            running.kill()
            raise
        running.sweep_up()
        if running.process.returncode != 0:
            raise LaunchError(f"{name} failed ({_ending(running.process.returncode)}), see above")

    def _await_ready(self, redis_url: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not (answer := _readyz(self.settings.base_url)).startswith("200"):
            if time.monotonic() > deadline:
                raise LaunchError(f"not ready after {READY_TIMEOUT_SECONDS:.0f} seconds; /readyz says: {answer}")
            self._pause(0.1)
        # Ends can be taken now. The worker, which settles them, boots more slowly.
        deadline = time.monotonic() + WORKER_TIMEOUT_SECONDS
        while not _worker_listens(redis_url) and time.monotonic() < deadline:
            self._pause(0.1)

    def _write_handover(self, values: dict[str, str]) -> None:
        """Lets commands in a second terminal (`flask ...`) find this stack."""
        draft = self.handover.with_suffix(".new")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        draft.rename(self.handover)

    def _announce(self) -> None:
        settings = self.settings
        self.console.say(f"ready {settings.base_url}")
        if settings.is_local:
            self.console.say(_three_calls(settings))
        self.console.say(
            f"Operators' pages: {settings.base_url}/console (sign in with ADMIN_API_KEY)\n"
            f"The queue (flower): http://127.0.0.1:{settings.flower_port}\n"
            "Commands, in a second terminal: .venv/bin/flask --help\n"
            "Ctrl-C stops everything."
        )

    def _stop(self) -> None:
        stopper = threading.Thread(target=self._stop_in_order, daemon=True)
        signals_before = self._signals
        stopper.start()
        while stopper.is_alive():
            stopper.join(0.05)
            if self._signals > max(1, signals_before):
                self._kill_all()
                break
        self.handover.unlink(missing_ok=True)
        self._lock.release()

    def _stop_in_order(self) -> None:
        for names in STOPPED_TOGETHER:
            stopping = [
                threading.Thread(target=self._running[name].stop, args=(PATIENCE_SECONDS[name],))
                for name in names
                if name in self._running
            ]
            for thread in stopping:
                thread.start()
            for thread in stopping:
                thread.join()
        for server in reversed(self._servers.values()):
            server.stop()

    def _kill_all(self) -> None:
        for running in self._running.values():
            running.kill()
        for server in self._servers.values():
            server.kill()


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _ask_postgres(url: str) -> None:
    scheme, _, rest = url.partition("://")
    psycopg.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=3).close()


def _ask_redis(url: str) -> None:
    with connect(RedisUrl.parse(url), timeout_seconds=3) as client:
        client.ping()


def _worker_listens(redis_url: str) -> bool:
    """Whether some client waits for messages as Celery's workers do; unknown counts as yes."""
    try:
        with connect(RedisUrl.parse(redis_url), timeout_seconds=3) as client:
            return any(entry["cmd"] == "brpop" for entry in client.client_list())
    except RedisError:
        return True


def _readyz(base_url: str) -> str:
    try:
        with HTTP.open(f"{base_url}/readyz", timeout=5) as answer:
            return f"{answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read(2_000).decode(errors='replace')}"
    except OSError as error:
        return str(error)


def _three_calls(settings: Settings) -> str:
    server_key = settings.server_api_key.split(",")[0].strip()
    admin_key = settings.admin_api_key.split(",")[0].strip()
    service = f"-H 'x-server-api-key: {server_key}' -H 'content-type: application/json'"
    url = settings.base_url
    run = '"user_id": "demo-user", "feature_endpoint_id": "demo-feature"'
    return f"""
May demo-user start the feature?
  curl -s {url}/api/token-process/start {service} -d '{{{run}}}'
The feature ran; it used 40 output tokens:
  curl -s {url}/api/token-process/end {service} -d '{{{run}, "input_token": 12, "output_token": 40}}'
The wallet, settled by the worker:
  curl -s {url}/api/admin/wallets/demo-user -H 'x-admin-api-key: {admin_key}'
"""


def main() -> int:
    console = Console()
    try:
        settings = Settings.from_environment()
    except LaunchError as error:
        console.say(f"tokentill: {error}")
        return 1
    return Stack(settings, console).run()
