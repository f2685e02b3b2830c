"""Rules of wallets and packages: when a balance is low, and when a top-up is requested. Triggers read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.balance_rules import AutoTopUp, AutoTopUpRule, LowBalance, LowBalanceRule, Owner
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres.tables import auto_top_up_rules, low_balance_rules, wallet_watches, wallets

_AMOUNTS = [field.name for field in fields(AutoTopUp)]


def kept_by_others(connection: sa.Connection, wallet_ids: Collection[WalletId]) -> set[WalletId]:
    """Those of these wallets whose watch row another transaction has locked: settling them might have to wait."""
    ids = list(wallet_ids)
    watches = sa.select(wallet_watches.c.wallet_id).where(wallet_watches.c.wallet_id.in_(ids))
    free = watches.order_by(wallet_watches.c.wallet_id).with_for_update(skip_locked=True)
    return set(connection.execute(watches).scalars()) - set(connection.execute(free).scalars())


def set_low_balance(connection: sa.Connection, owner: Owner, low_balance: LowBalance) -> LowBalanceRule:
    """Replaces the owner's rule, if it has one."""
    return _low_balance_rule(_put(connection, low_balance_rules, owner, asdict(low_balance)))


def set_auto_top_up(connection: sa.Connection, owner: Owner, auto_top_up: AutoTopUp | None) -> AutoTopUpRule:
    """Replaces the owner's rule, if it has one."""
    amounts = dict.fromkeys(_AMOUNTS) if auto_top_up is None else asdict(auto_top_up)
    return _auto_top_up_rule(_put(connection, auto_top_up_rules, owner, amounts))


def find_low_balance(connection: sa.Connection, owner: Owner) -> LowBalanceRule | None:
    row = _find(connection, low_balance_rules, owner)
    return None if row is None else _low_balance_rule(row)


def find_auto_top_up(connection: sa.Connection, owner: Owner) -> AutoTopUpRule | None:
    row = _find(connection, auto_top_up_rules, owner)
    return None if row is None else _auto_top_up_rule(row)


def low_balance_for(connection: sa.Connection, wallet_id: WalletId) -> LowBalanceRule | None:
    """The rule in force for a wallet: its own, or else its package's."""
    row = _in_force(connection, low_balance_rules, wallet_id)
    return None if row is None else _low_balance_rule(row)


def auto_top_up_for(connection: sa.Connection, wallet_id: WalletId) -> AutoTopUpRule | None:
    """The rule in force for a wallet: its own, or else its package's."""
    row = _in_force(connection, auto_top_up_rules, wallet_id)
    return None if row is None else _auto_top_up_rule(row)


def list_low_balance(connection: sa.Connection, before_id: int, limit: int) -> list[LowBalanceRule]:
    """Newest first."""
    return [_low_balance_rule(row) for row in _list(connection, low_balance_rules, before_id, limit)]


def list_auto_top_up(connection: sa.Connection, before_id: int, limit: int) -> list[AutoTopUpRule]:
    """Newest first."""
    return [_auto_top_up_rule(row) for row in _list(connection, auto_top_up_rules, before_id, limit)]


def remove_low_balance(connection: sa.Connection, owner: Owner) -> None:
    connection.execute(sa.delete(low_balance_rules).where(_of(low_balance_rules, owner)))


def remove_auto_top_up(connection: sa.Connection, owner: Owner) -> None:
    connection.execute(sa.delete(auto_top_up_rules).where(_of(auto_top_up_rules, owner)))


def _put(connection: sa.Connection, table: sa.Table, owner: Owner, amounts: Mapping[str, Any]) -> Any:
    column = "wallet_id" if owner.user_id is not None else "package_id"
    statement = pg_insert(table).values(**_key(owner), **amounts)
    statement = statement.on_conflict_do_update(
        index_elements=[column],
        index_where=table.c[column].is_not(None),
        set_={**amounts, "updated_at": sa.func.now()},
    )
    return connection.execute(statement.returning(table)).one()


def _find(connection: sa.Connection, table: sa.Table, owner: Owner) -> Any:
    return connection.execute(sa.select(table).where(_of(table, owner))).one_or_none()


def _in_force(connection: sa.Connection, table: sa.Table, wallet_id: WalletId) -> Any:
    package_id = sa.select(wallets.c.package_id).where(wallets.c.wallet_id == wallet_id).scalar_subquery()
    statement = sa.select(table).where(sa.or_(table.c.wallet_id == wallet_id, table.c.package_id == package_id))
    return connection.execute(statement.order_by(table.c.wallet_id.is_(None)).limit(1)).one_or_none()


def _list(connection: sa.Connection, table: sa.Table, before_id: int, limit: int) -> sa.CursorResult[Any]:
    statement = sa.select(table).where(table.c.id < before_id)
    return connection.execute(statement.order_by(table.c.id.desc()).limit(limit))


def _of(table: sa.Table, owner: Owner) -> sa.ColumnElement[bool]:
    [(column, value)] = _key(owner).items()
    return table.c[column] == value


def _key(owner: Owner) -> dict[str, str]:
    if owner.user_id is not None:
        return {"wallet_id": wallet_of(owner.user_id)}
    return {"package_id": str(owner.package_id)}


def _owner(row: Any) -> Owner:
    # A wallet has the same id as its user: see `wallet_of`.
    return Owner(user_id=row.wallet_id, package_id=row.package_id)


def _low_balance_rule(row: Any) -> LowBalanceRule:
    low_balance = LowBalance(row.below_micros, row.below_basis_points)
    return LowBalanceRule(row.id, _owner(row), low_balance, row.updated_at)


def _auto_top_up_rule(row: Any) -> AutoTopUpRule:
    amounts = {name: getattr(row, name) for name in _AMOUNTS}
    auto_top_up = None if row.amount_micros is None else AutoTopUp(**amounts)
    return AutoTopUpRule(row.id, _owner(row), auto_top_up, row.updated_at)
