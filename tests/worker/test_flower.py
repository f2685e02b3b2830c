"""Flower shows what couldn't be deducted, remembers it, and lets nobody in without a password."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.ends import EndRequest
from tests import processes
from tests.processes import free_port, wait_until
from tests.support import Billing

pytestmark = pytest.mark.long

LOGIN = ("operator", "a-password")
WALLETS = 8
ENDS = 200
PAYABLE = 7


@contextlib.contextmanager
def flower(environment: dict[str, str], folder: Path, **settings: str) -> Iterator[str]:
    port = free_port()
    own = {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": ":".join(LOGIN), **settings}
    with processes.run("flower", {**environment, **own}, folder / "flower.log") as running:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/healthcheck"), what="flower", log=running.log)
        yield url


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def tasks(url: str, search: str = "") -> list[dict[str, Any]]:
    """What the table of tasks shows."""
    asked = {
        "draw": "1", "start": "0", "length": "100", "search[value]": search,
        "order[0][column]": "0", "order[0][dir]": "asc", "columns[0][data]": "received",
    }  # fmt: skip
    answer = httpx.post(f"{url}/tasks/datatable", data=asked, auth=LOGIN, timeout=10)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


def workers(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{url}/workers?json=1", auth=LOGIN, timeout=10).json()["data"]
    return found


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Eight wallets; the first can pay seven ends of eleven tokens, the others none."""
    billing.catalog()
    for i in range(WALLETS):
        billing.wallet(f"user-{i}", tokens=11 * PAYABLE if i == 0 else 0)
    return billing


def report_ends(shop: Billing) -> None:
    ends: list[EndRequest] = [shop.usage(f"user-{i % WALLETS}") for i in range(ENDS)]
    shop.container.end.end_all(ends)


def test_what_could_not_be_deducted_is_no_success_and_is_remembered(
    shop: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    with processes.worker(environment, tmp_path) as worker, flower(environment, tmp_path) as url:
        wait_until(lambda: any(worker["status"] for worker in workers(url)), what="the worker's heartbeat")
        report_ends(shop)
        wait_until(lambda: shop.inbox_size() == ENDS - PAYABLE, what="the settlement", log=worker.log)
        owed = f"{11 * (ENDS - PAYABLE)} tokens owed"

        wait_until(lambda: len(tasks(url, "state:FAILURE name:tokentill.settle_ends")) > 0, what="the failure")
        told = [task for task in tasks(url) if task["name"] == "tokentill.settle_ends"]
        assert all(task["state"] != "SUCCESS" or "not deducted" not in task["result"] for task in told)
        failed = [task for task in told if task["state"] == "FAILURE"]
        assert sum(int(task["result"].split(" end")[0]) for task in failed) == ENDS - PAYABLE
        if len(failed) == 1:
            assert owed in failed[0]["result"]
        assert all(" end" in task["args"] and "..." in task["args"] for task in told if "200 ends" in task["args"])

        # A wallet's debt, tried in vain.
        for i in range(WALLETS):
            shop.execute_in_postgres(f"UPDATE wallets SET collect_at = now() WHERE user_id = 'user-{i}'")
        shop.container.doorbell.collect(shop.container.collection.due_wallets(WALLETS))
        wait_until(lambda: len(tasks(url, "state:FAILURE name:tokentill.collect_debts")) == WALLETS, what="the tries")
        assert {task["args"]: task["result"] for task in tasks(url, "name:tokentill.collect_debts")} == {
            f"user-{i} owes {debt} tokens": f"user-{i} owes {debt} tokens; 0 ends of user-{i} collected"
            for i in range(WALLETS)
            for debt in [11 * (25 - (PAYABLE if i == 0 else 0))]
        }
        assert [worker["task-failed"] for worker in workers(url)] == [len(failed) + WALLETS]
        before = {task["uuid"]: task["state"] for task in tasks(url)}
        # Failing is for those who watch: nothing is delivered again, nothing is logged as an error.
        assert not [line for line in json_lines(worker.log) if line.get("level") == "error"]
    with flower(environment, tmp_path) as url:
        assert {task["uuid"]: task["state"] for task in tasks(url)} == before


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_nobody_looks_without_the_password(environment: dict[str, str], tmp_path: Path) -> None:
    with flower({**environment, **PRODUCTION}, tmp_path) as url:
        for path in ("/", "/tasks", "/broker", "/workers?json=1", "/api/workers", "/api/tasks"):
            assert httpx.get(f"{url}{path}").status_code == 401, path
            assert httpx.get(f"{url}{path}", auth=("operator", "wrong")).status_code == 401, path
        assert httpx.get(f"{url}/tasks", auth=LOGIN).status_code == 200
        assert httpx.post(f"{url}/api/task/send-task/tokentill.sweep").status_code == 401


PRODUCTION = {
    "TOKENTILL_MODE": "production",
    "SERVER_API_KEY": "a-service-servers-key",
    "ADMIN_API_KEY": "an-administrators-key",
}


def test_it_does_not_start_without_one(environment: dict[str, str], tmp_path: Path) -> None:
    settings = {**environment, **PRODUCTION, "FLOWER_PORT": str(free_port())}
    with processes.run("flower", settings, tmp_path / "flower.log") as running:
        assert running.process.wait(30) == 1
    assert "tokentill flower: FLOWER_BASIC_AUTH must be user:password" in running.log.read_text()
