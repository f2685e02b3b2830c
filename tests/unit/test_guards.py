"""The architecture as tests: routes authenticated, queues consumed, tasks registered, imports one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from app.bootstrap import Container
from app.config import Config
from app.domain import errors
from app.http import auth
from app.stores.queue import QUEUES, WEBHOOKS_QUEUE, WORKER_QUEUES
from app.web import create_app
from app.wire.statuses import STATUS_OF_CODE
from stack.procfile import commands
from tests.conftest import ADMIN_KEY, PROJECT, SERVER_KEY

OPEN_ROUTES = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/description.css"}
CONFIG = Config.from_environment(
    {
        "TOKENTILL_MODE": "local",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SERVER_API_KEY": SERVER_KEY,
        "ADMIN_API_KEY": ADMIN_KEY,
    }
)


def test_every_route_asks_for_a_key() -> None:
    app = create_app(container=Container(CONFIG))
    client = app.test_client()
    checked = 0
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]+>", "x", rule.rule)
        if rule.endpoint == "static":
            continue
        if path in OPEN_ROUTES:
            assert not path.startswith((auth.SERVER_PREFIX, auth.ADMIN_PREFIX))
            continue
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            response = client.open(path, method=method)
            assert response.status_code == 401, f"{method} {path} needs no key"
            checked += 1
    assert checked >= 4


def test_a_service_servers_key_never_opens_the_admin_api() -> None:
    client = create_app(container=Container(CONFIG)).test_client()
    for header in ("x-server-api-key", "x-admin-api-key"):
        response = client.get("/api/admin/wallets", headers={header: SERVER_KEY})
        assert response.status_code == 401
        assert response.json is not None
        assert response.json["message"] == "Invalid admin API key"


def test_every_domain_error_has_one_status() -> None:
    codes = {error.code for error in _subclasses(errors.DomainError)}
    assert codes == set(STATUS_OF_CODE)


def test_every_queue_is_consumed() -> None:
    # Everything that starts a worker takes the command from the Procfile.
    assert f"-Q {','.join(WORKER_QUEUES)} " in commands()["worker"]
    assert f"-Q {WEBHOOKS_QUEUE} " in commands()["webhooks"]
    assert set(QUEUES) == {*WORKER_QUEUES, WEBHOOKS_QUEUE}


def test_every_scheduled_or_published_task_is_registered_with_a_known_queue() -> None:
    # In a process of its own: the worker's application reads the environment when it is imported.
    script = """
import worker.celery_app as w, app.stores.queue as q
w.celery.loader.import_default_modules()
own = {name: task for name, task in w.celery.tasks.items() if name.startswith("tokentill.")}
assert {q.SETTLE_ENDS, q.COLLECT_DEBTS} <= set(own), own
for entry in w.celery.conf.beat_schedule.values():
    assert entry["task"] in own, entry
    assert entry["options"]["queue"] in q.QUEUES, entry
for name, task in own.items():
    assert task.queue in q.QUEUES, name
    assert task.acks_late and task.ignore_result, name
