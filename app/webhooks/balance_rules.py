"""Balance rules: when a wallet counts as low, and when a top-up is requested for it; and such top-up requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from app.access.ports import BookKeeping, WalletBookKeeping
from app.domain.audit import Change, differing
from app.domain.balance_rules import AutoTopUp, AutoTopUpRule, LowBalance, LowBalanceRule, Owner, TopUpRequest
from app.domain.errors import NotFound, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.top_up_requests import RequestFilter, Standing
from app.webhooks.events import NEWEST_EVENT

log = structlog.get_logger(__name__)

# How many wallets one transaction looks after.
WALLETS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class WalletRules:
    """The rules that apply to one wallet, its own or its package's, and the state of its auto top-up."""

    low_balance: LowBalanceRule | None
    auto_top_up: AutoTopUpRule | None
    standing: Standing


class Books(Protocol):
    """Balance rules, in one transaction."""

    def has_wallet(self, wallet_id: WalletId) -> bool: ...

    def has_package(self, package_id: str) -> bool: ...

    def find_low_balance(self, owner: Owner) -> LowBalanceRule | None: ...

    def set_low_balance(self, owner: Owner, low_balance: LowBalance) -> LowBalanceRule: ...

    def remove_low_balance(self, owner: Owner) -> None: ...

    def list_low_balance(self, before_id: int, limit: int) -> Sequence[LowBalanceRule]: ...

    def low_balance_for(self, wallet_id: WalletId) -> LowBalanceRule | None:
        """The rule that applies to a wallet: its own, or its package's."""

    def find_auto_top_up(self, owner: Owner) -> AutoTopUpRule | None: ...

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None) -> AutoTopUpRule: ...

    def remove_auto_top_up(self, owner: Owner) -> None: ...

    def list_auto_top_up(self, before_id: int, limit: int) -> Sequence[AutoTopUpRule]: ...

    def auto_top_up_for(self, wallet_id: WalletId) -> AutoTopUpRule | None: ...

    def standing(self, wallet_id: WalletId) -> Standing: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class Requests(Protocol):
    """Top-up requests, in one transaction. Changing those of a wallet needs the wallet's lock."""

    def lock(self, wallet_id: WalletId) -> Wallet | None: ...

    def wallet_of(self, request_id: UUID) -> WalletId | None: ...

    def find(self, request_id: UUID) -> TopUpRequest | None: ...

    def list_newest(self, wanted: RequestFilter, before_id: UUID, limit: int) -> Sequence[TopUpRequest]: ...

    def decline(self, request_id: UUID, reason: str) -> None:
        """Decline a request that is open or unanswered; any other stays as it is."""

    def standing(self, wallet_id: WalletId) -> Standing: ...

    def forget_failures(self, wallet_id: WalletId) -> None: ...

    def request(self, wallet_id: WalletId) -> None:
        """Request a top-up for a wallet, if its rule and balance call for one."""

    def expire(self, limit: int) -> Sequence[WalletId]:
        """Expire overdue requests of up to `limit` wallets that aren't locked. Returns these wallets."""

    def request_wanted(self, limit: int) -> Sequence[WalletId]:
        """Request top-ups for wallets that need one without having a request. Returns the wallets that were checked."""

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class BalanceRules:
    def __init__(self, *, books: BookKeeping[Books]) -> None:
        self._books = books

    def set_low_balance(self, owner: Owner, low_balance: LowBalance, caller: Caller = SYSTEM) -> LowBalanceRule:
        """Set when a wallet, or a package's wallets, count as low. Raises WalletNotFound, NotFound or Unavailable."""

        def work(books: Books) -> LowBalanceRule:
            _check(books, owner)
            before = books.find_low_balance(owner)
            rule = books.set_low_balance(owner, low_balance)
            was = None if before is None else asdict(before.low_balance)
            _audit(books, caller, "low_balance_rule.set", owner, before=was, after=asdict(low_balance))
            return rule

        return self._books.transaction(work)

    def remove_low_balance(self, owner: Owner, caller: Caller = SYSTEM) -> None:
        """Remove a low balance rule. Raises NotFound or Unavailable."""

        def work(books: Books) -> None:
            before = books.find_low_balance(owner)
            if before is None:
                raise NotFound("Low balance rule not found")
            books.remove_low_balance(owner)
            _audit(books, caller, "low_balance_rule.removed", owner, before=asdict(before.low_balance), after=None)

        self._books.transaction(work)

    def low_balance_rules(self, limit: int, before_id: int = NEWEST) -> Page[LowBalanceRule, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_low_balance(before_id, count), lambda rule: rule.id, limit)
        )

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None, caller: Caller = SYSTEM) -> AutoTopUpRule:
        """Set when top-ups are requested; None: never. For wallets that are below the limit already, a top-up is
        requested within a minute. Raises WalletNotFound, NotFound or Unavailable.
        """

        def work(books: Books) -> AutoTopUpRule:
            _check(books, owner)
            before = books.find_auto_top_up(owner)
            rule = books.set_auto_top_up(owner, auto_top_up)
            was = None if before is None else _amounts(before.auto_top_up)
            _audit(books, caller, "auto_top_up_rule.set", owner, before=was, after=_amounts(auto_top_up))
            return rule

        return self._books.transaction(work)

    def remove_auto_top_up(self, owner: Owner, caller: Caller = SYSTEM) -> None:
        """Remove an auto top-up rule. An open request stays open. Raises NotFound or Unavailable."""

        def work(books: Books) -> None:
            before = books.find_auto_top_up(owner)
            if before is None:
                raise NotFound("Auto top-up rule not found")
            books.remove_auto_top_up(owner)
            _audit(books, caller, "auto_top_up_rule.removed", owner, before=_amounts(before.auto_top_up), after=None)

        self._books.transaction(work)

    def auto_top_up_rules(self, limit: int, before_id: int = NEWEST) -> Page[AutoTopUpRule, int]:
        """Newest first. Raises Unavailable."""
        return self._books.read(
            lambda books: page(lambda count: books.list_auto_top_up(before_id, count), lambda rule: rule.id, limit)
        )

    def of_wallet(self, user_id: str) -> WalletRules:
        """The rules that apply to a wallet. Raises WalletNotFound or Unavailable."""
        wallet_id = wallet_of(user_id)

        def work(books: Books) -> WalletRules:
            if not books.has_wallet(wallet_id):
                raise WalletNotFound
            return WalletRules(
                books.low_balance_for(wallet_id),
                books.auto_top_up_for(wallet_id),
                books.standing(wallet_id),
            )

        return self._books.read(work)


