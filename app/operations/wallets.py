"""Opens, changes and lists wallets. Balances come from Postgres, holds from Redis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from app.access.ports import WalletBookKeeping
from app.billing.entries import Bell, Changes
from app.domain.audit import Change, differing
from app.domain.errors import AlreadyExists, BalanceOutOfRange, NotFound, Unavailable, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import FIRST_ID, Page, page
from app.domain.reports import WalletOrder, Wallets
from app.domain.wallets import Wallet, WalletBalance, WalletId, WalletStatus, wallet_of
from app.stores.postgres import wallet_lists
from app.stores.postgres.debts import IndebtedWallet

ALL_WALLETS = Wallets()
BY_USER = WalletOrder()

_ACTIONS = {
    WalletStatus.ACTIVE: "wallet.activated",
    WalletStatus.SUSPENDED: "wallet.suspended",
    WalletStatus.CLOSED: "wallet.closed",
}


class Books(Protocol):
    """Wallets' rows, in one transaction."""

    def has_package(self, package_id: str) -> bool: ...

    def open(
        self, wallet_id: WalletId, user_id: str, package_id: str | None, status: str, overdraft_limit_micros: int
    ) -> Wallet | None: ...

    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet: ...

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]: ...

    def balances(self, wallet_ids: Collection[WalletId]) -> Mapping[WalletId, WalletBalance]: ...

    def list_wallets(
        self, wanted: Wallets, order: WalletOrder, after: str, limit: int, among: Collection[WalletId] | None
    ) -> Sequence[WalletBalance]: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class OpenHolds(Protocol):
    """All methods raise Unavailable while Redis is away."""

    def held_micros(self, wallet_ids: Sequence[WalletId]) -> Sequence[int]: ...

    def holders(self) -> Collection[WalletId]:
        """The wallets that may have open holds; all others have none."""


class WalletAdmin:
    def __init__(self, *, books: WalletBookKeeping[Books], holds: OpenHolds, changes: Changes, doorbell: Bell) -> None:
        self._books = books
        self._holds = holds
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

        def work(books: Books) -> Wallet:
            _check_package(books, package_id)
            opened = books.open(wallet_of(user_id), user_id, package_id, status, overdraft_limit_micros)
            if opened is None:
                raise AlreadyExists("Wallet exists already")
            books.audit(caller, [Change("wallet.created", "wallet", opened.id, after=_told(opened))])
            return opened

        self._changes.announce(self._books.transaction(work))
        return self.get(user_id)

    def update(
        self, user_id: str, changes: Mapping[str, Any], caller: Caller = SYSTEM, *, reason: str | None = None
    ) -> WalletBalance:
        """Change any of status, package_id and overdraft_limit_micros.

        Raises WalletNotFound, NotFound (the package), WalletBusy, Unavailable, or BalanceOutOfRange if more is
        overdrawn than the new limit allows.
        """
        if changes:
            wallet_id = wallet_of(user_id)
            changed, woken = self._books.in_turn(
                wallet_id, lambda books: _update(books, wallet_id, changes, caller, reason)
            )
            self._changes.announce(changed)
            self._doorbell.collect(woken)
        return self.get(user_id)

    def get(self, user_id: str) -> WalletBalance:
        """Raises WalletNotFound or Unavailable."""
        wallet_id = wallet_of(user_id)
        found = self._books.read(lambda books: books.balances([wallet_id]))
        if wallet_id not in found:
            raise WalletNotFound
        [with_holds] = self._with_holds([found[wallet_id]])
        return with_holds

    def list(
        self, limit: int, after: str = FIRST_ID, wanted: Wallets = ALL_WALLETS, order: WalletOrder = BY_USER
    ) -> Page[WalletBalance, str]:
        """Raises Unavailable, also while Redis is away if the list is filtered by holds, which only Redis knows."""
        if wanted.with_holds is None:
            listed = self._page(limit, after, wanted, order)
            return Page(self._with_holds(listed.items), listed.next_key)
        may_hold = self._holds.holders()
        return self._sifted(limit, after, wanted, order, may_hold if wanted.with_holds else None)

    def _sifted(
        self, limit: int, after: str, wanted: Wallets, order: WalletOrder, among: Collection[WalletId] | None
    ) -> Page[WalletBalance, str]:
        """A page of the wallets with holds, or without, by looking up each wallet's holds in Redis."""
        found: list[WalletBalance] = []
        start: str | None = after
        while start is not None:
            looked_at = self._page(limit, start, wanted, order, among)
            for wallet in self._as_held(looked_at.items):
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
        return self._books.read(
            lambda books: page(
                lambda count: books.list_wallets(wanted, order, after, count, among),
                lambda found: wallet_lists.position_of(order, found),
                limit,
            )
        )

    def _with_holds(self, found: Sequence[WalletBalance]) -> Sequence[WalletBalance]:
        try:
            return self._as_held(found)
        except Unavailable:
            # While Redis, which keeps the holds, is away there are none.
            return found

    def _as_held(self, found: Sequence[WalletBalance]) -> Sequence[WalletBalance]:
        """The same balances with what holds reserve. Raises Unavailable while Redis is away."""
        held = self._holds.held_micros([wallet.wallet.id for wallet in found])
        return [
            replace(wallet, balance=replace(wallet.balance, held_micros=held_micros))
            for wallet, held_micros in zip(found, held, strict=True)
        ]


def check_position(order: WalletOrder, text: str) -> str:
    """Check a position in a list of this order, as `list` returns it. Raises ValueError."""
    return wallet_lists.check_position(order, text)


def _update(
    books: Books, wallet_id: WalletId, changes: Mapping[str, Any], caller: Caller, reason: str | None
) -> tuple[Wallet, Sequence[IndebtedWallet]]:
    wallet = books.lock(wallet_id)
    if wallet is None:
        raise WalletNotFound
    _check_package(books, changes.get("package_id"))
    limit_micros = changes.get("overdraft_limit_micros", wallet.overdraft_limit_micros)
    if wallet.posted_micros < -limit_micros:
        raise BalanceOutOfRange("More is overdrawn than the new limit allows")
    changed = books.update(wallet_id, changes)
    before, after = differing(_told(wallet), _told(changed))
    if after:
        after |= {} if reason is None else {"reason": reason}
        action = _ACTIONS[changed.status] if "status" in after else "wallet.updated"
        books.audit(caller, [Change(action, "wallet", wallet_id, before, after)])
    has_more_room = limit_micros > wallet.overdraft_limit_micros
    return changed, books.wake(wallet_id) if has_more_room else ()


def _told(wallet: Wallet) -> Mapping[str, Any]:
    """A wallet's terms as the audit log has them."""
    return {
        "status": wallet.status,
        "package_id": wallet.package_id,
        "overdraft_limit_micros": wallet.overdraft_limit_micros,
    }


def _check_package(books: Books, package_id: str | None) -> None:
    if package_id is not None and not books.has_package(package_id):
        raise NotFound(f"Package not found: {package_id}", errors={"package_id": [f"Unknown package: {package_id}"]})
