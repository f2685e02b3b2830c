"""Corrections and chargebacks from the command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import simplejson
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.support import FEATURE, Billing, assert_conserved

Run = Callable[..., Result]


@pytest.fixture
def flask(app: Flask) -> Run:
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(cli, arguments)


@pytest.fixture
def end_id(till: Billing) -> str:
    """A settled end of 11 tokens."""
    till.container.end.end(till.usage("u"))
    till.settle_everything()
    return str(till.ledger("u")[-1].end_id)


def test_reverse(flask: Run, till: Billing, end_id: str) -> None:
    command = ("ends", "reverse", end_id, "--reference", "ticket-1", "--reason", "Empty answer", "--by", "alice")
    done = flask(*command, "--json")
    assert done.exit_code == 0, done.output
    answer = simplejson.loads(done.output)
    assert (answer["kind"], answer["token"], answer["actor"]) == ("reversal", 11, "cli/alice")
    again = flask(*command)
    assert "Done before" in again.output
    assert till.balance("u").posted_micros == 20_000_000
    refused = flask("ends", "reverse", end_id, "--reference", "ticket-2", "--reason", "Empty answer")
    assert (refused.exit_code, "nothing left" in refused.output) == (1, True)
    assert "ticket-1" in flask("ends", "corrections", end_id).output
    assert_conserved(till, "u")


def test_amend(flask: Run, till: Billing, end_id: str) -> None:
    amend = ("ends", "amend", end_id, "--reference", "ticket-1", "--reason", "Recounted", "--input-token", "10")
    assert flask(*amend).exit_code == 2
    wrong = flask(*amend, "--output-token", "60", "--reasoning-token", "61")
    assert (wrong.exit_code, "--reasoning-token" in wrong.output) == (2, True)
    done = flask(*amend, "--output-token", "60")
    assert done.exit_code == 0, done.output
    assert till.balance("u").posted_micros == 3_500_000


def test_charge_back(flask: Run, till: Billing) -> None:
    command = ("wallets", "charge-back", "u", "--token", "50", "--reference", "dispute-1")
    done = flask(*command, "--json")
    assert simplejson.loads(done.output)["debt_token"] == 50
    assert "Done before" in flask(*command).output
    assert flask("wallets", "charge-back", "u", "--token", "0", "--reference", "dispute-2").exit_code == 2
    assert "chargeback" in flask("failed-ends", "list", "--json").output


def test_the_window_of_a_feature(flask: Run, till: Billing) -> None:
    done = flask("features", "update", FEATURE, "--reversal-seconds", "60", "--json")
    assert simplejson.loads(done.output)["reversal_seconds"] == 60
    assert flask("features", "update", FEATURE, "--reversal-seconds", "-1").exit_code == 2
