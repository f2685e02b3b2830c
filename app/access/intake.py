"""How ends are recorded in Postgres and found again: each call is one statement that commits on its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from uuid import UUID

import sqlalchemy as sa

from app.access.postgres import PostgresAccess
from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.wallets import WalletBalance, WalletId
from app.stores.postgres import balances, inbox, stale
from app.stores.postgres.inbox import KnownEnd


class Intake:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def record(self, ends: Sequence[AcceptedEnd], outdated: Callable[[set[UUID]], Set[WalletId]]) -> set[UUID]:
        """Put ends into the inbox. Returns the ids that are new. `outdated` takes these and returns the wallets whose
        cached copies have to be corrected. Raises Unavailable, or SQLAlchemyError for a refusal.
        """

        def insert(connection: sa.Connection) -> set[UUID]:
            recorded = inbox.insert(connection, ends)
            if wallet_ids := outdated(recorded):
                stale.demand_refresh(connection, set(wallet_ids))
            return recorded

        return self._postgres.run(insert)

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]:
        """The recorded ends that have one of these requests' keys. Raises Unavailable, or SQLAlchemyError."""
        keys = {request.idempotency_key for request in requests if request.idempotency_key is not None}
        process_ids = {request.process_id for request in requests if request.process_id is not None}
        return self._postgres.run(lambda connection: inbox.find_keys(connection, keys, process_ids))

    def of_process(self, process_id: str) -> Sequence[KnownEnd]:
        """The recorded ends with this process id. Raises Unavailable, or SQLAlchemyError."""
        return self._postgres.run(lambda connection: inbox.find_keys(connection, (), (process_id,)))


class Balances:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def of(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]:
        """Wallets as Postgres knows them, by id; ids without a wallet are left out. Raises Unavailable."""
        return self._postgres.run(lambda connection: balances.balances(connection, wallet_ids))
