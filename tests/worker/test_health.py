"""What service managers are told of workers and beat: whether they do their work, not only whether they live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stack import health
from tests import processes
from tests.processes import PROJECT, wait_until
from worker.heartbeats import Heartbeat


def check(name: str, folder: Path) -> tuple[int, str]:
    """What the health check of a container sees."""
    done = subprocess.run(
        [sys.executable, "-m", "stack", "health", name],
        cwd=PROJECT,
        env={"DATA_DIR": str(folder), "WORKER_NAME": "worker@test"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_worker_and_beat_are_well_while_they_work(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("worker", "beat"):
        assert check(name, tmp_path)[0] == 1
    with processes.worker(environment, tmp_path) as worker, processes.beat(environment, tmp_path) as beat:
        for name in ("worker", "beat"):
            wait_until(lambda name=name: check(name, tmp_path) == (0, ""), what=name)
        env = {"DATA_DIR": str(tmp_path), "WORKER_NAME": "worker@test"}
        for name, running in (("worker", worker), ("beat", beat)):
            # They live all the same, and a check that only looked for them would be content.
            os.kill(running.process.pid, signal.SIGSTOP)
            monkeypatch.setattr(health, "SECONDS_MAX", 0.5)
            wait_until(lambda name=name: health.health(name, env) is not None, what=f"the {name} that stands still")
            monkeypatch.undo()
            os.kill(running.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("seen_at", ["", "yes", "1e12"])
def test_what_a_file_from_before_says_counts_for_nothing(seen_at: str, tmp_path: Path) -> None:
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "heartbeats" / "beat").write_text(seen_at)
    assert health.health("beat", {"DATA_DIR": str(tmp_path)}) is not None


def test_a_process_whose_note_cannot_be_written_goes_on(tmp_path: Path) -> None:
    (tmp_path / "heartbeats").write_text("in the way")
    Heartbeat(tmp_path, "beat").beat()


def test_a_name_with_a_path_in_it_stays_in_the_folder(tmp_path: Path) -> None:
    Heartbeat(tmp_path, "worker-../../up@here").beat()
    assert health.health("worker", {"DATA_DIR": str(tmp_path), "WORKER_NAME": "../../up@here"}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeats"]
