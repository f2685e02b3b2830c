"""Metrics of real processes: several that answer and settle, some killed, whoever is asked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import processes
from tests.conftest import SERVER_KEY
from tests.processes import wait_until
from tests.support import FEATURE, Billing

pytestmark = pytest.mark.long

REQUESTS = "tokentill_http_request_duration_seconds_count"


class Machine:
    """Two web processes behind one port, a worker of two, and beat; the API's port and the one for metrics."""

    def __init__(self, environment: dict[str, str], folder: Path, stack: ExitStack) -> None:
        self.port, self.metrics_port = processes.free_port(), processes.free_port()
        settings = {
            **environment,
            "METRICS_PORT": str(self.metrics_port),
            "METRICS_DIR": str(folder / "numbers"),
            "PORT": str(self.port),
            "WEB_WORKERS": "2",
            "WEB_THREADS": "4",
        }
        self.worker = stack.enter_context(processes.worker(settings, folder))
        self.beat = stack.enter_context(processes.beat(settings, folder))
        self.web = stack.enter_context(processes.run("web", settings, folder / "web.log"))
        wait_until(lambda: self.answers(self.port), what="the API", log=self.web.log)
        wait_until(lambda: self.answers(self.metrics_port), what="the port for metrics", log=self.web.log)

    def answers(self, port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def scraped(self, port: int | None = None) -> dict[str, dict[tuple[str, ...], float]]:
        text = httpx.get(f"http://127.0.0.1:{port or self.metrics_port}/metrics", timeout=10).text
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(v for _, v in sorted(sample.labels.items()))] = sample.value
        return found

    def starts(self) -> float:
        return self.scraped()[REQUESTS].get(("POST", "/api/token-process/start", "200"), 0)

    def web_processes(self) -> set[int]:
        busy = self.scraped()["tokentill_http_threads_busy"]
        return {int(name.removeprefix("web-")) for (name,) in busy if name.startswith("web-")}

    def call(self, name: str, **more: object) -> None:
        body = {"user_id": "user-1", "feature_endpoint_id": FEATURE, **more}
        # A connection each, so that either process may have it.
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/api/token-process/{name}",
            json=body,
            headers={"x-server-api-key": SERVER_KEY},
            timeout=10,
        )
        assert answer.status_code == 200


@pytest.fixture
def machine(billing: Billing, environment: dict[str, str], tmp_path: Path) -> Iterator[Machine]:
    billing.catalog()
    billing.wallet(tokens=1_000_000)
    with ExitStack() as stack:
        yield Machine(environment, tmp_path, stack)


def test_whatever_dies_nothing_is_counted_twice_or_forgotten(machine: Machine, tmp_path: Path) -> None:
    wait_until(
        lambda: (
            machine.scraped()["tokentill_processes"] == {("web",): 2, ("worker",): 1, ("webhooks",): 0, ("beat",): 1}
        ),
        what="all of them to say that they live",
    )
    found = machine.scraped()
    assert list(found["tokentill_worker_silent_seconds"]) == [("worker@test",)]
    assert found["tokentill_beat_silent_seconds"][()] < 15
    for _ in range(30):
        machine.call("start")
    for _ in range(20):
        machine.call("end", input_token=1, output_token=4)
    wait_until(lambda: machine.starts() == 30, what="both processes' starts")
    wait_until(
        lambda: machine.scraped()["tokentill_ends_settled_total"]["inbox",] == 20,
        what="what the worker settled",
        log=machine.worker.log,
    )
    wait_until(
        lambda: machine.scraped()["tokentill_ends_accepted_total"]["inbox",] == 20, what="what both have accepted"
    )
    assert machine.scraped()["tokentill_settlement_lag_seconds_count"][()] == 20
    # Nobody has to tell of the last second of a process that is killed.
    time.sleep(1.5)
    # The same on the API's own port, whichever process answers.
    for _ in range(4):
        assert machine.scraped(machine.port)["tokentill_ends_settled_total"]["inbox",] == 20

    # kill -9 of one that answers: Granian starts another in its place.
    before = machine.web_processes()
    assert len(before) == 2
    os.kill(victim := min(before), signal.SIGKILL)
    wait_until(
        lambda: len(now := machine.web_processes()) == 2 and victim not in now, what="its gauges to go, others to come"
    )
    assert machine.starts() == 30
    machine.call("start")
    wait_until(lambda: machine.starts() == 31, what="the next start")

    # kill -9 of all that settle, as of one that is out of memory, and of whoever has the port.
    machine.worker.kill()
    wait_until(lambda: machine.answers(machine.metrics_port), what="somebody else on the port")
    found = machine.scraped()
    assert found["tokentill_ends_settled_total"]["inbox",] == 20
    assert found["tokentill_settlement_lag_seconds_count"][()] == 20
    names = [path.name for path in (tmp_path / "numbers").glob("*.lock")]
    assert len([name for name in names if name.startswith("worker")]) == 0
    assert len(names) == 3
