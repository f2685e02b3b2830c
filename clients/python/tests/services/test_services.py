"""Services of the usual frameworks, in processes of their own, with billing and provider failing."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import celery
import httpx
import pytest

from tests.providers.slow import SlowProvider, slow_provider
from tests.unit.fake import wait_until
from tests.unit.slow_server import SlowServer, slow_server
from tokentill import Outbox

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with slow_server() as server:
        yield server


@pytest.fixture
def provider() -> Iterator[SlowProvider]:
    with slow_provider() as provider:
        yield provider


@contextlib.contextmanager
def process(
    server: SlowServer, provider: SlowProvider, outbox: Path, *command: str, **env: str
) -> Iterator[str]:
    """The service, as it starts; {port} in its command is where it is to listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen(
        [str(part).replace("{port}", str(port)) for part in command],
        cwd=PROJECT,
        env={
            **os.environ,
            "PORT": str(port),
            "PROVIDER_URL": provider.url,
            "TOKEN_SERVER_URL": server.url,
            "SERVER_API_KEY": "key",
            "TOKENTILL_OUTBOX": str(outbox),
            **env,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def service(kind: str, server: SlowServer, provider: SlowProvider, tmp_path: Path) -> Iterator[str]:
    app = f"tests.services.{kind}_app"
    command = {
        "fastapi": [str(BIN / "uvicorn"), f"{app}:app", "--port", "{port}", "--log-level", "critical"],
        "flask": [sys.executable, "-m", app],
        "gunicorn": [
            str(BIN / "gunicorn"),
            "tests.services.flask_app:app",
            *("--preload", "--workers", "2", "--threads", "4", "--bind", "127.0.0.1:{port}"),
        ],
    }[kind]
    with process(server, provider, tmp_path / "outbox.db", *command) as url:
        wait_until(lambda: _listens(int(url.rpartition(":")[2])), 40)
        yield url


def hang_up_after_three(url: str) -> None:
    with httpx.stream("GET", url, timeout=20) as answer:
        pieces = answer.iter_bytes()
        for _ in range(3):
            next(pieces)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("fastapi", "/stream"),
        ("fastapi", "/generate"),
        ("flask", "/stream"),
        ("gunicorn", "/stream"),
    ],
)
def test_a_user_who_hangs_up_stops_the_provider(
    kind: str, path: str, server: SlowServer, provider: SlowProvider, tmp_path: Path
) -> None:
    with service(kind, server, provider, tmp_path) as url:
        hang_up_after_three(url + path)
        assert provider.wait_for_hang_up() < 25
        wait_until(lambda: len(server.ends()) == 1, 10)
        assert 3 <= server.ends()[0]["output_token"] < 25, "what flowed is billed"
        # And the whole stream is a whole bill.
        assert httpx.get(url + path, timeout=30).text == "x" * 100
        wait_until(lambda: len(server.ends()) == 2, 10)
    assert server.ends()[1]["output_token"] == 100


@pytest.mark.parametrize("kind", ["fastapi", "flask", "gunicorn"])
def test_ends_that_were_queued_are_sent_when_the_server_is_back(
    kind: str, server: SlowServer, provider: SlowProvider, tmp_path: Path
) -> None:
    server.plan = lambda path: "hang" if path.startswith("end") else "answer"
    with service(kind, server, provider, tmp_path) as url, Outbox(tmp_path / "outbox.db") as outbox:
        with httpx.Client(timeout=30) as http:
            answers = [http.get(f"{url}/whole") for _ in range(4)]
        assert [answer.json()["output_token"] for answer in answers] == [40] * 4
        assert outbox.status().pending == 4
        server.plan = lambda _path: "answer"
        wait_until(lambda: outbox.status().pending == 0, 60)
    keys = {end.get("idempotency_key") for end in server.ends() if "idempotency_key" in end}
    assert len(keys) <= 4


def test_a_second_is_a_second(server: SlowServer, provider: SlowProvider, tmp_path: Path) -> None:
    with service("fastapi", server, provider, tmp_path) as url:
        assert httpx.get(f"{url}/in-a-second", timeout=10).json() == "in time"
        server.plan = lambda path: "hang" if path == "end" else "answer"
        began = time.monotonic()
        assert httpx.get(f"{url}/in-a-second", timeout=10).json() == "late"
        assert time.monotonic() - began < 2
        with Outbox(tmp_path / "outbox.db") as outbox:
            assert outbox.status().pending == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_celery(server: SlowServer, provider: SlowProvider, tmp_path: Path) -> None:
    """Forked worker processes use the client of their parent."""
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    server.plan = lambda path: "hang" if path.startswith("end") else "answer"
    queue = celery.Celery("caller", broker="filesystem://", backend=f"file://{tmp_path}/results")
    queue.conf.broker_transport_options = {
        "data_folder_in": str(tmp_path / "queue"),
        "data_folder_out": str(tmp_path / "queue"),
        "control_folder": str(tmp_path / "control"),
    }
    command = [str(BIN / "celery"), "-A", "tests.services.celery_app", "worker", "-c", "2", "-l", "CRITICAL"]
    outbox_path = tmp_path / "outbox.db"
    with process(server, provider, outbox_path, *command, QUEUE_FOLDER=str(tmp_path)):
        results = [queue.send_task("summarise", ["one two three"]) for _ in range(4)]
        assert [result.get(timeout=60)["words"] for result in results] == [3] * 4
        with Outbox(outbox_path) as outbox:
            assert outbox.status().pending == 4
            server.plan = lambda _path: "answer"
            wait_until(lambda: outbox.status().pending == 0, 60)
