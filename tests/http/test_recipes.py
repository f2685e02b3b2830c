"""Each command of the runbooks and of docs/failed-ends.md, run as it stands there in the state that its page is about.

What is a certain one's (an id, a number, a moment) is put in from that state; all else is the document's. A page whose
commands have changed fails until it says here what they are to show.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import simplejson
import sqlalchemy as sa
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient

from app.stores.postgres import processes
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.processes import ProcessKind
from app.stores.queue import SETTLE_QUEUE, message_counts
from stack.health import health
from stack.procfile import commands as procfile
from tests.conftest import PROJECT
from tests.http.night import Night
from tests.processes import free_port, wait_until
from tests.support import FEATURE, Billing

UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}\b")
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
RUNNABLE = ("flask ", "curl ", "celery ", "python -m ", "SELECT ", "BEGIN;")
# Run by hand: they start what this test already has, or go on until somebody stops them.
STARTS = "python -m stack run "

PAGES = [*sorted((PROJECT / "docs" / "runbooks").glob("*.md")), PROJECT / "docs" / "failed-ends.md"]


def recipes(path: Path) -> list[str]:
    """The commands and statements of a page, in their order: those in blocks, then those in its sentences."""
    text, found = path.read_text(), []
    for indent, kind, body in FENCED.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        if kind == "console":
            found += [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif kind == "sql":
            found.append("\n".join(lines))
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    found += [span for span in (" ".join(span.split()) for span in spans) if span.startswith(RUNNABLE)]
    return [recipe for recipe in found if not recipe.startswith(STARTS)]


@pytest.fixture
def night(billing: Billing, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Night:
    billing.catalog()
    billing.wallet("demo-user", tokens=1_000)
    billing.wallet("alice", tokens=20)
    for user_id in ("bob", "new"):
        billing.wallet(user_id, tokens=1_000)
    billing.wallet("poor", tokens=0)
    container = billing.container
    # What is announced is settled at once, as by a worker.
    monkeypatch.setattr(container.doorbell, "settle", container.settlement.settle)

    def collect(wallets: Sequence[IndebtedWallet]) -> None:
        for wallet in wallets:
            container.collection.collect(wallet.wallet_id, seconds=5)

    monkeypatch.setattr(container.doorbell, "collect", collect)
    container.end.end(billing.usage("demo-user"))
    container.end.end(billing.usage("alice"))
    billing.settle_everything()
    with container.engine.begin() as connection:
        for name, kind in (("tokentill@vm", ProcessKind.WORKER), ("beat@vm/1", ProcessKind.BEAT)):
            processes.say_alive(connection, name, kind)
    container.samples.take()
    container.reconciliation.run()
    return Night(billing, app, client)


# What a command does needs of the state first; what it says in the place of the page's examples.
Before = Callable[[Night, str], str]
ONE_END = r"(?s)^id\s.*\n01[0-9a-f-]{34}"


@dataclass(frozen=True)
class Shows:
    """What a command prints, on either stream, and how it ends."""

    pattern: str
    before: Before = lambda night, command: command
    exit_code: int = 0


# Looks for somebody who keeps a row, which the last test here does.
BELOW = Shows("")


def with_id(of: Callable[[Night], str]) -> Before:
    return lambda night, command: UUID.sub(of(night), command)


def poor(night: Night) -> str:
    return night.owes("poor", days=40)


def prepared(make: Callable[[Night], object]) -> Before:
    def before(night: Night, command: str) -> str:
        make(night)
        return command

    return before


def confirmed(night: Night, command: str) -> str:
    poor(night)
    draft = night.draft()
    return f"flask bulk-actions confirm {draft['id']} --ends {draft['ends']} --cost {draft['cost']}"


def numbered(of: Callable[[Night], int]) -> Before:
    return lambda night, command: command.replace(" 3", f" {of(night)}")


def in_the_outage(night: Night, command: str) -> str:
    night.owes("poor")
    night.execute("UPDATE end_inbox SET accepted_at = '2030-01-31T11:00Z' WHERE user_id = 'poor'")
    return command.replace("--feature chat", f"--feature {FEATURE}")


def named_key(night: Night, command: str) -> str:
    made = night.flask("flask keys create chat-backend --kind service --json")
    return command.replace("k7m2p9x4qa", simplejson.loads(made.stdout)["id"])


def wrong_keys(night: Night) -> None:
    for _ in range(12):
        night.client.get("/api/admin/wallets", headers={"x-admin-api-key": "guessed"})


def a_call_that_failed(night: Night) -> None:
    night.container.meters.requests.observe(0.1, "POST", "/api/token-process/end", 503)


def failing(night: Night) -> None:
    night.owes("poor", days=40)
    night.owes("alice", is_dead=False)


def left_behind(night: Night) -> None:
    poor(night)
    night.refused("new", "wallet_missing")
    night.refused("bob", "database_refused")


def a_message(night: Night) -> None:
    night.container.celery.send_task("tokentill.settle_ends", args=[[]], queue=SETTLE_QUEUE)
    counts = message_counts(night.container.redis_client, [SETTLE_QUEUE])
    assert counts == {SETTLE_QUEUE: 1}


def roll_up(night: Night) -> None:
    night.execute("UPDATE usage_daily SET runs = runs + 1 WHERE user_id = 'demo-user'")


ENDS_LEFT = r"(?m)^state +draft\n(?s:.*)Nothing is done yet: flask bulk-actions confirm \d+ --ends 1 --cost 11$"
# Page -> how its commands begin -> what they show.
SHOWN: dict[str, dict[str, Shows]] = {
    "dead-letters-grow": {
        "flask failed-ends groups": Shows(r"insufficient_tokens  poor +1 +1 +11 +0 +1 ", prepared(left_behind)),
        "flask debts": Shows(r"(?m)^poor +1 +1 +11 +0 +11 ", prepared(failing)),
        "flask failed-ends write-off": Shows(ENDS_LEFT, prepared(left_behind)),
        "flask failed-ends replay": Shows(r"(?m)^settled +2 +22$", prepared(left_behind)),
    },
    "debt-high": {
        "flask debts": Shows(r"(?m)^poor +1 +1 +11 +0 +11 ", prepared(failing)),
        "flask failed-ends groups": Shows(r"(?m)^feature-text +large +2 ", prepared(failing)),
        "flask samples": Shows(r"(?m)^minute .* debt_token "),
        "flask wallets update": Shows(r"(?m)^overdraft_limit_token +500$"),
    },
    "debt-old": {
        "flask failed-ends list": Shows(ONE_END, prepared(failing)),
        "flask failed-ends groups": Shows(r"(?m)^over_30d +poor +1 ", prepared(failing)),
        "flask ends show": Shows(r"\n\n.*a top-up of 11 tokens pays it", with_id(poor)),
        "flask failed-ends write-off 0": Shows(r"(?m)^kind +write_off$(?s:.*)^actor +cli/alice$", with_id(poor)),
        "flask failed-ends write-off --all": Shows(ENDS_LEFT, prepared(failing)),
    },
    "down": {"curl": Shows(r"^200$"), "curl -sS -m 10": Shows(r'^{"status": ?"ready"')},
    "ends-refused": {
        "flask failed-ends groups": Shows(r"(?m)^database_refused +1 +1 +11 +0 +1 ", prepared(left_behind)),
        "flask failed-ends list": Shows(ONE_END, prepared(left_behind)),
        "flask failed-ends show": Shows(
            r"(?m)^last_error +database_refused$", with_id(lambda night: night.refused("new", "database_refused"))
        ),
        "flask failed-ends replay": Shows(r"(?m)^settled +1 +11$", prepared(left_behind)),
        "flask failed-ends write-off": Shows(
            r"(?m)^reason +Refused by the database$",
            with_id(lambda night: night.refused("new", "database_refused")),
        ),
    },
    "errors": {"curl": Shows(r'status="503"', prepared(a_call_that_failed)), "curl -sS": Shows(r'"ready"')},
    "money-does-not-add-up": {
        "flask reconcile": Shows(
            r"(?m)^demo-user +ledger_sum +989 +990 +1 (?s:.*)^Money does not add up: 1 difference is left\.$",
            prepared(Night.tampered),
            exit_code=1,
        ),
        "flask wallets show": Shows(r"(?m)^posted_token +990$", prepared(Night.tampered)),
        "flask wallets transactions": Shows(r" usage +-11 +989 ", prepared(Night.tampered)),
        "BEGIN;": Shows(r"^990000000$", prepared(Night.tampered)),
        "flask reconcile --full --repair": Shows(r"(?m)^Money adds up\. 1 copy had drifted", prepared(roll_up)),
        "flask reconcile --full": Shows(r"(?m)^full +True$(?s:.*)^Money adds up\."),
    },
    "no-beat": {"curl": Shows(r'(?m)^tokentill_processes{kind="web"}')},
    "no-web": {"python -m stack health web": Shows(r"^web: http://.*/readyz: .*refused>$")},
    "no-worker": {"curl": Shows(r'tokentill_worker_silent_seconds{worker="tokentill@vm"}')},
    "pool-full": {
        "SELECT pid, application_name": BELOW,
        "SELECT pg_terminate_backend(PID)": BELOW,
    },
    "queue-grows": {
        "curl": Shows(r'tokentill_queue_messages{queue="webhooks"}'),
        "celery": Shows(r"^Purged 1 message from 1 known task queue\.", prepared(a_message)),
    },
    "reconciliation-overdue": {"curl": Shows("_age_seconds"), "flask reconcile": Shows(r"Money adds up\.")},
    "sample-old": {"flask samples": Shows(r"(?m)^minute .*\n20"), "curl": Shows("_sample_age_seconds")},
    "settlement-slow": {
        "flask samples": Shows(r"(?m)^minute .* lag_p95_seconds .*\n20"),
        "curl": Shows("tokentill_settlement_lag_seconds_sum"),
        "SELECT": Shows(r"SELECT pid, now\(\) - query_start"),
    },
    "settlement-stands": {
        "curl": Shows('tokentill_inbox_ends{state="accepted"}'),
        "SELECT pid, application_name": BELOW,
        "SELECT pg_terminate_backend(PID)": BELOW,
    },
    "spool-aside": {
        "flask wallets adjust": Shows(r"(?m)^kind +adjustment$\n^token +-11$"),
        "SELECT": Shows(
            r"^some-end\|unreadable: not JSON\|1\|.*\|{broken$",
            prepared(
                lambda night: night.execute(
                    "INSERT INTO spool_aside (field, entry, reason) VALUES ('some-end', '{broken', :reason)",
                    reason="unreadable: not JSON",
                )
            ),
        ),
    },
    "spool-not-drained": {"curl": Shows("tokentill_spool_ends 0.0")},
    "starts-slow": {"curl": Shows('tokentill_batcher_waiting{batcher="start"')},
    "store-away": {"curl": Shows('"postgres": ?"up"'), "curl -fsS": Shows('state="refuses_writes",store="redis"}')},
    "threads-busy": {"curl": Shows("tokentill_http_oldest_request_seconds")},
    "two-beats": {"SELECT": Shows(r"^beat@vm/1\|0:00:\d")},
    "webhook-disabled": {
        "curl": Shows("tokentill_webhook_endpoints_disabled 1", prepared(Night.webhook)),
        "flask webhooks endpoints list": Shows(r"hook +disabled +operator ", prepared(Night.webhook)),
        "flask webhooks deliveries": Shows(r" wallet\.topped_up +1 +pending ", prepared(Night.webhook)),
        "flask audit-log list": Shows(r"webhook_endpoint\.disabled", prepared(Night.webhook)),
        "flask webhooks endpoints enable": Shows(r"(?m)^state +enabled$", prepared(Night.webhook)),
        "flask webhooks endpoints replay": Shows(r"^Events that are sent again: 0", prepared(Night.webhook)),
        "flask webhooks endpoints delete": Shows("", prepared(Night.webhook)),
    },
    "webhooks-late": {
        "curl": Shows(r"tokentill_webhook_overdue_seconds \d"),
        "flask webhooks endpoints list": Shows(r"^id .* failing_since .* pending ", prepared(Night.webhook)),
        "flask webhooks deliveries": Shows(r" wallet\.topped_up +1 +pending ", prepared(Night.webhook)),
        "flask webhooks endpoints disable": Shows(r"(?m)^state +disabled$", prepared(Night.webhook)),
    },
    "wrong-keys": {
        "curl": Shows(r'_total{outcome="braked"} [1-9]', prepared(wrong_keys)),
        "flask keys list": Shows(r"(?m)^admin +admin +operator +active "),
        "flask keys revoke": Shows(r"(?m)^state +revoked$", named_key),
    },
    "failed-ends": {
        "flask failed-ends groups --by user_id": Shows(r"(?m)^poor +1 ", prepared(failing)),
        "flask failed-ends groups --by last_error,state": Shows(r"(?m)^wallet_missing +dead ", prepared(left_behind)),
        "flask failed-ends groups --by feature_endpoint_id,age": Shows(r"(?m)^\S+ +over_30d +1 ", prepared(failing)),
        "flask debts --by user_id": Shows(r"room_token  missing_token", prepared(failing)),
        "flask ends show": Shows(r"a top-up of 11 tokens pays it", with_id(poor)),
        "flask failed-ends replay 0": Shows(
            r"^1 replayed: 1 to be settled", with_id(lambda night: night.refused("new", "wallet_missing"))
        ),
        "flask failed-ends write-off 0": Shows(r"(?m)^actor +cli/alice$", with_id(poor)),
        "flask failed-ends write-off --all --user": Shows(ENDS_LEFT, prepared(left_behind)),
        "flask bulk-actions confirm": Shows(r"(?m)^written_off +1 +11$", confirmed),
        "flask failed-ends replay --all --error": Shows(r"(?m)^settled +1 +11$", prepared(left_behind)),
        "flask bulk-actions ends": Shows(r"(?m) failed_again +quote_disagrees$", numbered(Night.failed_again)),
        "flask bulk-actions cancel": Shows(r"(?m)^state +cancelled$", numbered(lambda night: night.draft()["id"])),
        "flask debts": Shows(r"(?m)^debt_token +11$", prepared(poor)),
        "flask failed-ends groups --by user_id,last_error": Shows(r"(?m)^new +wallet_missing ", prepared(left_behind)),
        "flask failed-ends write-off --all --from": Shows(ENDS_LEFT, in_the_outage),
        "flask failed-ends replay --all --user": Shows(r"(?m)^settled +1 +11$", prepared(left_behind)),
        "flask debts --user alice": Shows(r"(?m)^debt_token +11$", prepared(failing)),
        "flask failed-ends write-off --all --older-than": Shows(r"(?m)^written_off +1 +11$", prepared(failing)),
    },
}


def asked(night: Night, recipe: str) -> tuple[int, str]:
    """A call by curl, and the lines that grep lets through; each of the words that it looks for is found."""
    call, _, rest = recipe.partition(" | ")
    words = shlex.split(call)
    [url] = [word for word in words if word.startswith("http://127.0.0.1:")]
    answer = night.client.get("/" + url.split("/", 3)[3])
    if "-w" in words:
        return 0, str(answer.status_code)
    if not rest:
        return 0, answer.text
    program, option, pattern = shlex.split(rest)
    assert (program, option) == ("grep", "-E")
    lines = [line for line in answer.text.splitlines() if re.search(pattern, line)]
    assert len(lines) < 50, "more than anybody reads at night"
    for each in alternatives(pattern):
        assert any(re.search(each, line) for line in lines), f"nothing is found by {each}"
    return 0, "\n".join(lines)


def alternatives(pattern: str) -> list[str]:
    """What a pattern looks for, one by one."""
    choice = re.search(r"\(([^()]*\|[^()]*)\)", pattern)
    if choice is not None:
        found = [pattern[: choice.start()] + word + pattern[choice.end() :] for word in choice[1].split("|")]
        return [each for one in found for each in alternatives(one)]
    return pattern.split("|")


def queried(night: Night, statements: str) -> tuple[int, str]:
    """What Postgres answers to the first that answers something."""
    texts: list[str] = []
    with night.container.engine.connect() as connection:
        for statement in statements.rstrip(";\n").split(";"):
            result = connection.exec_driver_sql(statement.replace("%", "%%"))
            if result.returns_rows:
                texts += ["|".join(map(str, row)) for row in result]
        connection.commit()
    return 0, "\n".join(texts)


def run(night: Night, recipe: str) -> tuple[int, str]:
    """How it ends, and what it prints."""
    if recipe.startswith("flask "):
        result = night.flask(recipe)
    elif recipe.startswith("celery "):
        result = CliRunner().invoke(celery_command, shlex.split(recipe)[1:])
    elif recipe.startswith("curl "):
        return asked(night, recipe)
    elif recipe.startswith("python -m stack health "):
        name = shlex.split(recipe)[-1]
        return 0, f"{name}: {health(name, {'PORT': str(free_port())})}"
    else:
        return queried(night, recipe)
    return result.exit_code, result.output


def of_page(path: Path) -> list[tuple[str, Shows]]:
    """Its recipes, each with what it shows: the longest beginning that fits counts."""
    shown = SHOWN[path.stem]
    found, used = [], set()
    for recipe in recipes(path):
        starts = [start for start in shown if recipe.startswith(start)]
        assert starts, f"{path.name}: say here what this shows: {recipe}"
        used.add(max(starts, key=len))
        found.append((recipe, shown[max(starts, key=len)]))
    assert used == set(shown), f"{path.name} has these no more: {set(shown) - used}"
    return found


def test_every_page_is_run() -> None:
    assert set(SHOWN) == {path.stem for path in PAGES}
    for path in PAGES:
        for recipe in re.findall(rf"`{STARTS}(\w+)`", path.read_text()):
            assert recipe in procfile()


def test_each_recipe_shows_what_its_page_says(night: Night) -> None:
    """One state for all pages, put right before each recipe: to set up as many would take a minute."""
    wrong = []
    for path in PAGES:
        for recipe, shows in of_page(path):
            if shows is not BELOW:
                night.clear()
                command = shows.before(night, recipe)
                exit_code, printed = run(night, command)
                if exit_code != shows.exit_code or not re.search(shows.pattern, printed):
                    wrong.append(f"{path.name}: {command} ended with {exit_code} and showed\n{printed}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("page", ["pool-full", "settlement-stands"])
def test_whoever_keeps_a_row_is_found_and_ended(night: Night, page: str) -> None:
    [look, end] = recipes(PROJECT / "docs" / "runbooks" / f"{page}.md")[-2:]
    # Who has kept it for a moment only.
    look = look.replace("interval '10 seconds'", "interval '0 seconds'")
    keep = sa.text("SELECT 1 FROM wallets WHERE user_id = 'alice' FOR UPDATE")
    with night.container.engine.connect() as keeper:
        pid = keeper.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
        keeper.execute(keep)
        waiter = threading.Thread(target=lambda: night.execute("SELECT 1 FROM wallets FOR UPDATE"), daemon=True)
        waiter.start()
        wait_until(lambda: f"|[{pid}]|" in queried(night, look)[1] or page != "pool-full", what="somebody who waits")
        [row] = [line for line in queried(night, look)[1].splitlines() if line.startswith(f"{pid}|")]
        assert "|idle in transaction|" in row
        assert queried(night, end.replace("PID", str(pid))) == (0, "True")
        waiter.join(5)
        assert not waiter.is_alive()
        with pytest.raises(sa.exc.OperationalError, match="terminating connection"):
            keeper.execute(keep)
