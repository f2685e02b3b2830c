"""`python -m benchmarks.console`: how long each page of the console takes, in a database of its own.

A month of 1,000,000 transactions of 20,000 wallets, 10,000 failed ends, a week of samples and the catalogue that made
them. A page is asked for as a browser does, signed in, in this process: what is measured is the server's own time.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from urllib.parse import quote

import sqlalchemy as sa
from flask.testing import FlaskClient

from app import logs
from app.bootstrap import Container
from app.domain.reports import next_month
from app.stores.postgres.engine import allow_seconds
from app.web import create_app
from benchmarks import report
from benchmarks.reports import PROJECT, WALLETS, container_on, fill, roll_up, vacuuming
from stack.embedded import PostgresServer, ValkeyServer

SECONDS_MAX = 0.2
KEY = "dev-admin-key"

_CATALOG = sa.text("""
    INSERT INTO feature_endpoints (id, name, min_micros)
    SELECT 'feature-' || n, 'Feature ' || n, 1000000 FROM generate_series(0, 49) AS n;
    INSERT INTO packages (id, name) SELECT 'package-' || n, 'Package ' || n FROM generate_series(0, 19) AS n;
    INSERT INTO package_features (package_id, feature_endpoint_id)
    SELECT 'package-' || p, 'feature-' || f FROM generate_series(0, 19) AS p, generate_series(0, 49) AS f
    WHERE f % 5 = p % 5;
    INSERT INTO profit_rules (basis_points, feature_endpoint_id) SELECT 1000 + n, 'feature-' || n % 50
    FROM generate_series(1, 200) AS n;
    INSERT INTO prices (model, effective_from, input_micros_per_million, output_micros_per_million)
    SELECT 'model-' || n, now() - interval '1 day', 1000000000, 4000000000 FROM generate_series(0, 999) AS n;
    UPDATE wallets SET package_id = 'package-' || abs(hashtext(wallet_id)) % 20;
    UPDATE system_state SET catalog_version = catalog_version + 1
""")
# Failed ends of 8 causes and 500 wallets, over the last 30 days.
_FAILED = sa.text("""
    INSERT INTO end_inbox (
        id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens, base_cost_micros,
        profit_micros, cost_micros, state, attempts, last_error, is_debt, accepted_at
    )
    SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7'
            || substr(md5(CAST(n AS text)), 1, 3) || '8' || substr(md5(CAST(n AS text)), 4, 15) AS uuid),
        'wallet-' || n % 500, 'wallet-' || n % 500, 'feature-' || n % 3, 'model-' || n % 6, 120, 40, 10000000, 1000000,
        11000000, CASE WHEN n % 3 = 0 THEN 'dead' ELSE 'retrying' END, 1 + n % 12,
        CASE WHEN n % 8 < 6 THEN 'insufficient_tokens' WHEN n % 8 = 6 THEN 'quote_disagrees' ELSE 'too_slow' END,
        n % 8 < 6, at
    FROM (
        SELECT n, now() - interval '30 days' * n / :ends AS at FROM generate_series(1, CAST(:ends AS bigint)) AS n
    ) AS numbered;
    UPDATE wallets SET debt_micros = owed.micros FROM (
        SELECT wallet_id, sum(cost_micros) AS micros FROM end_inbox WHERE is_debt GROUP BY wallet_id
    ) AS owed WHERE owed.wallet_id = wallets.wallet_id
""")
_SAMPLES = sa.text("""
    INSERT INTO samples (minute, accepted, settled, backlog, pending_micros, retrying, retrying_micros, dead,
        dead_micros, debt_micros, liability_micros, overdrawn_micros, wallets, held_micros)
    SELECT date_trunc('minute', now()) - interval '1 minute' * n, 1000 + n % 700, 990 + n % 600, n % 50, 11000000,
        6666, 73326000000, 3334, 36674000000, 110000000000, 220000000000000 - n * 1000000, 0, 20000, 5000000000
    FROM generate_series(CAST(1 AS bigint), 7 * 1440) AS n