print(len(own))
"""
    environment = {
        "TOKENTILL_MODE": "local",
        "DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SERVER_API_KEY": SERVER_KEY,
        "ADMIN_API_KEY": ADMIN_KEY,
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_only_the_configuration_reads_the_environment() -> None:
    readers = [
        path.relative_to(PROJECT)
        for folder in ("app", "worker")
        for path in (PROJECT / folder).rglob("*.py")
        if re.search(r"os\.(environ|getenv)", path.read_text())
    ]
    assert readers == [Path("app/config.py")]


def test_no_float_touches_an_amount() -> None:
    suspicious = [
        f"{path.relative_to(PROJECT)}: {line.strip()}"
        for path in (PROJECT / "app").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"float\(|Float\b|_micros\w* / |round\(.*micros", line)
    ]
    assert suspicious == []


def test_the_price_rule_is_told_once() -> None:
    """`app/domain/pricing.py` computes a price; SQL, Lua and everybody else are given it."""
    computing = re.compile(r"basis_points\s*\*|\*\s*\w*\.?basis_points|\b250_?000\b|\b10_?000 [+-]|/\s*10_?000\b")
    tellers = {
        path.relative_to(PROJECT).as_posix()
        for folder in ("app", "worker", "stack")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in {".py", ".lua"} and computing.search(path.read_text())
    }
    assert tellers == {"app/domain/pricing.py"}


def test_times_and_amounts_have_one_unit_each() -> None:
    """`_seconds` and `_micros`. What Redis, Postgres or the kernel count otherwise is converted where it is passed."""
    other_unit = re.compile(r"_(s|secs?|ms|millis(econds)?|us|microseconds|minutes|hours|microtokens?)$", re.I)
    for name in ("timeout_s", "TIMEOUT_MS", "hold_minutes"):
        assert other_unit.search(name)
    suspicious = {
        f"{path.relative_to(PROJECT)}: {name}"
        for folder in ("app", "worker", "stack", "clients/python/src", "clients/litellm/src")
        for path in (PROJECT / folder).rglob("*.py")
        for name in _names(ast.parse(path.read_text()))
        if other_unit.search(name.lstrip("_"))
    }
    # The outbox's file has Unix times in whole milliseconds, for both clients: docs/clients/outbox-format.md.
    outbox = "clients/python/src/tokentill/outbox.py"
    assert suspicious == {f"{outbox}: {name}" for name in ("_now_ms", "created_ms")}


# Those from before there was anything to hold up.
MIGRATIONS_BEFORE_CONCURRENT_INDEXES = 18
BIG_TABLES = "token_transactions|end_inbox|end_keys|wallets|usage_daily"
LOCKS_A_BIG_TABLE = re.compile(
    # An index on it, one of its own dropped, or a constraint that makes one.
    rf"CREATE\s+(UNIQUE\s+)?INDEX\s[^;]*?\bON\s+(ONLY\s+)?({BIG_TABLES})\b"
    rf"|DROP\s+INDEX\s[^;]*\b({BIG_TABLES})_"
    rf"|ALTER\s+TABLE\s+({BIG_TABLES})\s[^;]*\b(UNIQUE|PRIMARY\s+KEY)\s*\("
    r"|op\.(create|drop)_index\(|op\.create_(unique_constraint|primary_key)\(",
    re.IGNORECASE,
)


def test_big_tables_are_indexed_while_they_are_in_use() -> None:
    """By `create_index` and `drop_index` of migrations/indexes.py, as CONTRIBUTING.md tells."""
    for statement in (
        "CREATE INDEX a ON wallets (user_id)",
        "CREATE UNIQUE INDEX IF NOT EXISTS a\n    ON token_transactions (id)",
        "DROP INDEX end_inbox_due",
        "ALTER TABLE end_keys ADD CONSTRAINT a UNIQUE (x)",
        'op.create_index("a", "wallets", ["b"])',
    ):
        assert LOCKS_A_BIG_TABLE.search(statement), statement
    assert not LOCKS_A_BIG_TABLE.search("CREATE INDEX a ON api_keys (x); ALTER TABLE wallets ADD COLUMN b text")
    assert not LOCKS_A_BIG_TABLE.search('create_index("wallets_x", on="wallets (x)")')
    found = {
        path.name: match[0]
        for path in sorted((PROJECT / "migrations" / "versions").glob("[0-9]*.py"))
        if int(path.name[:4]) > MIGRATIONS_BEFORE_CONCURRENT_INDEXES
        and (match := LOCKS_A_BIG_TABLE.search(path.read_text()))
    }
    assert found == {}, "use create_index and drop_index of migrations/indexes.py"


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def _subclasses(kind: type[errors.DomainError]) -> set[type[errors.DomainError]]:
    direct = set(kind.__subclasses__())
    return direct.union(*(_subclasses(each) for each in direct))
