"""Wallets by filter, in any order, in pages.

Only two columns have an index: one on a column that each settlement changes would have to be written each time. A page
by balance, debt or activity, or one that searches for a part of an id, therefore reads all wallets (see
docs/performance.md for figures). Unsettled ends are summed up only for the wallets of the page.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.domain.inputs import ID_LENGTH_MAX, identifier
from app.domain.pages import FIRST_ID
from app.domain.reports import WalletOrder, Wallets, WalletSort
from app.domain.wallets import WalletBalance, WalletId
from app.stores.postgres.balances import balance_of
from app.stores.postgres.tables import end_inbox, wallets

_COLUMNS = {
    WalletSort.BALANCE: wallets.c.posted_micros,
    WalletSort.DEBT: wallets.c.debt_micros,
    WalletSort.ACTIVITY: wallets.c.changed_at,
}
# Failed ends that the wallet's row doesn't include yet are debt as well.
_OWES_UNTOLD = wallets.c.wallet_id.in_(
    sa.select(end_inbox.c.wallet_id).where(sa.text("state <> 'accepted' AND NOT is_debt"))
)
_INT8 = range(-(2**63), 2**63)


def list_wallets(
    connection: sa.Connection,
    wanted: Wallets,
    order: WalletOrder,
    after: str,
    *,
    limit: int,
    among: Collection[WalletId] | None = None,
) -> list[WalletBalance]:
    """The next wallets after a position (FIRST_ID: from the start); only those `among` these ids, if given."""
    conditions = _conditions(wanted)
    if among is not None:
        conditions.append(wallets.c.wallet_id == sa.any_(sa.cast(list(among), sa.ARRAY(sa.Text))))
    keys = [wallets.c.user_id] if order.by is WalletSort.USER else [_COLUMNS[order.by], wallets.c.user_id]
    if after != FIRST_ID:
        row_key, start_key = sa.tuple_(*keys), sa.tuple_(*_values(order, after))
        conditions.append(row_key < start_key if order.is_descending else row_key > start_key)
    sorted_by = [key.desc() if order.is_descending else key for key in keys]
    found = sa.select(wallets).where(*conditions).order_by(*sorted_by).limit(limit).subquery("wallets")
    unsettled = (
        sa.select(
            sa.func.sum(end_inbox.c.cost_micros).filter(end_inbox.c.state == "accepted").label("pending_micros"),
            sa.func.sum(end_inbox.c.cost_micros).filter(end_inbox.c.state != "accepted").label("untold_debt_micros"),
        )
        .where(end_inbox.c.wallet_id == found.c.wallet_id, sa.text("NOT is_debt"))
        .lateral("unsettled")
    )
    statement = sa.select(
        found,
        sa.func.coalesce(unsettled.c.pending_micros, 0).label("pending_micros"),
        sa.func.coalesce(unsettled.c.untold_debt_micros, 0).label("untold_debt_micros"),
    ).select_from(found.outerjoin(unsettled, sa.true()))
    outer = [found.c[key.name].desc() if order.is_descending else found.c[key.name] for key in keys]
    return [balance_of(row) for row in connection.execute(statement.order_by(*outer))]


def position_of(order: WalletOrder, found: WalletBalance) -> str:
    """The cursor for wallets after this one."""
    match order.by:
        case WalletSort.USER:
            return found.user_id
        case WalletSort.BALANCE:
            value: int | str = found.wallet.posted_micros
        case WalletSort.DEBT:
            value = found.wallet.debt_micros
        case WalletSort.ACTIVITY:
            value = found.changed_at.astimezone(UTC).isoformat()
    return json.dumps([order.name, value, found.user_id])


def check_position(order: WalletOrder, text: str) -> str:
    """Check a position in a list of this order. Raises ValueError."""
    _values(order, text)
    return text


def _values(order: WalletOrder, text: str) -> list[Any]:
    if order.by is WalletSort.USER:
        return [sa.literal(identifier(text, ID_LENGTH_MAX))]
    parts = json.loads(text)
    if not isinstance(parts, list) or len(parts) != 3 or parts[0] != order.name:
        raise ValueError("Must be a position in a list of this order.")
    value: Any = parts[1]
    user_id = identifier(parts[2], ID_LENGTH_MAX)
    if order.by is WalletSort.ACTIVITY:
        if not isinstance(value, str):
            raise ValueError("Must have a moment.")
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("Must have a moment with its offset.")
        return [sa.cast(moment, sa.TIMESTAMP(timezone=True)), sa.literal(user_id)]
    if type(value) is not int or value not in _INT8:
        raise ValueError("Must have a whole number.")
    return [sa.cast(value, sa.BigInteger), sa.literal(user_id)]


def _conditions(wanted: Wallets) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if wanted.package_id is not None:
        found.append(wallets.c.package_id == wanted.package_id)
    if wanted.status is not None:
        found.append(wallets.c.status == wanted.status)
    if wanted.search is not None:
        found.append(wallets.c.user_id.icontains(wanted.search, autoescape=True))
    if wanted.prefix is not None:
        found.append(wallets.c.user_id.startswith(wanted.prefix, autoescape=True))
    if wanted.in_debt is not None:
        owes = sa.or_(wallets.c.debt_micros > 0, _OWES_UNTOLD)
        found.append(owes if wanted.in_debt else sa.not_(owes))
    if wanted.balance_below_micros is not None:
        found.append(wallets.c.posted_micros < wanted.balance_below_micros)
    if wanted.balance_above_micros is not None:
        found.append(wallets.c.posted_micros > wanted.balance_above_micros)
    return found
