"""The command line does what the admin API does, with the same services."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import simplejson
from click import Command, Group
from click.testing import Result
from flask import Flask

from app.bootstrap import Container
from app.cli import cli
from app.web import create_app
from tests.support import Billing, assert_conserved

PROJECT = Path(__file__).parents[2]

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask) -> Run:
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(cli, arguments)


@pytest.fixture
def show(run: Run) -> Callable[..., Any]:
    """Runs a command and reads the JSON it prints."""

    def called(*arguments: str) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return simplejson.loads(result.stdout, use_decimal=True)

    return called


def assert_refused(result: Result, message: str, exit_code: int = 1) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stderr.strip().splitlines()[-1] == f"Error: {message}"
    assert exit_code != 1 or result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_from_nothing_to_a_wallet_with_tokens(run: Run, show: Callable[..., Any], billing: Billing) -> None:
    assert show("features", "create", "chat", "--name", "Chat", "--min-token", "2.5") == {
        "id": "chat",
        "name": "Chat",
        "min_token": Decimal("2.5"),
        "unpriced": "default",
        "reversal_seconds": 0,
    }
    show("features", "create", "images", "--name", "Images")
    assert show("packages", "create", "basic", "--name", "Basic", "--feature", "chat")["feature_endpoint_ids"] == [
        "chat"
    ]
    rule = show("profit-rules", "create", "--percentage", "12.5", "--effective-from", "2020-01-01T00:00:00Z")
    assert (rule["percentage"], rule["effective_from"]) == (Decimal("12.5"), "2020-01-01T00:00:00.000Z")
    opened = show("wallets", "create", "alice", "--package", "basic", "--overdraft-limit-token", "5")
    assert (opened["token"], opened["overdraft_limit_token"]) == (0, 5)
    entry = show("wallets", "top-up", "alice", "--token", "1000", "--reference", "invoice-17", "--reason", "Paid")
    assert (entry["kind"], entry["token"], entry["balance_after"], entry["reason"]) == ("top_up", 1000, 1000, "Paid")
    show("wallets", "refund", "alice", "--token", "0.000001", "--reference", "ticket-4")
    show("wallets", "adjust", "alice", "--token", "-0.5", "--reference", "audit")
    assert show("wallets", "show", "alice")["posted_token"] == Decimal("999.500001")
    listed = show("wallets", "transactions", "alice", "--limit", "2")
    assert [item["kind"] for item in listed["items"]] == ["adjustment", "refund"]
    older = show("wallets", "transactions", "alice", "--before", str(listed["next"]))
    assert [item["kind"] for item in older["items"]] == ["top_up"]
    assert older["next"] is None
    assert_conserved(billing, "alice")


def test_updates(show: Callable[..., Any]) -> None:
    show("features", "create", "chat", "--name", "Chat")
    show("packages", "create", "basic", "--name", "Basic")
    show("wallets", "create", "alice")
    assert show("features", "update", "chat", "--min-token", "0")["min_token"] == 0
    changed = show("features", "update", "chat", "--name", "Talk", "--unpriced", "refuse")
    assert changed == {"id": "chat", "name": "Talk", "min_token": 0, "unpriced": "refuse", "reversal_seconds": 0}
    assert show("packages", "update", "basic", "--feature", "chat")["feature_endpoint_ids"] == ["chat"]
    assert show("packages", "update", "basic", "--name", "Plus")["feature_endpoint_ids"] == ["chat"]
    assert show("packages", "update", "basic", "--no-features")["feature_endpoint_ids"] == []
    changed = show("wallets", "update", "alice", "--status", "suspended", "--package", "basic")
    assert (changed["status"], changed["package_id"]) == ("suspended", "basic")
    assert show("wallets", "update", "alice", "--no-package")["package_id"] is None


def test_what_people_read(run: Run, show: Callable[..., Any]) -> None:
    show("features", "create", "chat", "--name", "Chat")
    show("features", "create", "images", "--name", "Images", "--min-token", "0.000001")
    assert run("features", "list").stdout == (
        "id      name    min_token  unpriced\n"
        "chat    Chat    1          default\n"
        "images  Images  0.000001   default\n"
    )  # fmt: skip
    first = run("features", "list", "--limit", "1")
    assert first.stderr == "There are more: --after chat\n"
    assert "images" in run("features", "list", "--after", "chat").stdout
    assert run("packages", "create", "basic", "--name", "Basic").stdout == (
        "id                    basic\n"
        "name                  Basic\n"
        "feature_endpoint_ids  -\n"
    )  # fmt: skip
    assert run("packages", "list").exit_code == run("profit-rules", "list").exit_code == 0


def test_the_same_posting_again(run: Run, show: Callable[..., Any]) -> None:
    show("wallets", "create", "alice")
    arguments = ("wallets", "top-up", "alice", "--token", "5", "--reference", "r")
    first, again = run(*arguments), run(*arguments)
    assert first.stdout == again.stdout
    assert (first.stderr, again.exit_code) == ("", 0)
    assert "nothing was posted now" in again.stderr
    assert show("wallets", "show", "alice")["token"] == 5


def test_refusals_are_one_line(run: Run, show: Callable[..., Any]) -> None:
    show("features", "create", "chat", "--name", "Chat")
    show("wallets", "create", "alice")
    show("wallets", "top-up", "alice", "--token", "5", "--reference", "r")
    assert_refused(run("features", "create", "chat", "--name", "X"), "Feature endpoint exists already")
    assert_refused(run("features", "update", "none", "--name", "X"), "Feature endpoint not found")
    assert_refused(run("wallets", "show", "none"), "User wallet not found")
    assert_refused(
        run("packages", "create", "p", "--name", "P", "--feature", "none"),
        "Feature endpoint not found: none: feature_endpoint_ids: Unknown feature endpoint: none",
    )
    assert_refused(
        run("wallets", "top-up", "alice", "--token", "6", "--reference", "r"),
        "This reference was used with another body",
    )
    assert_refused(
        run("wallets", "adjust", "alice", "--token", "-5.000001", "--reference", "s"),
        "The balance would leave its bounds",
    )


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("1e3", "Must be a number, such as 12.5."),
        ("NaN", "Must be a number, such as 12.5."),
        ("1_000", "Must be a number, such as 12.5."),
        ("٣", "Must be a number, such as 12.5."),
        ("", "Must be a number, such as 12.5."),
        ("0", "Must not be zero."),
        ("-1", "Must not be negative."),
        ("0.0000001", "At most 6 decimals."),
        ("1" + "0" * 100, "Too large."),
    ],
)
def test_bad_amounts(run: Run, amount: str, reason: str) -> None:
    result = run("wallets", "top-up", "alice", "--token", amount, "--reference", "r")
    assert_refused(result, f"Invalid value for '--token': {reason}", exit_code=2)


def test_bad_options(run: Run) -> None:
    for arguments in (
        ("features", "create", "x" * 129, "--name", "X"),
        ("features", "create", "chat", "--name", "a\nb"),
        ("features", "list", "--limit", "201"),
        ("profit-rules", "create", "--percentage", "0.001"),
        ("profit-rules", "create", "--percentage", "1", "--effective-from", "2030-01-01"),
        ("wallets", "update", "alice", "--status", "open"),
        ("wallets", "update", "alice", "--package", "p", "--no-package"),
        ("packages", "update", "p", "--feature", "f", "--no-features"),
    ):
        assert run(*arguments).exit_code == 2


def test_demo_seed_changes_nothing_the_second_time(run: Run, show: Callable[..., Any], billing: Billing) -> None:
    def everything() -> list[Any]:
        lists = [("features",), ("packages",), ("profit-rules",), ("wallets",)]
        return [
            *(show(*names, "list") for names in lists),
            show("wallets", "transactions", "demo-user"),
        ]

    assert "1000" in run("demo", "seed").stdout
    features, packages, rules, wallets, transactions = seeded = everything()
    [feature] = features["items"]
    assert (feature["id"], feature["name"], feature["min_token"]) == ("demo-feature", "Demo feature", 1)
    assert packages["items"][0]["feature_endpoint_ids"] == ["demo-feature"]
    assert [rule["percentage"] for rule in rules["items"]] == [10]
    assert wallets["items"][0]["token"] == 1_000
    assert [entry["reference"] for entry in transactions["items"]] == ["demo-seed"]
    again = run("demo", "seed")
    assert (again.exit_code, everything()) == (0, seeded)

    # Nor what somebody changed meanwhile.
    show("wallets", "adjust", "demo-user", "--token", "-1", "--reference", "x")
    show("features", "update", "demo-feature", "--min-token", "3")
    show("profit-rules", "create", "--percentage", "20")
    changed = everything()
    assert show("demo", "seed")["token"] == 999
    assert everything() == changed


def test_demo_seed_adds_no_profit_to_rules_there_are(run: Run, show: Callable[..., Any]) -> None:
    show("profit-rules", "create", "--percentage", "0")
    show("demo", "seed")
    assert [rule["percentage"] for rule in show("profit-rules", "list")["items"]] == [0]


def test_demo_seed_is_for_local_mode(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.operations.demo import DemoSeed

    container.demo = DemoSeed(
        is_local=False,
        catalog=container.catalog_admin,
        wallets=container.wallet_admin,
        postings=container.postings,
    )
    result = create_app(container=container).test_cli_runner().invoke(cli, ["demo", "seed"])
    assert_refused(result, "The demo is seeded with TOKENTILL_MODE=local only")


def commands(group: Group = cli, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Command]]:
    found: list[tuple[tuple[str, ...], Command]] = []
    for name, command in group.commands.items():
        below = (*path, name)
        found += commands(command, below) if isinstance(command, Group) else [(below, command)]
    return found


def test_all_commands() -> None:
    assert {" ".join(path) for path, _ in commands()} == {
        *(f"features {name}" for name in ("create", "list", "update")),
        *(f"packages {name}" for name in ("create", "list", "update")),
        *(f"profit-rules {name}" for name in ("create", "list")),
        *(f"prices {name}" for name in ("add", "list", "estimate", "import", "imports", "show-import", "approve")),
        *(f"wallets {name}" for name in ("create", "show", "list", "update", "top-up", "refund", "adjust")),
        *(
            f"wallets {name}"
            for name in ("transactions", "holds", "release-hold", "charge-back", "statement", "balances")
        ),
        *(f"ends {name}" for name in ("corrections", "reverse", "amend")),
        *(f"repricings {name}" for name in ("create", "list", "show", "apply")),
        *(f"top-ups {name}" for name in ("create", "apply", "discard", "show", "list", "wallets")),
        *(f"top-up-schedules {name}" for name in ("create", "list", "show", "pause", "resume", "end")),
        *(f"failed-ends {name}" for name in ("list", "show", "replay", "write-off")),
        *(f"reports {name}" for name in ("usage", "totals")),
        "transactions export",
        *(f"keys {name}" for name in ("create", "list", "show", "rotate", "revoke")),
        *(f"audit-log {name}" for name in ("list", "export")),
        "failed-ends groups",
        "ends show",
        "debts",
        "samples",
        *(f"bulk-actions {name}" for name in ("list", "show", "ends", "confirm", "cancel")),
        *(f"balance-rules {name}" for name in ("list", "show", "low-balance", "auto-top-up", "remove", "resume")),
        *(f"balance-rules {name}" for name in ("requests", "decline")),
        *(f"webhooks endpoints {name}" for name in ("create", "list", "show", "update", "delete", "enable", "disable")),
        *(f"webhooks endpoints {name}" for name in ("rotate-secret", "test", "replay")),
        *(f"webhooks events {name}" for name in ("list", "show", "replay")),
        "webhooks deliveries",
        "archive",
        "archives",
        "reconcile",
        "demo seed",
    }


@pytest.mark.parametrize(
    ("path", "command"), commands(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_shows_an_example_that_can_be_parsed(path: tuple[str, ...], command: Command, run: Run) -> None:
    import shlex

    shown = run(*path, "--help").output
    examples = [line.strip() for line in shown.splitlines() if line.strip().startswith("flask ")]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert tuple(words[1 : 1 + len(path)]) == path
        command.make_context("example", words[1 + len(path) :])


class TestAsProcesses:
    """`flask` and `tokentill-server` as a shell starts them."""

    def call(
        self, environment: dict[str, str], *command: str, folder: Path = PROJECT
    ) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "DATA_DIR": "/nonexistent", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_demo_seed(self, environment: dict[str, str], container: Container, tmp_path: Path) -> None:
        expected = [
            "user_id                demo-user",
            "status                 active",
            "package_id             demo-package",
            "token                  1000",
        ]
        assert self.call(environment, "flask", "demo", "seed").stdout.splitlines()[:4] == expected
        # The script needs no project around it.
        elsewhere = self.call(environment, "tokentill-server", "demo", "seed", folder=tmp_path)
        assert elsewhere.stdout.splitlines()[:4] == expected

    def test_without_settings(self) -> None:
        result = self.call({}, "flask", "wallets", "list")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("tokentill: DATABASE_URL is not set.")
        assert result.stderr.count("\n") == 1

    def test_without_postgres(self, environment: dict[str, str]) -> None:
        away = environment | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "LOG_LEVEL": "INFO"}
        result = self.call(away, "flask", "wallets", "list")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Error: Postgres doesn't answer (DATABASE_URL). Please try again.\n"

    def test_without_redis(self, environment: dict[str, str], container: Container) -> None:
        away = environment | {"REDIS_URL": "redis://127.0.0.1:1/0"}
        result = self.call(away, "flask", "demo", "seed")
        assert (result.returncode, result.stderr) == (0, "")
        # Holds live there.
        result = self.call(away, "flask", "wallets", "holds", "demo-user")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Error: Redis doesn't answer (REDIS_URL). Please try again.\n"
