"""The wallets' own rows. Every change raises the version and notes that the cached copy is stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.wallets import Wallet, WalletId, WalletStatus
from app.stores.postgres import stale
from app.stores.postgres.tables import wallets

_COLUMNS = (
    wallets.c.wallet_id,
    wallets.c.package_id,
    wallets.c.status,
    wallets.c.posted_micros,
    wallets.c.debt_micros,
    wallets.c.overdraft_limit_micros,
    wallets.c.version,
)


def from_row(row: Any) -> Wallet:
    """The wallet in a row that has all its columns, in any order and among others."""
    return Wallet(
        id=row.wallet_id,
        package_id=row.package_id,
        status=WalletStatus(row.status),
        posted_micros=row.posted_micros,
        debt_micros=row.debt_micros,
        overdraft_limit_micros=row.overdraft_limit_micros,
        version=row.version,
    )


def insert(
    connection: sa.Connection,
    *,
    wallet_id: WalletId,
    user_id: str,
    package_id: str | None,
    status: str,
    overdraft_limit_micros: int,
) -> Wallet | None:
    """A new, empty wallet. None where the user has one."""
    statement = pg_insert(wallets).values(
        wallet_id=wallet_id,
        user_id=user_id,
        package_id=package_id,
        status=status,
        overdraft_limit_micros=overdraft_limit_micros,
    )
    row = connection.execute(statement.on_conflict_do_nothing().returning(*_COLUMNS)).one_or_none()
    if row is None:
        return None
    stale.mark(connection, wallet_id)
    return from_row(row)


def lock(connection: sa.Connection, wallet_id: WalletId) -> Wallet | None:
    """Lock a wallet against other changes until the transaction ends. None where it doesn't exist."""
    statement = sa.select(*_COLUMNS).where(wallets.c.wallet_id == wallet_id)
    row = connection.execute(statement.with_for_update(key_share=True)).one_or_none()
    return None if row is None else from_row(row)


def lock_free(connection: sa.Connection, wallet_ids: Sequence[WalletId]) -> frozenset[WalletId]:
    """Lock those of these wallets that no other transaction has locked. Returns them."""
    statement = sa.select(wallets.c.wallet_id).where(wallets.c.wallet_id.in_(wallet_ids)).order_by(wallets.c.wallet_id)
    return frozenset(connection.execute(statement.with_for_update(key_share=True, skip_locked=True)).scalars())


def update(connection: sa.Connection, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet:
    """Change columns of a locked wallet. Returns the wallet as it is then."""
    statement = sa.update(wallets).where(wallets.c.wallet_id == wallet_id)
    changed = {**changes, "version": wallets.c.version + 1, "changed_at": sa.func.now()}
    row = connection.execute(statement.values(changed).returning(*_COLUMNS)).one()
    stale.mark(connection, wallet_id)
    return from_row(row)


def exists(connection: sa.Connection, wallet_id: WalletId) -> bool:
    return connection.execute(sa.select(sa.exists().where(wallets.c.wallet_id == wallet_id))).scalar_one()
