"""Reports over all wallets are the same whether days are summarised or not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.domain.reports import EntryKind, Group, Usage
from app.stores.postgres import rollups, usage_summaries
from tests.support import Billing, collect_now

GROUPINGS: tuple[tuple[Group, ...], ...] = (
    (),
    (Group.DAY,),
    (Group.MODEL,),
    (Group.DAY, Group.FEATURE, Group.MODEL, Group.PRICE),
    (Group.USER,),
)


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Three days of runs of two users with two models, of which two days are over."""
    billing.catalog()
    for user in ("user-1", "user-2"):
        billing.wallet(user)
        for model in ("large", "small", None):
            billing.container.end.end(billing.usage(user, model=model))
    billing.settle_everything()
    with billing.container.engine.begin() as connection:
        # As if some had been settled on the days before. The roll-ups are made of the entries, as they always are.
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            sa.text("""
                UPDATE token_transactions SET created_at = created_at - interval '1 day' * (id % 3) WHERE kind = 'usage'
            """)
        )
        connection.execute(sa.text("TRUNCATE usage_daily"))
        today = rollups.today(connection)
        for days in range(3):
            rollups.rebuild_day(connection, today - timedelta(days=days))
    return billing


def reports(shop: Billing) -> list[list[Any]]:
    service = shop.container.reports
    today = shop.container.postgres.run(rollups.today)
    found = []
    for groups in GROUPINGS:
        for wanted in (
            Usage(groups=groups),
            Usage(since=today - timedelta(days=1), groups=groups),
            Usage(until=today, groups=groups),
            Usage(model="large", groups=groups),
            Usage(kind=EntryKind.USAGE, groups=groups),
            Usage(user_id="user-1", groups=groups),
            Usage(package_id="package-basic", groups=groups),
        ):
            first = service.usage(wanted, 2)
            rest = [] if first.next_key is None else service.usage(wanted, 100, first.next_key).items
            found.append([*first.items, *rest])
    return found


def summarised(shop: Billing) -> int:
    with shop.container.engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(DISTINCT day) FROM usage_summaries")).scalar_one())


def test_reports_say_the_same_with_summaries_and_without(shop: Billing) -> None:
    before = reports(shop)
    assert sum(row.runs for row in before[0]) == 6
    # Within the first hour of a day the one before may still get an entry.
    made = shop.container.usage_summaries.make(60)
    assert made == summarised(shop)
    assert made in (1, 2)
    assert reports(shop) == before
    assert shop.container.usage_summaries.make(60) == 0


def test_what_is_settled_after_it_counts(shop: Billing) -> None:
    shop.container.usage_summaries.make(60)
    shop.container.end.end(shop.usage("user-1", model="large"))
    collect_now(shop.container, "user-1")
    [total] = shop.container.reports.usage(Usage(), 2).items
    assert total.runs == 7


def test_reports_read_the_summaries(shop: Billing) -> None:
    shop.container.usage_summaries.make(60)
    shop.execute_in_postgres("UPDATE usage_summaries SET runs = runs + 100")
    [total] = shop.container.reports.usage(Usage(), 2).items
    assert total.runs > 100
    [of_one] = shop.container.reports.usage(Usage(user_id="user-1"), 2).items
    assert of_one.runs == 3


def test_roll_ups_that_are_made_anew_are_summarised_anew(shop: Billing) -> None:
    before = reports(shop)
    shop.container.usage_summaries.make(60)
    made = summarised(shop)
    shop.execute_in_postgres("UPDATE usage_summaries SET runs = runs + 100")
    with shop.container.engine.begin() as connection:
        rollups.rebuild_day(connection, rollups.today(connection) - timedelta(days=2))
    assert summarised(shop) == 0
    assert reports(shop) == before
    assert shop.container.usage_summaries.make(60) == made
    assert reports(shop) == before


def test_a_day_that_is_not_over_is_not_summarised(shop: Billing) -> None:
    shop.container.usage_summaries.make(60)
    with shop.container.engine.connect() as connection:
        latest = connection.execute(sa.text("SELECT max(day) FROM usage_summaries")).scalar_one()
        assert latest < rollups.today(connection)


def test_forgetting_what_was_never_made_changes_nothing(shop: Billing) -> None:
    before = reports(shop)
    with shop.container.engine.begin() as connection:
        usage_summaries.forget(connection, rollups.today(connection))
    assert reports(shop) == before
