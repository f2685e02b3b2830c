"""Usage of whole days over all wallets: what reports that ask for nobody in particular are added up from.

Roll-ups are by wallet and user, so a month of many users is millions of them. A day that is over isn't added to any
more: a summary of it by feature, model and price is made once, and everything from `made_before` on is read from the
roll-ups as ever. Whoever makes a day's roll-ups anew has its summary, and those after it, made anew as well.
"""

from __future__ import annotations

from datetime import date, timedelta

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import usage_daily, usage_summaries, usage_summary_state

KEY = ("day", "feature_endpoint_id", "model", "price_id")
SUMS = tuple(column.name for column in usage_summaries.c if column.name not in KEY)
# A transaction that began before midnight may enter what is of that day so much later. None lives half as long.
SETTLED_AFTER = timedelta(hours=1)

# Days before it are summarised, all of them.
MADE_BEFORE = sa.func.coalesce(
    sa.select(usage_summary_state.c.made_before).scalar_subquery(), sa.literal_column("'0001-01-01'::date")
)


def make_next(connection: sa.Connection, seconds: float) -> date | None:
    """Summarise the next day that is over; which one that was. None: all are."""
    allow_seconds(connection, seconds)
    connection.execute(
        sa.text("INSERT INTO usage_summary_state (id, made_before) VALUES (1, '0001-01-01') ON CONFLICT DO NOTHING")
    )
    # One at a time, so that no day is made twice.
    connection.execute(sa.select(usage_summary_state).with_for_update())
    day = connection.execute(
        sa.select(sa.func.min(usage_daily.c.day)).where(
            usage_daily.c.day >= MADE_BEFORE,
            usage_daily.c.day < sa.cast(sa.func.timezone("UTC", sa.func.now() - SETTLED_AFTER), sa.Date),
        )
    ).scalar_one()
    if day is None:
        return None
    of_day = (
        sa.select(*(usage_daily.c[name] for name in KEY), *(sa.func.sum(usage_daily.c[name]) for name in SUMS))
        .where(usage_daily.c.day == day)
        .group_by(*(usage_daily.c[name] for name in KEY))
    )
    connection.execute(sa.insert(usage_summaries).from_select([*KEY, *SUMS], of_day))
    connection.execute(sa.update(usage_summary_state).values(made_before=day + timedelta(days=1)))
    found: date = day
    return found


def forget(connection: sa.Connection, day: date) -> None:
    """Its roll-ups are made anew: read them, and summarise it again later."""
    connection.execute(sa.delete(usage_summaries).where(usage_summaries.c.day >= day))
    connection.execute(
        sa.update(usage_summary_state).where(usage_summary_state.c.made_before > day).values(made_before=day)
    )
