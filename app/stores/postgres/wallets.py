"""The wallets' own rows. Every change raises the version and, with it, marks the cached copy as old."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.wallets import WalletId
from app.stores.postgres import stale
from app.stores.postgres.tables import wallets

_COLUMNS = (
    wallets.c.wallet_id,
    wallets.c.user_id,
    wallets.c.package_id,
    wallets.c.status,
    wallets.c.posted_micros,
    wallets.c.debt_micros,
    wallets.c.overdraft_limit_micros,
    wallets.c.version,
)


@dataclass(frozen=True, slots=True)
class WalletRow:
    wallet_id: WalletId
    user_id: str
    package_id: str | None
    status: str
    posted_micros: int
    debt_micros: int
    overdraft_limit_micros: int
    version: int


def insert(
    connection: sa.Connection,
    *,
    wallet_id: WalletId,
    user_id: str,
    package_id: str | None,
    status: str,
    overdraft_limit_micros: int,
) -> WalletRow | None:
    """A new, empty wallet. None when the user has one."""
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
    stale.mark(connection, [wallet_id])
    return WalletRow(*row)


def lock(connection: sa.Connection, wallet_id: WalletId) -> WalletRow | None:
    """Lock a wallet against every other change of it until the transaction ends. None when there is none."""
    statement = sa.select(*_COLUMNS).where(wallets.c.wallet_id == wallet_id)
    row = connection.execute(statement.with_for_update(key_share=True)).one_or_none()
    return None if row is None else WalletRow(*row)


def update(connection: sa.Connection, wallet_id: WalletId, changes: Mapping[str, Any]) -> WalletRow:
    """Change columns of a wallet that is locked; the wallet after it."""
    statement = sa.update(wallets).where(wallets.c.wallet_id == wallet_id)
    row = connection.execute(statement.values({**changes, "version": wallets.c.version + 1}).returning(*_COLUMNS)).one()
    stale.mark(connection, [wallet_id])
    return WalletRow(*row)


def exists(connection: sa.Connection, wallet_id: WalletId) -> bool:
    return connection.execute(sa.select(sa.exists().where(wallets.c.wallet_id == wallet_id))).scalar_one()


def list_ids(connection: sa.Connection, after_id: str, limit: int) -> list[WalletId]:
    statement = sa.select(wallets.c.wallet_id).where(wallets.c.wallet_id > after_id)
    return list(connection.execute(statement.order_by(wallets.c.wallet_id).limit(limit)).scalars())
