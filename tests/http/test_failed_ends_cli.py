"""The operators' commands on failed ends: the same services as the admin API, and a thousand at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import simplejson
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from uuid_utils.compat import uuid7

from app.cli import cli
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.engine import allow_seconds
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


BULK = ("--reference", "inc-1", "--reason", "Outage")


@pytest.fixture
def by_workers(shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is announced is settled at once."""
    container = shop.container

    def collect(wallets: Sequence[IndebtedWallet]) -> None:
        for wallet in wallets:
            container.collection.collect(wallet.wallet_id, seconds=5)

    monkeypatch.setattr(container.doorbell, "settle", container.settlement.settle)
    monkeypatch.setattr(container.doorbell, "collect", collect)


@pytest.mark.usefixtures("by_workers")
def test_a_thousand_replayed_in_one_command(run: Run, shop: Billing) -> None:
    put_aside(shop, "a", 700)
    put_aside(shop, "b", 300)
    done = shown(run("replay", "--all", "--state", "dead", *BULK, "--yes", "--json"))
    assert (done["state"], done["outcomes"]) == ("done", [{"outcome": "settled", "ends": 1000, "cost": 11_000}])
    assert shop.inbox_size() == 0
    assert shop.balance("a").posted_micros == 100_000_000_000 - 700 * COST_MICROS
    assert shop.balance("b").posted_micros == 100_000_000_000 - 300 * COST_MICROS
    assert_conserved(shop, "a", "b")
    again = run("replay", "--all", "--state", "dead", *BULK)
    assert (again.exit_code, again.stderr.splitlines()[0]) == (0, "Confirmed before, under the same reference.")
    assert len(shop.ledger("a")) == 701


@pytest.mark.usefixtures("by_workers")
def test_what_fails_again_is_not_tried_for_ever(run: Run, shop: Billing) -> None:
    put_aside(shop, "a", 5)
    shop.execute("UPDATE end_inbox SET cost_micros = 1")
    done = run("replay", "--all", *BULK, "--yes")
    assert "5 failed again: flask bulk-actions ends 1 --outcome failed_again" in done.stderr
    assert states(shop) == {"dead": 5}


