"""The plan and the report of a chaos run, without running it; and the clock shim."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from stack.procfile import ROOT
from tests.faults import chaos, faults
from tests.faults.book import OPERATIONS_KEPT
from tests.faults.report import Row, table
from tests.faults.run import ChaosRun

NAMES = [*faults.ALL, faults.MIXED]


def test_a_full_run_strikes_every_fault_and_kills_a_hundred_times() -> None:
    plan = chaos.plan(random.Random(1), NAMES, chaos.KILLS, is_short=False)
    assert set(plan) == set(NAMES)
    alone = sum(plan.count(name) for name in faults.KILLS)
    assert alone + chaos.KILLS_PER_MIX * plan.count(faults.MIXED) >= 110


def test_a_short_run_strikes_every_fault() -> None:
    assert set(chaos.plan(random.Random(1), NAMES, chaos.KILLS, is_short=True)) == set(NAMES)


def test_every_fault_that_leaves_the_stores_up_has_a_limit_for_bystanders() -> None:
    assert faults.BYSTANDER_SECONDS_MAX.keys() <= faults.ALL.keys()
    away = {
        "redis", "postgres", "flush", "refused", "frozen-redis", "frozen-postgres", "cut-commits",
        "read-only", "older-postgres", "poisoned-spool",
    }  # fmt: skip
    # These stop all the workers themselves.
    assert faults.ALL.keys() - faults.BYSTANDER_SECONDS_MAX.keys() - away == {"repeats"}


def test_a_failure_is_told_with_its_seed_the_last_operations_and_the_history(tmp_path: Path) -> None:
    run = ChaosRun(tmp_path, 4_711, [], 1, 1, True, lambda _: None)
    for i in range(100):
        run.book.note(f"operation {i}.")
    run.book.violate("lost", "end key-1 is nowhere", "key-1")
    for i in range(100):
        run.book.note(f"afterwards {i}.")
    run.violations = run.book.violations
    lines: list[str] = []
    chaos.explain(run, lines.append)
    text = "\n".join(lines)
    assert "seed 4711" in text
    assert "lost: end key-1 is nowhere" in text
    assert "operation 99." in text
    assert "operation 50." not in text
    assert "afterwards" not in text
    assert sum("operation " in line for line in lines) == OPERATIONS_KEPT - 1


def test_the_table_adds_up() -> None:
    text = table([Row("api", 2, 10, 0, 0, [1.0, 3.0], [0.1]), Row("beat", 1, 5, 1, 2, [], [0.3])])
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        "all", "3", "15", "1", "2", "2.0, 3.0", "0.2, 0.3",
    ]  # fmt: skip


def test_a_moved_clock_moves_all_that_reads_the_time_of_day() -> None:
    script = (
        "from tests.faults.clock_shim import move\n"
        "import time, datetime\n"
        "before, made = time.time(), datetime.datetime.now(datetime.timezone.utc)\n"
        "move(3600)\n"
        "from datetime import datetime as moved, timezone, timedelta\n"
        "assert 3599 < time.time() - before < 3610\n"
        "assert 3599 < time.time_ns() / 1e9 - before < 3610\n"
        "assert timedelta(minutes=59) < moved.now(timezone.utc) - made < timedelta(minutes=61)\n"
        "assert isinstance(made, moved) and isinstance(moved.now(), moved)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=30)
