"""The test of the test: a server whose database is broken on purpose must not come through a chaos run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.run import ChaosRun
from tests.faults.sabotage import SABOTAGES


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_broken_database_is_found_out(name: str, tmp_path: Path) -> None:
    statements, kind = SABOTAGES[name]
    lines: list[str] = []
    run = ChaosRun(
        folder=tmp_path,
        seed=1,
        # Redis remembers keys too: only after a flush is the database alone with them.
        plan=["flush", "flush", "flush"],
        clients=2,
        seconds_max=30,
        is_short=True,
        say=lines.append,
        sabotage=statements,
        apis=1,
        workers=1,
    )
    violations = run.run()
    assert kind in {violation.kind for violation in violations}, lines
