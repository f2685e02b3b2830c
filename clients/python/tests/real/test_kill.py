"""kill -9 of client programs that have the outbox on: every finished run is billed exactly once."""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.real.bank import Bank
from tests.real.server import Server, WebProcess

KILLS = int(os.environ.get("TOKENTILL_TEST_KILLS", "50"))
VICTIM = Path(__file__).with_name("victim.py")


class Victim:
    """One life of the program. Lines are read as they come: a pipe that is full would stop it."""

    def __init__(
        self, server_url: str, server_key: str, outbox: Path, user: str, feature: str, *rest: str
    ) -> None:
        self.finished: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(VICTIM), server_url, server_key, str(outbox), user, feature, *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                self.finished.append(line.decode().strip())

    def wait_until_working(self) -> None:
        deadline = time.monotonic() + 30
        while not self.finished and time.monotonic() < deadline:
            time.sleep(0.005)

    def wait(self) -> int:
        status = self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    def kill(self) -> list[str]:
        self._process.kill()
        self.wait()
        return self.finished


def flush(outbox: Path, url: str, key: str) -> str:
    """`tokentill outbox flush`, as an operator types it."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tokentill",
            "outbox",
            "flush",
            "--path",
            str(outbox),
            "--timeout-seconds",
            "120",
        ],
        env={**os.environ, "TOKEN_SERVER_URL": url, "SERVER_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_books(bank: Bank, user: str, finished: list[str], deposit: int) -> int:
    """Every finished run is billed, nothing twice, and the wallet agrees. Answers how many were billed."""
    billed = collections.Counter(item["model"] for item in bank.usage(user))
    assert {run: times for run, times in billed.items() if times > 1} == {}, "billed twice"
    assert sorted(set(finished) - set(billed)) == [], "lost"
    # 4 output tokens with 10 % profit: 1.1 each. In tenths, to stay with integers.
    assert bank.settled(user) * 10 == deposit * 10 - len(billed) * 11
    return len(billed)


@pytest.mark.timeout(900)
def test_kill_9_of_the_client_at_random_points(
    tmp_path: Path,
    web: WebProcess,
    own_server: Server,
    own_bank: Bank,
    capsys: pytest.CaptureFixture[str],
) -> None:
    feature, package = own_bank.feature(10)
    user = own_bank.wallet(package, 1_000_000)
    seed = int(os.environ.get("TOKENTILL_TEST_SEED", str(random.randrange(10**6))))
    chance = random.Random(seed)
    outbox = tmp_path / "outbox.db"
    finished: list[str] = []
    server_kills = 0
    for life in range(KILLS):
        victim = Victim(web.url, own_server.server_key, outbox, user, feature, f"life-{life}")
        victim.wait_until_working()
        time.sleep(chance.uniform(0.0, 0.5))
        if life % 8 == 7:
            # The server dies first, so that ends are left between use and acknowledgement.
            web.kill()
            server_kills += 1
            time.sleep(chance.uniform(0.0, 0.3))
            finished += victim.kill()
            web.start()
        else:
            finished += victim.kill()
    said = flush(outbox, web.url, own_server.server_key)
    billed = check_books(own_bank, user, finished, 1_000_000)
    assert finished, "the lives were too short to finish anything"
    with capsys.disabled():
        print(  # noqa: T201
            f"\nseed {seed}: {KILLS} kills of the client, {server_kills} of the server,"
            f" {len(finished)} finished runs,"
            f" {billed} billed, last flush: {said.strip()}",
            end=" ",
        )


def test_two_processes_share_one_outbox(
    tmp_path: Path, web: WebProcess, own_server: Server, own_bank: Bank
) -> None:
    feature, package = own_bank.feature(10)
    user = own_bank.wallet(package, 10_000)
    outbox = tmp_path / "outbox.db"
    victims = [
        Victim(web.url, own_server.server_key, outbox, user, feature, f"process-{n}", "60") for n in range(2)
    ]
    for victim in victims:
        victim.wait_until_working()
    web.kill()
    time.sleep(1.0)
    web.start()
    assert [victim.wait() for victim in victims] == [0, 0]
    flush(outbox, web.url, own_server.server_key)
    finished = [run for victim in victims for run in victim.finished]
    assert len(finished) == 2 * 4 * 60
    assert check_books(own_bank, user, finished, 10_000) == len(finished)
