"""One row a minute of how things stood: what is in it, that there is one, and how it is read."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from app.billing.start import StartRequest
from app.cli import cli
from app.domain.moments import moment_text
from app.stores.postgres.samples import COMMIT_SECONDS_MAX, KEPT_DAYS
from tests.http.admin import Admin, assert_invalid, data
from tests.support import FEATURE, Billing

COLUMNS = (
    "accepted", "settled", "backlog", "retrying", "dead", "pending_token", "retrying_token", "dead_token", "debt_token",
    "liability_token", "overdrawn_token", "wallets", "held_token",
)  # fmt: skip


def age_by_a_minute(shop: Billing) -> datetime:
    """Have everything so far be of the last whole minute whose sample is to be taken; when that begins."""
    with shop.container.engine.begin() as connection:
        minute: datetime = connection.execute(
            sa.text(f"SELECT date_trunc('minute', now() - interval '{COMMIT_SECONDS_MAX} s') - interval '1 minute'")
        ).scalar_one()
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        moment = {"accepted": minute + timedelta(seconds=20), "entered": minute + timedelta(seconds=21.5)}
        connection.execute(sa.text("UPDATE end_inbox SET accepted_at = :accepted"), {"accepted": moment["accepted"]})
        connection.execute(
            sa.text("UPDATE token_transactions SET accepted_at = :accepted, created_at = :entered"), moment
        )
    return minute


def take(shop: Billing) -> dict[str, Any]:
    minute = age_by_a_minute(shop)
    assert shop.container.samples.take()
    sample = shop.container.samples.latest()
    assert sample is not None
    assert sample.minute == minute
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}


def insert(shop: Billing, *minutes: datetime) -> None:
    with shop.container.engine.begin() as connection:
        for i, minute in enumerate(minutes):
            connection.execute(
                sa.text("""
                    INSERT INTO samples (minute, accepted, settled, backlog, pending_micros, retrying, retrying_micros,
                        dead, dead_micros, debt_micros, liability_micros, overdrawn_micros, wallets)
                    VALUES (:minute, :i, 0, 0, 0, 0, 0, 0, 0, 1500000, 2000000, 0, 1)
                """),
                {"minute": minute, "i": i},
            )


def test_what_a_sample_says(shop: Billing) -> None:
    shop.wallet("poor", tokens=5)
    shop.wallet("overdrawn", tokens=0, overdraft_tokens=100)
    container = shop.container
    container.end.end_all([shop.usage(), shop.usage(output_tokens=80), shop.usage("overdrawn")])
    shop.settle_everything()
    container.end.end_all([shop.usage("poor", output_tokens=120), shop.usage("poor")])
    shop.settle_everything()
    shop.execute("UPDATE end_inbox SET state = 'dead' WHERE cost_micros = 33000000")
    container.end.end(shop.usage(output_tokens=4))
    container.start.start(StartRequest("user-1", FEATURE, hold_micros=7_000_000))
    found = take(shop)
    assert (found["accepted"], found["settled"], found["backlog"]) == (6, 3, 1)
    assert (found["retrying"], found["retrying_micros"]) == (1, 11_000_000)
    assert (found["dead"], found["dead_micros"]) == (1, 33_000_000)
    assert (found["pending_micros"], found["debt_micros"]) == (1_100_000, 44_000_000)
    assert (found["liability_micros"], found["overdrawn_micros"]) == (967_000_000 + 5_000_000, 11_000_000)
    assert (found["wallets"], found["held_micros"]) == (3, 7_000_000)
    assert (found["lag_median_seconds"], found["lag_p95_seconds"]) == (1.5, 1.5)
    assert found["backlog_age_seconds"] == found["oldest_debt_seconds"]
    assert 40 <= found["backlog_age_seconds"] < 120


def test_it_agrees_with_the_totals(shop: Billing) -> None:
    shop.wallet("poor", tokens=5)
    shop.container.end.end_all([shop.usage(), shop.usage("poor"), shop.usage("poor", output_tokens=4)])
    found, totals = take(shop), shop.container.reports.totals()
    for name in (
        "wallets",
        "liability_micros",
        "overdrawn_micros",
        "pending_micros",
        "debt_micros",
        "retrying",
        "dead",
    ):
        assert found[name] == getattr(totals.postgres, name), name
    assert found["held_micros"] == totals.held_micros


def test_of_the_minute_is_what_was_accepted_and_settled_in_it(shop: Billing) -> None:
    shop.container.end.end_all([shop.usage(output_tokens=4) for _ in range(4)])
    shop.settle_everything()
    minute = age_by_a_minute(shop)
    shop.execute_in_postgres("ALTER TABLE token_transactions DISABLE TRIGGER token_transactions_append_only")
    try:
        # Accepted the minute before; settled the minute after; accepted long before, collected now.
        for i, (accepted, entered) in enumerate([(-10, 20), (50, 61), (-4_000, 30)]):
            times = [moment_text(minute + timedelta(seconds=seconds)) for seconds in (accepted, entered)]
            shop.execute_in_postgres(
                f"UPDATE token_transactions SET accepted_at = '{times[0]}', created_at = '{times[1]}'"
                f" WHERE id = {i + 2}"
            )
    finally:
        shop.execute_in_postgres("ALTER TABLE token_transactions ENABLE TRIGGER token_transactions_append_only")
    assert shop.container.samples.take()
    sample = shop.container.samples.latest()
    assert sample is not None
    assert (sample.accepted, sample.settled) == (2, 3)
    # The debt that was collected says nothing of how fast settlement is.
    assert (sample.lag_median_seconds, sample.lag_p95_seconds) == (1.5, 30.0)


def test_there_is_one_a_minute_however_many_try(shop: Billing) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: shop.container.samples.take(), range(24)))
    with shop.container.engine.connect() as connection:
        minutes = list(connection.execute(sa.text("SELECT minute FROM samples")).scalars())
    # Two where a minute ended meanwhile.
    assert 1 <= len(minutes) == sum(taken) <= 2


def test_without_redis_what_is_held_is_unknown(shop: Billing) -> None:
    shop.container.redis_gate.close(ConnectionError("test"))
    assert shop.container.samples.take()
    sample = shop.container.samples.latest()
    assert sample is not None
    assert sample.held_micros is None
    assert (sample.lag_median_seconds, sample.backlog_age_seconds, sample.oldest_debt_seconds) == (None, None, None)


def test_samples_are_kept_for_a_week(shop: Billing) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    week = timedelta(days=KEPT_DAYS)
    insert(shop, now - week - timedelta(minutes=5), now - week + timedelta(minutes=5))
    assert shop.container.samples.take()
    kept = shop.container.samples.between(None, None)
    assert [sample.minute for sample in kept][:-1] == [now - week + timedelta(minutes=5)]


def test_amounts_have_no_bound(shop: Billing) -> None:
    for i in range(3):
        shop.wallet(f"rich-{i}", tokens=4_000_000_000)
    shop.execute_in_postgres("UPDATE wallets SET debt_micros = 9007199254740992")
    assert take(shop)["debt_micros"] == 4 * 9_007_199_254_740_992


@pytest.fixture
def minutes(shop: Billing) -> list[datetime]:
    first = datetime(2030, 1, 31, 23, 58, tzinfo=UTC)
    minutes = [first + timedelta(minutes=i) for i in range(5)]
    insert(shop, *minutes)
    return minutes


class TestReading:
    def test_as_a_command(self, app: Flask, minutes: list[datetime]) -> None:
        def run(*arguments: str) -> Result:
            return app.test_cli_runner().invoke(cli, ("samples", *arguments))

        done = run("--limit", "2")
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["minute", "accepted"],
            ["2030-02-01T00:02:00.000Z", "4"],
            ["2030-02-01T00:01:00.000Z", "3"],
        ]
        before = int(minutes[3].timestamp()) // 60
        assert f"--before {before}" in done.stderr
        found = json.loads(run("--before", str(before), "--from", "2030-02-01", "--json").stdout)
        assert [item["accepted"] for item in found["items"]] == [2]

    def test_newest_first_page_by_page(self, admin: Admin, minutes: list[datetime]) -> None:
        pages = [[item["minute"] for item in page] for page in admin.pages("/samples", limit=2)]
        told = [moment_text(minute) for minute in reversed(minutes)]
        assert pages == [told[:2], told[2:4], told[4:]]

    @pytest.mark.usefixtures("minutes")
    def test_one_of_them(self, admin: Admin) -> None:
        [newest] = data(admin.get("/samples", limit=1))["items"]
        assert {name: newest[name] for name in COLUMNS} == {
            **dict.fromkeys(COLUMNS, 0),
            "accepted": 4,
            "debt_token": 1.5,
            "liability_token": 2,
            "wallets": 1,
            "held_token": None,
        }
        assert newest["lag_p95_seconds"] is newest["backlog_age_seconds"] is None

    @pytest.mark.parametrize(
        ("span", "accepted"),
        [
            ({"from": "2030-02-01"}, [4, 3, 2]),
            ({"to": "2030-02-01"}, [1, 0]),
            ({"from": "2030-01-31T23:59:00Z", "to": "2030-02-01T00:01:00Z"}, [2, 1]),
        ],
    )
    @pytest.mark.usefixtures("minutes")
    def test_some_time(self, admin: Admin, span: dict[str, str], accepted: list[int]) -> None:
        assert [item["accepted"] for item in admin.items("/samples", **span)] == accepted

    @pytest.mark.usefixtures("minutes")
    def test_as_a_table(self, admin: Admin) -> None:
        lines = admin.get("/samples", accept="text/csv").text.splitlines()
        assert lines[0].startswith("minute,accepted,settled,lag_median_seconds,")
        assert lines[1].startswith("2030-02-01T00:02:00.000Z,4,0,,")
        assert len(lines) == 6

    def test_for_a_chart(self, shop: Billing, minutes: list[datetime]) -> None:
        found = shop.container.samples.between(minutes[1], minutes[4])
        assert [sample.minute for sample in found] == minutes[1:4]

    def test_what_is_refused(self, admin: Admin, client: FlaskClient) -> None:
        assert_invalid(admin.get("/samples", since="2030-02-01"), "since")
        assert_invalid(admin.get("/samples", **{"from": "soon", "to": "later"}), "from", "to")
        assert_invalid(admin.get("/samples", **{"from": "2030-02-01", "to": "2030-01-31"}), "to")
        assert client.get("/api/admin/samples").status_code == 401

    def test_any_number_is_a_position(self, admin: Admin, minutes: list[datetime]) -> None:
        """A cursor that nobody was given is a place in the list like another."""
        third = int(minutes[2].timestamp()) // 60
        for position, items in ((0, 0), (third, 2), (2**62, 5), (2**63 - 1, 5)):
            cursor = urlsafe_b64encode(str(position).encode()).decode().rstrip("=")
            assert len(data(admin.get("/samples", cursor=cursor))["items"]) == items
