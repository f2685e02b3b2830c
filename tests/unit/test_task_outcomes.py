"""What tasks say of themselves in flower, and what flower keeps of it."""

from __future__ import annotations

import shelve
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.billing.collect import Collected
from app.billing.settlements import SettleReport
from app.config import Config
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.wallets import wallet_of
from app.stores.postgres.debts import IndebtedWallet
from worker.flower_access import access_refusal
from worker.flower_history import History, readable
from worker.tasks import outcomes
from worker.tasks.outcomes import NotDeducted

ALICE = wallet_of("alice")


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (SettleReport(), None),
        (SettleReport(settled=1), "1 end settled"),
        (SettleReport(settled=7, repeated=2), "7 ends settled; 2 ends settled before"),
    ],
)
def test_a_settlement_without_debt_is_a_success(report: SettleReport, text: str | None) -> None:
    assert outcomes.of_settlement(report) == text


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (
            SettleReport(settled=7, indebted=193, indebted_micros=184_214 * MICROS_PER_TOKEN),
            "193 ends not deducted: 184214 tokens owed; 7 ends settled",
        ),
        (SettleReport(indebted=1, indebted_micros=250_000), "1 end not deducted: 0.25 tokens owed"),
        (SettleReport(dead=2), "2 ends put to the dead letters"),
    ],
)
def test_a_settlement_that_leaves_debt_is_none(report: SettleReport, text: str) -> None:
    with pytest.raises(NotDeducted) as raised:
        outcomes.of_settlement(report)
    assert str(raised.value) == text


def test_a_collection_is_a_success_when_nothing_is_owed_any_more() -> None:
    report = SettleReport(settled=3)
    assert outcomes.of_collection(ALICE, Collected(report)) == "3 ends of alice collected"
    unfinished = Collected(report, IndebtedWallet(ALICE, 5 * MICROS_PER_TOKEN))
    assert outcomes.of_collection(ALICE, unfinished) == "3 ends of alice collected; more follow"


@pytest.mark.parametrize(
    ("collected", "text"),
    [
        (
            Collected(SettleReport(settled=1), debt_micros=90 * MICROS_PER_TOKEN),
            "alice owes 90 tokens; 1 end of alice collected",
        ),
        (Collected(SettleReport(), debt_micros=None), "alice is locked by somebody; its debts stay due"),
    ],
)
def test_a_collection_that_leaves_debt_is_none(collected: Collected, text: str) -> None:
    with pytest.raises(NotDeducted) as raised:
        outcomes.of_collection(ALICE, collected)
    assert str(raised.value) == text


@pytest.fixture
def history() -> History:
    return History(max_tasks_in_memory=100)


@pytest.fixture
def run(history: History) -> Callable[..., None]:
    clock = iter(range(1, 10_000))

    def run(task_id: str, ending: str, **fields: Any) -> None:
        common = {"uuid": task_id, "hostname": "one@here", "pid": 1, "utcoffset": 0}
        received = {"name": "tokentill.sweep", "args": "every 1 s", "kwargs": "{}"}
        for kind, more in (("task-received", received), ("task-started", {}), (ending, fields)):
            now = time.time()
            event = {"type": kind, "timestamp": now, "local_received": now, "clock": next(clock)}
            history.event(event | common | more)

    return run


def test_ticks_that_found_nothing_are_counted_and_forgotten(history: History, run: Callable[..., None]) -> None:
    run("found-nothing", "task-succeeded", result="None", runtime=0.1)
    run("settled", "task-succeeded", result="'1 end settled'", runtime=0.1)
    run("failed", "task-failed", exception="NotDeducted('1 end not deducted: 5 tokens owed')", traceback="...")
    assert set(history.tasks) == {"settled", "failed"}
    assert history.counter["one@here"] == {
        "task-received": 3, "task-started": 3, "task-succeeded": 2, "task-failed": 1,
    }  # fmt: skip
    page = history.search_engine.search(history.tasks, "", offset=0, limit=10)
    assert page.total_count == 2


def test_outcomes_are_shown_in_words(history: History, run: Callable[..., None]) -> None:
    run("settled", "task-succeeded", result="'1 end settled'", runtime=0.1)
    run("failed", "task-failed", exception="""NotDeducted("o'neill owes 5 tokens")""", traceback="...")
    assert {task.uuid: (task.state, readable(task).result) for task in history.tasks.values()} == {
        "settled": ("SUCCESS", "1 end settled"),
        "failed": ("FAILURE", "o'neill owes 5 tokens"),
    }


def found(history: History, query: str) -> list[str]:
    task_ids: list[str] = history.search_engine.search(history.tasks, query, offset=0, limit=10).task_ids
    return task_ids


def test_tasks_are_found_by_the_outcome_that_is_shown(history: History, run: Callable[..., None]) -> None:
    run("settled", "task-succeeded", result="'1 end settled'", runtime=0.1)
    run("failed", "task-failed", exception="NotDeducted('bob owes 5 tokens')", traceback="...")
    assert found(history, "state:FAILURE result:bob") == ["failed"]
    assert found(history, "result:settled") == ["settled"]
    assert found(history, "state:SUCCESS result:bob") == []


def test_it_can_be_kept_in_a_file(history: History, run: Callable[..., None], tmp_path: Path) -> None:
    run("failed", "task-failed", exception="NotDeducted('1 end not deducted')", traceback="...")
    with shelve.open(str(tmp_path / "history")) as file:  # noqa: S301 - our own file
        file["events"] = history
    with shelve.open(str(tmp_path / "history")) as file:  # noqa: S301 - our own file
        kept = file["events"]
    assert isinstance(kept, History)
    assert kept.tasks["failed"].state == "FAILURE"
    assert found(kept, 'result:"1 end not"') == ["failed"]


@pytest.mark.parametrize(
    ("given", "may_start"),
    [
        ({}, False),
        ({"FLOWER_BASIC_AUTH": "operator"}, False),
        ({"FLOWER_BASIC_AUTH": "operator:"}, False),
        ({"FLOWER_BASIC_AUTH": ":secret"}, False),
        ({"FLOWER_BASIC_AUTH": "operator:secret,other"}, False),
        ({"FLOWER_BASIC_AUTH": "operator:secret,other:secret"}, True),
        ({"FLOWER_AUTH": r".*@example\.com"}, True),
        ({"TOKENTILL_MODE": "local"}, True),
    ],
)
def test_flower_starts_for_those_who_have_a_password_only(given: dict[str, str], may_start: bool) -> None:
    config = Config.from_environment(
        {
            "DATABASE_URL": "postgresql://127.0.0.1:1/none",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "SERVER_API_KEY": "a-service-servers-key",
            "ADMIN_API_KEY": "an-administrators-key",
            **given,
        }
    )
    refusal = access_refusal(config)
    assert (refusal is None) == may_start
    assert "secret" not in str(refusal)