""")


def main(transactions: int, failed: int, rounds: int) -> tuple[str, bool]:
    """Returns the report, and whether each page stayed within its time limit."""
    logs.configure("ERROR")
    header = report.machine_line()
    with (
        tempfile.TemporaryDirectory(prefix="tokentill-console-") as folder,
        PostgresServer(Path(folder, "postgres"), settings={"max_wal_size": "4GB"}) as postgres,
        ValkeyServer(Path(folder, "redis")) as redis,
    ):
        Path(folder).chmod(0o711)
        container = container_on(postgres.url, redis.url)
        try:
            _load(container, transactions, failed)
            client = create_app(container=container).test_client()
            _sign_in(client)
            found = {path: _measure(client, path, rounds) for path in _paths(container)}
        finally:
            container.close()
    rows = [[f"`{path}`", f"{size / 1000:,.0f}", report.spread(seconds)] for path, (size, seconds) in found.items()]
    text = "\n\n".join(
        [
            "# Pages of the console, measured",
            header,
            f"{transactions:,} transactions of {WALLETS:,} wallets in one month, {failed:,} failed ends, a week of "
            f"samples. Median of {rounds} (lowest-highest); the bound is {SECONDS_MAX} s.",
            report.table(["page", "kB", "seconds"], rows),
        ]
    )
    return text, all(median(seconds) <= SECONDS_MAX for _, seconds in found.values())


def _load(container: Container, transactions: int, failed: int) -> None:
    fill(container, transactions)
    roll_up(container)
    with container.engine.begin() as connection:
        allow_seconds(connection, None)
        for statements, values in ((_CATALOG, {}), (_FAILED, {"ends": failed}), (_SAMPLES, {})):
            for statement in statements.text.split(";"):
                bound = sa.text(statement)
                named = {name: value for name, value in values.items() if f":{name}" in statement}
                connection.execute(bound, named)
    while container.usage_summaries.make(600):
        pass
    with vacuuming(container) as connection:
        connection.execute("VACUUM ANALYZE")
    container.catalog.refresh()


def _paths(container: Container) -> Sequence[str]:
    """The paths of all pages; pages about a single thing with a typical one."""
    since, until = "2024-11-01", next_month(container.clock.now().date().replace(day=1)).isoformat()
    month = "from=2024-11-01&to=2024-12-01"
    user = quote("wallet-7")
    with container.engine.connect() as connection:
        end_id = connection.execute(sa.text("SELECT id FROM end_inbox ORDER BY id LIMIT 1")).scalar_one()
    wanted = {
        "overview.show": ["", "?hours=168"],
        "catalog.features": [""],
        "catalog.packages": [""],
        "profit_rules.index": [""],
        "prices.index": ["", "?model=model-1"],
        "prices.calculator": ["?feature_endpoint_id=feature-1&model=model-1&input_token=1000&output_token=100"],
        "price_imports.index": [""],
        "usage.show": [
            "",
            f"?{month}",
            f"?{month}&group_by=feature_endpoint_id&group_by=model",
            f"?{month}&group_by=user_id",
            f"?{month}&user_id={user}",
            f"?from={since}&to={until}&group_by=day&group_by=model",
        ],
        "failed_ends.index": ["", "?state=dead", f"?user_id={user}"],
        "failed_ends.show": [f"/{end_id}"],
        "wallets.index": ["", "?search=wallet-7"],
        "wallets.show": [f"/{user}"],
        "top_ups.index": [""],
        "webhooks.index": [""],
        "keys.index": [""],
        "audit.index": [""],
    }
    return [
        f"{rule}{tail}" for endpoint, tails in wanted.items() if (rule := _rule(container, endpoint)) for tail in tails
    ]


def _rule(container: Container, endpoint: str) -> str | None:
    """The rule of a page's route. None if there is no such page."""
    from app.console.factory import create_console  # noqa: PLC0415

    console = create_console(container, lambda app: None)
    for rule in console.url_map.iter_rules(endpoint) if endpoint in console.view_functions else ():
        return re.sub(r"/<[^>]+>$", "", rule.rule)
    return None


def _sign_in(client: FlaskClient) -> None:
    page = client.get("/console/sign-in").text
    [csrf] = re.findall(r'action="/console/sign-in">\s*<input type="hidden" name="csrf" value="(\w+)"', page)
    assert client.post("/console/sign-in", data={"csrf": csrf, "key": KEY}).status_code == 303


def _measure(client: FlaskClient, path: str, rounds: int) -> tuple[int, list[float]]:
    """The size of a page, and the seconds that each request took."""
    seconds = []
    size = 0
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        response = client.get(path)
        size = len(response.data)
        seconds.append(time.perf_counter() - begun)
        if response.status_code != 200:
            raise RuntimeError(f"{path} answered {response.status_code}")
    # Leave out the first request, which compiles templates and opens connections.
    return size, seconds[1:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--transactions", type=int, default=1_000_000, help="entries of the ledger (1,000,000)")
    parser.add_argument("--failed", type=int, default=10_000, help="failed ends (10,000)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each page is asked for (7)")
    parser.add_argument("--save", action="store_true", help="also write the report to benchmarks/results/console.md")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    arguments = _arguments()
    text, is_kept = main(arguments.transactions, arguments.failed, arguments.rounds)
    print(text)
    if arguments.save:
        (PROJECT / "benchmarks/results/console.md").write_text(text + "\n")
    sys.exit(0 if is_kept else 1)
