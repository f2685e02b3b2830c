"""What only the real web server decides: stopping with requests in flight, bodies without a length, 100-continue."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests import processes
from tests.conftest import SERVER_KEY
from tests.support import FEATURE, Billing

HEADERS = {"x-server-api-key": SERVER_KEY}
START = {"user_id": "user-1", "feature_endpoint_id": FEATURE}
END = {**START, "input_token": 1, "output_token": 40}
ENDS = 12
THREADS = 4
IDLE = 2_000


def test_sigterm_answers_the_ends_in_flight(
    billing: Billing, environment: dict[str, str], tmp_path: Path, postgres_url: str
) -> None:
    billing.catalog()
    billing.wallet()
    with (
        processes.web(environment, tmp_path, threads=THREADS) as (url, running),
        psycopg.connect(postgres_url) as blocker,
    ):
        blocker.execute("LOCK TABLE end_inbox IN EXCLUSIVE MODE")
        calls = []
        for _ in range(ENDS):
            call = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
            # The connection is known to be accepted before the end is sent on it.
            call.request("GET", "/healthz")
            call.getresponse().read()
            calls.append(call)
        for number, call in enumerate(calls):
            headers = {**HEADERS, "Content-Type": "application/json", "Idempotency-Key": f"key-{number}"}
            call.request("POST", "/api/token-process/end", json.dumps(END), headers)
        processes.wait_until(lambda: _waiting_inserts(postgres_url) > 0, what="a blocked insert")
        # The server has read the others' bytes too by then; nothing outside it shows when.
        time.sleep(0.5)
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        processes.wait_until(lambda: not _accepts(url), what="the end of accepting")
        blocker.rollback()
        # More than there are threads: some were still waiting for one when the signal came.
        assert [call.getresponse().status for call in calls] == [200] * ENDS
        stopping.join()
        assert running.process.returncode == 0
        for call in calls:
            call.close()
    assert billing.inbox_size() == ENDS


def test_a_body_over_64_kib_is_413_with_and_without_a_length(
    billing: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    billing.catalog()
    billing.wallet()
    body = json.dumps({**START, "padding": "x" * 65_536}).encode()
    with processes.web(environment, tmp_path, threads=THREADS) as (url, _):
        for content in (body, iter([body[:40_000], body[40_000:]])):
            answer = httpx.post(
                f"{url}/api/token-process/start",
                content=content,
                headers={**HEADERS, "Content-Type": "application/json"},
            )
            assert answer.status_code == 413
            assert answer.json()["success"] is False


def test_expect_100_continue(billing: Billing, environment: dict[str, str], tmp_path: Path) -> None:
    billing.catalog()
    billing.wallet()
    body = json.dumps(START).encode()
    head = (
        "POST /api/token-process/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"x-server-api-key: {SERVER_KEY}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with processes.web(environment, tmp_path, threads=THREADS) as (url, _), _connected(url) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1_000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 200


def _connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=5)


def _accepts(url: str) -> bool:
    try:
        _connected(url).close()
    except OSError:
        return False
    return True


def _waiting_inserts(postgres_url: str) -> int:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return 0 if row is None else int(row[0])


def test_idle_connections_stop_nobody(billing: Billing, environment: dict[str, str], tmp_path: Path) -> None:
    """Opened and left alone, or left in the middle of a header: each keeps a file open, and no thread."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 2 * IDLE:
        pytest.skip(f"this machine allows {most} open files to a process")
    billing.catalog()
    billing.wallet(tokens=10_000)
    # As on most machines; the server raises it to the most that it may.
    script = f"ulimit -Sn 1024; {processes.commands()['web']}"
    with (
        contextlib.ExitStack() as idle,
        processes.web(environment, tmp_path, threads=THREADS, command=script) as (url, _running),
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * IDLE if most == resource.RLIM_INFINITY else most, most))
        idle.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, most))
        netloc = urlsplit(url)
        for number in range(IDLE):
            connection = idle.enter_context(socket.create_connection((netloc.hostname, netloc.port), timeout=5))
            if number % 2:
                connection.sendall(b"POST /api/token-process/end HTTP/1.1\r\nHost: x\r\n")

        def end(number: int) -> int:
            headers = {**HEADERS, "Idempotency-Key": f"key-{number}"}
            return httpx.post(f"{url}/api/token-process/end", json=END, headers=headers, timeout=5).status_code

        # Many at once, so that new connections to the stores are needed, with numbers above 1,024.
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(end, range(64))) == {200}
    assert billing.inbox_size() == 64
