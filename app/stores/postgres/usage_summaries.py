"""Usage of whole days over all wallets: reports that aren't about single users or packages sum these up.

Roll-ups are by wallet and user, so a month of many users has millions. Nothing is added to a day that is over, so a
summary of it by feature endpoint, model and price is made once; days from `made_before` on are read from the roll-ups.
Rebuilding a day's roll-ups deletes the summaries of that day and the days after it, to be made again.
"""

from __future__ import annotations

from datetime import date, timedelta

import sqlalchemy as sa

from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.tables import usage_daily, usage_summaries, usage_summary_state

KEY = ("day", "feature_endpoint_id", "model", "price_id")
SUMS = tuple(column.name for column in usage_summaries.c if column.name not in KEY)
# Upper bound of how long after midnight a transaction that began before it may insert entries of that day. None takes
# half as long.
SETTLED_AFTER = timedelta(hours=1)

# The day before which all days are summarised.
MADE_BEFORE = sa.func.coalesce(
    sa.select(usage_summary_state.c.made_before).scalar_subquery(), sa.literal_column("'0001-01-01'::date")
)


def make_next(connection: sa.Connection, seconds: float) -> date | None:
    """Summarise the next day that is over, and return it. None where all are summarised."""
    allow_seconds(connection, seconds)
    connection.execute(
        sa.text("INSERT INTO usage_summary_state (id, made_before) VALUES (1, '0001-01-01') ON CONFLICT DO NOTHING")
    )
    # Serialised by this row's lock, so that no day is summarised twice.
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
    """A day's roll-ups are being rebuilt: delete its summary and those after it, so that roll-ups are read until they
    are made again.
    """
    connection.execute(sa.delete(usage_summaries).where(usage_summaries.c.day >= day))
    connection.execute(
        sa.update(usage_summary_state).where(usage_summary_state.c.made_before > day).values(made_before=day)
    )
