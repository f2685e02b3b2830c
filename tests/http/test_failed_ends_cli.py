"""The operators' commands on failed ends: the same services as the admin API, and a thousand at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from uuid_utils.compat import uuid7

from app.cli import cli
from app.operations import failed_ends
from tests.conftest import PROJECT
from tests.processes import wait_until
from tests.support import FEATURE, Billing, assert_conserved

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
COST_MICROS = 11_000_000

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(cli, ("failed-ends", *arguments))


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    billing.wallet("a", tokens=100_000)
    billing.wallet("b", tokens=100_000)
    return billing


def put_aside(shop: Billing, user_id: str, count: int) -> list[str]:
    """Dead ends with nothing wrong (any more); their ids."""
    ids = [uuid7() for _ in range(count)]
    with shop.container.engine.begin() as connection:
        connection.execute(
            sa.text("""
                INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens,
                    cost_micros, base_cost_micros, profit_micros, profit_rule_id, state, attempts, last_error)
                SELECT id, :user_id, :user_id, :feature, 10, 40, :cost, 10000000, :cost - 10000000,
                    (SELECT min(id) FROM profit_rules), 'dead', 3, 'quote_disagrees'
                FROM unnest(CAST(:ids AS uuid[])) AS id
            """),
            {"user_id": user_id, "feature": FEATURE, "cost": COST_MICROS, "ids": ids},
        )
    return [str(end_id) for end_id in ids]


def states(shop: Billing) -> dict[str, int]:
    with shop.container.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT state, count(*) FROM end_inbox GROUP BY state"))
        return {row.state: row.count for row in rows}


def shown(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return simplejson.loads(result.stdout, use_decimal=True)


def test_list_and_show(run: Run, shop: Billing) -> None:
    first, second = put_aside(shop, "a", 2)
    put_aside(shop, "b", 1)
    listed = shown(run("list", "--user", "a", "--state", "dead", "--limit", "1", "--json"))
    assert (listed["items"][0]["id"], listed["next"]) == (first, first)
    rest = shown(run("list", "--user", "a", "--after", first, "--json"))
    assert ([item["id"] for item in rest["items"]], rest["next"]) == ([second], None)
    assert shown(run("list", "--state", "retrying", "--json"))["items"] == []
    assert run("list").stdout.splitlines()[1].startswith(f"{first}  a        11    dead   3")
    assert shown(run("show", first, "--json"))["last_error"] == "quote_disagrees"
    missing = run("show", UNKNOWN)
    assert (missing.exit_code, missing.stderr) == (1, "Error: Failed end not found\n")


def test_replay_by_id(run: Run, shop: Billing) -> None:
    first, second, _ = put_aside(shop, "a", 3)
    assert run("replay", first, second).stdout == "2 replayed: 2 to be settled, 0 to be tried again.\n"
    assert states(shop) == {"accepted": 2, "dead": 1}
    missing = run("replay", UNKNOWN)
    assert (missing.exit_code, missing.stderr.splitlines()[-1]) == (1, "Error: Failed end not found")


def test_a_thousand_in_one_command(run: Run, shop: Billing) -> None:
    put_aside(shop, "a", 700)
    put_aside(shop, "b", 300)
    result = run("replay", "--all", "--state", "dead")
    assert (result.exit_code, result.stdout) == (0, "1000 replayed: 1000 to be settled, 0 to be tried again.\n")
    shop.settle_everything()
    assert shop.inbox_size() == 0
    assert shop.balance("a").posted_micros == 100_000_000_000 - 700 * COST_MICROS
    assert shop.balance("b").posted_micros == 100_000_000_000 - 300 * COST_MICROS
    assert_conserved(shop, "a", "b")
    again = run("replay", "--all")
    assert again.stdout == "0 replayed: 0 to be settled, 0 to be tried again.\n"


def test_only_those_that_match(run: Run, shop: Billing) -> None:
    put_aside(shop, "a", 3)
    put_aside(shop, "b", 3)
    shop.execute("UPDATE end_inbox SET last_error = 'insufficient_tokens' WHERE user_id = 'b'")
    assert run("replay", "--all", "--user", "a", "--error", "insufficient_tokens").stdout.startswith("0 replayed")
    assert run("replay", "--all", "--error", "insufficient_tokens").stdout == (
        "3 replayed: 0 to be settled, 3 to be tried again.\n"
    )
    assert states(shop) == {"dead": 3, "retrying": 3}


def test_what_fails_again_meanwhile_is_not_tried_for_ever(
    run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_aside(shop, "a", 5)
    monkeypatch.setattr(failed_ends, "ENDS_PER_REPLAY", 2)
    shop.execute("UPDATE end_inbox SET cost_micros = 1")
    monkeypatch.setattr(shop.container.doorbell, "settle", shop.container.settlement.settle)
    assert run("replay", "--all").stdout.startswith("5 replayed")
    assert states(shop) == {"dead": 5}


def test_write_off(run: Run, shop: Billing) -> None:
    [end_id] = put_aside(shop, "a", 1)
    first = run("write-off", end_id, "--reason", "Customer left", "--by", "alice", "--json")
    entry = shown(first)
    assert (entry["kind"], entry["token"], entry["reason"], entry["actor"]) == (
        "write_off",
        11,
        "Customer left",
        "alice",
    )
    again = run("write-off", end_id, "--reason", "Customer left", "--json")
    assert (again.stdout, again.stderr) == (first.stdout, "Written off before; nothing was done now.\n")
    assert shop.balance("a").posted_micros == 100_000_000_000
    assert_conserved(shop, "a")


@pytest.mark.parametrize(
    ("named", "actor"), [(lambda: "operator", "operator"), (lambda: {}["no such user"], "cli")], ids=["named", "none"]
)
def test_write_off_by_whoever_is_logged_in(
    run: Run, shop: Billing, monkeypatch: pytest.MonkeyPatch, named: Callable[[], str], actor: str
) -> None:
    monkeypatch.setattr("getpass.getuser", named)
    [end_id] = put_aside(shop, "a", 1)
    assert shown(run("write-off", end_id, "--reason", "Gone", "--json"))["actor"] == actor


def test_bad_options(run: Run) -> None:
    for arguments in (
        ("replay",),
        ("replay", UNKNOWN, "--all"),
        ("replay", UNKNOWN, "--state", "dead"),
        ("replay", "1"),
        ("list", "--state", "accepted"),
        ("show", "x"),
        ("write-off", UNKNOWN),
        ("write-off", UNKNOWN, "--reason", ""),
        ("write-off", UNKNOWN, "--reason", "Gone", "--by", "x" * 129),
    ):
        assert run(*arguments).exit_code == 2


def test_interrupted_and_repeated(shop: Billing, environment: dict[str, str]) -> None:
    """Ctrl-C in the middle: what is done stays done, and the same command does the rest."""
    put_aside(shop, "a", 150)
    put_aside(shop, "b", 150)
    command = [Path(sys.executable).with_name("flask"), "failed-ends", "replay", "--all", "--state", "dead"]
    settings = {"PATH": os.environ["PATH"], **environment, "DATABASE_TIMEOUT_SECONDS": "30"}

    def is_waiting() -> bool:
        with shop.container.engine.connect() as connection:
            waiting = """
                SELECT count(*) FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND query LIKE '%wallets%FOR NO KEY UPDATE%'
            """
            return bool(connection.execute(sa.text(waiting)).scalar_one())

    with shop.container.engine.begin() as lock:
        # The second page comes to a wallet that somebody else is using.
        lock.execute(sa.text("SELECT 1 FROM wallets WHERE user_id = 'b' FOR UPDATE"))
        # Started in a shell's background we ignore Ctrl-C, and so would the command.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, cwd=PROJECT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        signal.signal(signal.SIGINT, before)
        with process:
            try:
                wait_until(is_waiting, what="the second page")
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "Interrupted: 100 of 300 replayed. The same command goes on with the rest." in said
    assert "Traceback" not in said
    assert states(shop) == {"accepted": 100, "dead": 200}

    again = subprocess.run(command, cwd=PROJECT, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stdout) == (0, "200 replayed: 200 to be settled, 0 to be tried again.\n")
    assert states(shop) == {"accepted": 300}
