"""Tests the chaos run itself: it must fail for a server whose database is broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import probe, rest, run
from tests.faults.run import ChaosRun
from tests.faults.sabotage import SABOTAGES

pytestmark = pytest.mark.long


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_broken_database_is_found_out(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Lost ends are waited for in vain.
    monkeypatch.setattr(rest, "REST_SECONDS_MAX", 15.0)
    monkeypatch.setattr(run, "RECOVERY_SECONDS_MAX", 15.0)
    monkeypatch.setattr(probe, "GIVEN_UP_SECONDS", 5.0)
    sabotage = SABOTAGES[name]
    lines: list[str] = []
    chaos = ChaosRun(
        folder=tmp_path,
        seed=1,
        plan=sabotage.plan,
        clients=2,
        seconds_max=30,
        is_short=True,
        say=lines.append,
        sabotage=sabotage.statements,
        apis=1,
        workers=1,
    )
    violations = chaos.run()
    assert sabotage.kind in {violation.kind for violation in violations}, lines