def test_a_dry_run_then_its_confirmation(run: Run, app: Flask, shop: Billing) -> None:
    ids = put_aside(shop, "a", 3)
    put_aside(shop, "b", 2)
    dry = run("write-off", "--all", "--user", "a", "--older-than", "1s", "--younger-than", "1d", *BULK, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.stderr == "Nothing is done yet: flask bulk-actions confirm 1 --ends 0 --cost 0\n"
    time.sleep(1)
    bulk = ("--reference", "inc-2", "--reason", "Outage")
    dry = run("write-off", "--all", "--user", "a", "--older-than", "1s", *bulk, "--dry-run", "--by", "ann")
    assert "selection     user_id=a older_than=1s" in dry.stdout
    assert dry.stderr == "Nothing is done yet: flask bulk-actions confirm 2 --ends 3 --cost 33\n"
    assert states(shop) == {"dead": 5}

    def bulk_actions(*arguments: str) -> Result:
        return app.test_cli_runner().invoke(cli, ("bulk-actions", *arguments))

    wrong = bulk_actions("confirm", "2", "--ends", "4", "--cost", "33")
    assert (wrong.exit_code, "It is about 3." in wrong.stderr) == (1, True)
    done = shown(bulk_actions("confirm", "2", "--ends", "3", "--cost", "33", "--by", "ben", "--json"))
    assert (done["state"], done["actor"], done["confirmed_by"]) == ("done", "cli/ann", "cli/ben")
    assert states(shop) == {"dead": 2}
    listed = shown(bulk_actions("ends", "2", "--outcome", "written_off", "--json"))["items"]
    assert [item["end_id"] for item in listed] == ids
    assert [item["state"] for item in shown(bulk_actions("list", "--json"))["items"]] == ["done", "draft"]
    assert shown(bulk_actions("cancel", "1", "--json"))["state"] == "cancelled"
    assert "cancelled" in bulk_actions("show", "1").stdout
    assert bulk_actions("show", "9").exit_code == 1


def test_a_bulk_write_off_asks_before_it_acts(app: Flask, shop: Billing) -> None:
    ids = put_aside(shop, "a", 3)
    command = ("failed-ends", "write-off", *ids[:2], *BULK)
    declined = app.test_cli_runner().invoke(cli, command, input="n\n")
    assert "Write off 2 ends of 1 users, 22 tokens? [y/N]" in declined.stderr
    assert states(shop) == {"dead": 3}
    agreed = app.test_cli_runner().invoke(cli, command, input="y\n")
    assert (agreed.exit_code, states(shop)) == (0, {"dead": 1})
    assert_conserved(shop, "a")


def test_write_off(run: Run, shop: Billing) -> None:
    [end_id] = put_aside(shop, "a", 1)
    first = run("write-off", end_id, "--reason", "Customer left", "--by", "alice", "--json")
    entry = shown(first)
    assert (entry["kind"], entry["token"], entry["reason"], entry["actor"]) == (
        "write_off",
        11,
        "Customer left",
        "cli/alice",
    )
    again = run("write-off", end_id, "--reason", "Customer left", "--json")
    assert (again.stdout, again.stderr) == (first.stdout, "Written off before; nothing was done now.\n")
    assert shop.balance("a").posted_micros == 100_000_000_000
    assert_conserved(shop, "a")


@pytest.mark.parametrize(
    ("named", "actor"),
    [(lambda: "operator", "cli/operator"), (lambda: {}["no such user"], f"cli/uid-{os.getuid()}")],
    ids=["named", "none"],
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
        ("replay", UNKNOWN, "--all", *BULK),
        ("replay", UNKNOWN, "--state", "dead"),
        ("replay", "--all"),
        ("replay", "--all", "--reference", "r"),
        ("replay", "1"),
        ("list", "--state", "accepted"),
        ("show", "x"),
        ("write-off",),
        ("write-off", UNKNOWN),
        ("write-off", UNKNOWN, "--reason", ""),
        ("write-off", UNKNOWN, "--reason", "Gone", "--dry-run"),
        ("write-off", UNKNOWN, UNKNOWN, "--reason", "Gone"),
        ("write-off", "--all", "--reason", "Gone"),
        ("write-off", "--all", "--feature-endpoint", "x", *BULK),
        ("write-off", UNKNOWN, "--reason", "Gone", "--by", "x" * 129),
    ):
        assert run(*arguments).exit_code == 2, arguments


def test_interrupted_and_repeated(shop: Billing, environment: dict[str, str]) -> None:
    """Ctrl-C in the middle: what is done stays done, and the same command does the rest."""
    put_aside(shop, "a", 150)
    put_aside(shop, "b", 150)
    flask = Path(sys.executable).with_name("flask")
    command = [flask, "failed-ends", "write-off", "--all", *BULK, "--yes"]
    settings = {"PATH": os.environ["PATH"], **environment}

    with shop.container.engine.begin() as lock:
        # It comes to a wallet that somebody else is using.
        allow_seconds(lock, None)
        lock.execute(sa.text("SELECT 1 FROM wallets WHERE user_id = 'b' FOR UPDATE"))
        # Started in a shell's background we ignore Ctrl-C, and so would the command.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, cwd=PROJECT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        signal.signal(signal.SIGINT, before)
        with process:
            try:
                wait_until(lambda: states(shop) == {"dead": 150}, what="the first wallet")
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=20)
            finally:
                process.kill()
    assert process.returncode == 130
    assert "Interrupted. Workers go on with bulk action 1." in said
    assert "Traceback" not in said
    assert states(shop) == {"dead": 150}

    again = subprocess.run(command, cwd=PROJECT, env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, "written_off" in again.stdout) == (0, True)
    assert states(shop) == {}
    assert_conserved(shop, "a", "b")
