"""Keys, the brake and addresses as real web processes have them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests import processes
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.processes import Running
from tests.support import FEATURE, Billing

ADMIN = {"x-admin-api-key": ADMIN_KEY}
START = {"user_id": "user-1", "feature_endpoint_id": FEATURE}
PROXY_SAYS = {"X-Forwarded-For": "192.0.2.7"}
GUESSES = 2_000


@pytest.fixture
def two(billing: Billing, environment: dict[str, str], tmp_path: Path) -> Iterator[list[tuple[str, Running]]]:
    """Two web processes that trust a proxy on this machine."""
    billing.catalog()
    billing.wallet()
    settings = {**environment, "LOG_LEVEL": "INFO", "TRUSTED_PROXIES": "127.0.0.0/8"}
    with ExitStack() as running:
        yield [running.enter_context(processes.web(settings, tmp_path)) for _ in range(2)]


def lines(running: Running, message: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["message"] == message]


def made(url: str, name: str) -> dict[str, Any]:
    body = {"name": name, "kind": "service"}
    data: dict[str, Any] = httpx.post(f"{url}/api/admin/keys", json=body, headers=ADMIN).json()["data"]
    return data


def test_a_key_is_made_and_revoked_in_every_process_within_a_second(two: list[tuple[str, Running]]) -> None:
    (first, _), (second, _) = two
    seconds, hosts = [], cycle(range(256))
    # A connection each: an answer to a wrong key may end one.
    with httpx.Client(headers={"Connection": "close"}) as client:

        def until(key: str, status: int) -> float:
            """How long the other process takes to answer so, asked in front of Flask."""
            began = time.monotonic()
            while True:
                # Each from an address of its own, as a key that isn't known yet is a wrong one.
                headers = {"x-server-api-key": key, "X-Forwarded-For": f"192.0.2.{next(hosts)}"}
                answer = client.post(f"{second}/api/token-process/start", json=START, headers=headers)
                if answer.status_code == status:
                    return time.monotonic() - began
                assert time.monotonic() - began < 10
                time.sleep(0.05)

        for i in range(3):
            key = made(first, f"key-{i}")
            seconds.append(until(key["key"], 200))
            revoked = client.post(f"{first}/api/admin/keys/{key['id']}/revoke", headers=ADMIN)
            assert revoked.status_code == 200
            headers = {"x-server-api-key": key["key"]}
            # At once where it was revoked.
            assert client.post(f"{first}/api/token-process/start", json=START, headers=headers).status_code == 401
            seconds.append(until(key["key"], 401))
    # A machine that is busy with other things may take longer once.
    assert sorted(seconds)[len(seconds) // 2] < 1, seconds


def test_2000_guesses_are_braked_and_logged_and_a_right_key_works_on(two: list[tuple[str, Running]]) -> None:
    (first, running), (second, _) = two
    path = "/api/token-process/start"
    with httpx.Client(headers={**PROXY_SAYS, "Connection": "close"}) as client:

        def guess(number: int) -> int:
            headers = {"x-server-api-key": f"guess-{number}"}
            return client.post(f"{first}{path}", json=START, headers=headers).status_code

        def ask(number: int) -> int:
            headers = {"x-server-api-key": SERVER_KEY}
            return client.post(f"{first}{path}", json=START, headers=headers).status_code

        with ThreadPoolExecutor(8) as pool:
            guesses = pool.map(guess, range(GUESSES))
            asked = pool.map(ask, range(50))
            statuses, right = list(guesses), list(asked)
        assert set(right) == {200}
        # Some of those that were under way at once, and one after each wait.
        assert statuses.count(401) < 40
        assert statuses.count(429) == GUESSES - statuses.count(401)
        # The other process knows of it, too.
        refused = client.post(f"{second}{path}", json=START, headers={"x-server-api-key": "guess"})
        assert refused.status_code == 429
        assert refused.json()["code"] == "too_many_wrong_keys"
        assert 1 <= int(refused.headers["Retry-After"]) <= 900
        assert client.post(f"{second}{path}", json=START, headers={"x-server-api-key": SERVER_KEY}).status_code == 200
        # Whoever else comes through the proxy isn't concerned.
        other = {"X-Forwarded-For": "192.0.2.8", "x-server-api-key": "guess"}
        assert client.post(f"{first}{path}", json=START, headers=other).status_code == 401
    processes.wait_until(lambda: _told(running) >= GUESSES, what="the report", log=running.log)
    braked = lines(running, "wrong_keys_braked")
    assert {line["address"] for line in braked} == {"192.0.2.7"}
    assert len(braked) + len(lines(running, "wrong_keys")) < 20
    assert "guess-" not in running.log.read_text()


def _told(running: Running) -> int:
    return sum(line["most"].get("192.0.2.7", 0) for line in lines(running, "wrong_keys"))


def test_the_client_stands_in_the_log_and_is_believed_of_the_proxy_alone(
    billing: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    settings = {**environment, "LOG_LEVEL": "INFO"}
    with ExitStack() as running:
        trusting = {**settings, "TRUSTED_PROXIES": "127.0.0.1"}
        behind, of_proxy = running.enter_context(processes.web(trusting, tmp_path))
        alone, of_peer = running.enter_context(processes.web(settings, tmp_path))
        # Twice the header: what a client sends, and what a proxy adds as one of its own.
        _get(behind, [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "192.0.2.7")])
        _get(behind, [("X-Forwarded-For", "1.1.1.1, 192.0.2.7"), ("Forwarded", "for=1.1.1.1")])
        _get(alone, [("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=1.1.1.1")])
        assert _addresses(of_proxy) == ["192.0.2.7", "192.0.2.7"]
        assert _addresses(of_peer) == ["127.0.0.1"]


def _get(url: str, headers: list[tuple[str, str]]) -> None:
    call = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    call.putrequest("GET", "/api/admin/wallets")
    for name, value in headers:
        call.putheader(name, value)
    call.endheaders()
    assert call.getresponse().status == 401
    call.close()


def _addresses(running: Running) -> list[str]:
    def told() -> list[str]:
        return [line["address"] for line in lines(running, "request") if line["path"] == "/api/admin/wallets"]

    processes.wait_until(lambda: len(told()) > 0, what="the line", log=running.log)
    time.sleep(0.2)
    return told()