class TopUpRequests:
    """Top-up requests. When a top-up is posted under a request's reference, a trigger marks the request as answered."""

    def __init__(self, *, books: WalletBookKeeping[Requests]) -> None:
        self._books = books

    def get(self, request_id: UUID) -> TopUpRequest:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _found(books.find(request_id)))

    def list(
        self, limit: int, before_id: str = NEWEST_EVENT, matching: RequestFilter | None = None
    ) -> Page[TopUpRequest, str]:
        """Newest first. Raises Unavailable."""
        before, wanted = UUID(before_id), matching or RequestFilter()
        return self._books.read(
            lambda books: page(
                lambda count: books.list_newest(wanted, before, count),
                lambda request: str(request.id),
                limit,
            )
        )

    def decline(self, request_id: UUID, reason: str, caller: Caller = SYSTEM) -> TopUpRequest:
        """Decline a request: no top-up will come. Changes nothing if it is answered or declined already.

        Raises NotFound, WalletBusy or Unavailable.
        """
        wallet_id = self._books.read(lambda books: books.wallet_of(request_id))
        if wallet_id is None:
            raise NotFound("Top-up request not found")

        def work(books: Requests) -> TopUpRequest:
            books.lock(wallet_id)
            before = _found(books.find(request_id))
            books.decline(request_id, reason)
            after = _found(books.find(request_id))
            was, now = differing({"state": before.state}, {"state": after.state})
            if now:
                told = {**now, "request_id": request_id, "reason": reason}
                books.audit(caller, [Change("top_up_request.declined", "wallet", wallet_id, was, told)])
            return after

        return self._books.in_turn(wallet_id, work)

    def resume(self, user_id: str, caller: Caller = SYSTEM) -> Standing:
        """Forget a wallet's failed requests, and request a top-up again if its balance is still below the limit.

        Raises WalletNotFound, WalletBusy or Unavailable.
        """
        wallet_id = wallet_of(user_id)

        def work(books: Requests) -> Standing:
            if books.lock(wallet_id) is None:
                raise WalletNotFound
            before = books.standing(wallet_id)
            books.forget_failures(wallet_id)
            books.request(wallet_id)
            if before != Standing():
                told = {"failed_requests": before.failed_requests, "stopped_reason": before.stopped_reason}
                books.audit(caller, [Change("auto_top_up.resumed", "wallet", wallet_id, before=told)])
            return books.standing(wallet_id)

        return self._books.in_turn(wallet_id, work)

    def look_after(self) -> None:
        """Expire overdue requests, and request top-ups for wallets that need one without having a request.

        Raises Unavailable.
        """
        self._in_parts("top_up_requests_expired", lambda books: books.expire(WALLETS_AT_ONCE))
        self._in_parts("top_ups_requested", lambda books: books.request_wanted(WALLETS_AT_ONCE))

    def _in_parts(self, message: str, work: Callable[[Requests], Sequence[WalletId]]) -> None:
        while True:
            found = self._books.transaction(work)
            if found:
                log.info(message, wallets=len(found))
            if len(found) < WALLETS_AT_ONCE:
                return


def _check(books: Books, owner: Owner) -> None:
    if owner.user_id is not None and not books.has_wallet(wallet_of(owner.user_id)):
        raise WalletNotFound
    if owner.package_id is not None and not books.has_package(owner.package_id):
        reasons = [f"Unknown package: {owner.package_id}"]
        raise NotFound(f"Package not found: {owner.package_id}", errors={"package_id": reasons})


def _audit(
    books: Books,
    caller: Caller,
    action: str,
    owner: Owner,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    if before == after:
        return
    kind = "package" if owner.user_id is None else "wallet"
    subject_id = owner.package_id if owner.user_id is None else wallet_of(owner.user_id)
    books.audit(caller, [Change(action, kind, str(subject_id), before, after)])


def _amounts(auto_top_up: AutoTopUp | None) -> Mapping[str, Any]:
    return {} if auto_top_up is None else asdict(auto_top_up)


def _found(request: TopUpRequest | None) -> TopUpRequest:
    if request is None:
        raise NotFound("Top-up request not found")
    return request
