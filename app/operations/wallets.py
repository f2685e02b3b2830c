"""Opening, changing and looking at wallets. Balances come from Postgres, holds from Redis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from redis import Redis, RedisError

from app.access.changes import WalletChanges
from app.access.doorbell import Doorbell
from app.access.gate import Gate
from app.access.postgres import PostgresAccess
from app.domain.audit import differing
from app.domain.errors import AlreadyExists, BalanceOutOfRange, NotFound, Unavailable, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, Page, page
from app.domain.reports import WalletOrder, Wallets
from app.domain.wallets import Wallet, WalletBalance, WalletId, WalletStatus, wallet_of
from app.stores.postgres import audit, balances, catalog, debts, wallet_lists, wallets
from app.stores.postgres.debts import IndebtedWallet
from app.stores.redis import holders
from app.stores.redis.wallet_holds import WalletHolds

ALL_WALLETS = Wallets()
BY_USER = WalletOrder()

_ACTIONS = {
    WalletStatus.ACTIVE: "wallet.activated",
    WalletStatus.SUSPENDED: "wallet.suspended",
    WalletStatus.CLOSED: "wallet.closed",
}


class WalletAdmin:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        client: Redis,
        holds: WalletHolds,
        redis: Gate,
        changes: WalletChanges,
        doorbell: Doorbell,
    ) -> None:
        self._postgres = postgres
        self._client = client
        self._holds = holds
        self._redis = redis
        self._changes = changes
        self._doorbell = doorbell

    def create(
        self,
        user_id: str,
        package_id: str | None,
        *,
        status: str = WalletStatus.ACTIVE,
        overdraft_limit_micros: int = 0,
        caller: Caller = SYSTEM,
    ) -> WalletBalance:
        """Open an empty wallet. Raises AlreadyExists, NotFound (the package) or Unavailable."""

        def work(connection: sa.Connection) -> Wallet:
            _check_package(connection, package_id)
            opened = wallets.insert(
                connection,
                wallet_id=wallet_of(user_id),
                user_id=user_id,
                package_id=package_id,
                status=status,
                overdraft_limit_micros=overdraft_limit_micros,
            )
            if opened is None:
                raise AlreadyExists("Wallet exists already")
            audit.write(connection, caller, "wallet.created", ("wallet", opened.id), after=_told(opened))
            return opened

        self._changes.announce(self._postgres.transaction(work))
        return self.get(user_id)

    def update(
        self, user_id: str, changes: Mapping[str, Any], caller: Caller = SYSTEM, *, reason: str | None = None
    ) -> WalletBalance:
        """Change any of status, package_id and overdraft_limit_micros; nothing given changes nothing.

        Raises WalletNotFound, NotFound (the package), Unavailable, or BalanceOutOfRange when more is
        overdrawn than the new limit allows.
        """
        if changes:
            wallet_id = wallet_of(user_id)
            changed, woken = self._postgres.wallet_transaction(
                wallet_id, lambda connection: _update(connection, wallet_id, changes, caller, reason)
            )
            self._changes.announce(changed)
            self._doorbell.collect(woken)
        return self.get(user_id)

    def get(self, user_id: str) -> WalletBalance:
        """Raises WalletNotFound or Unavailable."""
        wallet_id = wallet_of(user_id)
        found = self._postgres.run(lambda connection: balances.balances(connection, [wallet_id]))
        if wallet_id not in found:
            raise WalletNotFound
        [with_holds] = self._with_holds([found[wallet_id]])
        return with_holds

    def list(
        self, limit: int, after: str = FIRST_ID, wanted: Wallets = ALL_WALLETS, order: WalletOrder = BY_USER
    ) -> Page[WalletBalance, str]:
        """Raises Unavailable, also where only Redis could tell which wallets have holds."""
        if wanted.with_holds is None:
            return self._page(limit, after, wanted, order)
        may_hold = self._may_hold()
        return self._sifted(limit, after, wanted, order, may_hold if wanted.with_holds else None)

    def _sifted(
        self, limit: int, after: str, wanted: Wallets, order: WalletOrder, among: Collection[WalletId] | None
    ) -> Page[WalletBalance, str]:
        """A page of those that have holds, or have none, as Redis tells of each."""
        found: list[WalletBalance] = []
        start: str | None = after
        while start is not None:
            looked_at = self._page(limit, start, wanted, order, among)
            for wallet in looked_at.items:
                if (wallet.balance.held_micros > 0) is wanted.with_holds:
                    found.append(wallet)
                if len(found) == limit:
                    return Page(found, wallet_lists.position_of(order, wallet))
            start = looked_at.next_key
        return Page(found, None)

    def _page(
        self,
        limit: int,
        after: str,
        wanted: Wallets,
        order: WalletOrder,
        among: Collection[WalletId] | None = None,
    ) -> Page[WalletBalance, str]:
        def work(connection: sa.Connection) -> Page[WalletBalance, str]:
            return page(
                lambda count: wallet_lists.list_wallets(connection, wanted, order, after, limit=count, among=among),
                lambda found: wallet_lists.position_of(order, found),
                limit,
            )

        listed = self._postgres.run(work)
        return Page(self._with_holds(listed.items), listed.next_key)

    def _may_hold(self) -> Collection[WalletId]:
        """Wallets that may have open holds, and no other has. Raises Unavailable without Redis."""
        if self._redis.is_open:
            try:
                return holders.names(self._client)
            except RedisError as error:
                self._redis.close(error)
        raise Unavailable

    def _with_holds(self, found: Sequence[WalletBalance]) -> Sequence[WalletBalance]:
        held = self._held([one.wallet.id for one in found])
        return [
            replace(one, balance=replace(one.balance, held_micros=held_micros))
            for one, held_micros in zip(found, held, strict=True)
        ]

    def _held(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]:
        if self._redis.is_open:
            try:
                return self._holds.held(wallet_ids)
            except RedisError as error:
                self._redis.close(error)
        # Holds live in Redis: without it there are none.
        return [0] * len(wallet_ids)


def check_position(order: WalletOrder, text: str) -> str:
    """Where a list of this order goes on, as `list` tells it. Raises ValueError."""
    return wallet_lists.check_position(order, text)


def _update(
    connection: sa.Connection, wallet_id: WalletId, changes: Mapping[str, Any], caller: Caller, reason: str | None
) -> tuple[Wallet, Sequence[IndebtedWallet]]:
    wallet = wallets.lock(connection, wallet_id)
    if wallet is None:
        raise WalletNotFound
    _check_package(connection, changes.get("package_id"))
    limit_micros = changes.get("overdraft_limit_micros", wallet.overdraft_limit_micros)
    if wallet.posted_micros < -limit_micros:
        raise BalanceOutOfRange("More is overdrawn than the new limit allows")
    changed = wallets.update(connection, wallet_id, changes)
    before, after = differing(_told(wallet), _told(changed))
    if after:
        after |= {} if reason is None else {"reason": reason}
        action = _ACTIONS[changed.status] if "status" in after else "wallet.updated"
        audit.write(connection, caller, action, ("wallet", wallet_id), before=before, after=after)
    has_more_room = limit_micros > wallet.overdraft_limit_micros
    return changed, debts.wake(connection, wallet_id) if has_more_room else ()


def _told(wallet: Wallet) -> Mapping[str, Any]:
    """What the audit log tells of a wallet's terms."""
    return {
        "status": wallet.status,
        "package_id": wallet.package_id,
        "overdraft_limit_micros": wallet.overdraft_limit_micros,
    }


def _check_package(connection: sa.Connection, package_id: str | None) -> None:
    if package_id is not None and catalog.find_package(connection, package_id) is None:
        raise NotFound(f"Package not found: {package_id}", errors={"package_id": [f"Unknown package: {package_id}"]})
