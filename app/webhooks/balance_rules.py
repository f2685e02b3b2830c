"""Setting when wallets are low and when top-ups are asked for, and looking after what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.audit import differing
from app.domain.balance_rules import AutoTopUp, AutoTopUpRule, LowBalance, LowBalanceRule, Owner, TopUpRequest
from app.domain.errors import NotFound, WalletNotFound
from app.domain.keys import SYSTEM, Caller
from app.domain.pages import NEWEST, Page, page
from app.domain.wallets import WalletId, wallet_of
from app.stores.postgres import audit, balance_rules, catalog, top_up_requests, wallets
from app.stores.postgres.top_up_requests import RequestFilter, Standing
from app.webhooks.events import NEWEST_EVENT

log = structlog.get_logger(__name__)

# Wallets in one transaction.
WALLETS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class WalletRules:
    """What holds for one wallet, of its own or its package's, and how its auto top-up stands."""

    low_balance: LowBalanceRule | None
    auto_top_up: AutoTopUpRule | None
    standing: Standing


class BalanceRules:
    def __init__(self, *, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def set_low_balance(self, owner: Owner, low_balance: LowBalance, caller: Caller = SYSTEM) -> LowBalanceRule:
        """Say when a wallet, or those with a package, are low. Raises WalletNotFound, NotFound or Unavailable."""

        def work(connection: sa.Connection) -> LowBalanceRule:
            _check(connection, owner)
            before = balance_rules.find_low_balance(connection, owner)
            rule = balance_rules.set_low_balance(connection, owner, low_balance)
            was = None if before is None else asdict(before.low_balance)
            _audit(connection, caller, "low_balance_rule.set", owner, before=was, after=asdict(low_balance))
            return rule

        return self._postgres.transaction(work)

    def remove_low_balance(self, owner: Owner, caller: Caller = SYSTEM) -> None:
        """Forget it. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> None:
            before = balance_rules.find_low_balance(connection, owner)
            if before is None:
                raise NotFound("Low balance rule not found")
            balance_rules.remove_low_balance(connection, owner)
            _audit(connection, caller, "low_balance_rule.removed", owner, before=asdict(before.low_balance), after=None)

        self._postgres.transaction(work)

    def low_balance_rules(self, limit: int, before_id: int = NEWEST) -> Page[LowBalanceRule, int]:
        """The last made first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: balance_rules.list_low_balance(connection, before_id, count), lambda rule: rule.id, limit
            )
        )

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None, caller: Caller = SYSTEM) -> AutoTopUpRule:
        """Say when top-ups are asked for; None: never. What holds for wallets that are below already is seen to within
        a minute. Raises WalletNotFound, NotFound or Unavailable.
        """

        def work(connection: sa.Connection) -> AutoTopUpRule:
            _check(connection, owner)
            before = balance_rules.find_auto_top_up(connection, owner)
            rule = balance_rules.set_auto_top_up(connection, owner, auto_top_up)
            was = None if before is None else _amounts(before.auto_top_up)
            _audit(connection, caller, "auto_top_up_rule.set", owner, before=was, after=_amounts(auto_top_up))
            return rule

        return self._postgres.transaction(work)

    def remove_auto_top_up(self, owner: Owner, caller: Caller = SYSTEM) -> None:
        """Forget it; a request that is open stays so. Raises NotFound or Unavailable."""

        def work(connection: sa.Connection) -> None:
            before = balance_rules.find_auto_top_up(connection, owner)
            if before is None:
                raise NotFound("Auto top-up rule not found")
            balance_rules.remove_auto_top_up(connection, owner)
            _audit(
                connection, caller, "auto_top_up_rule.removed", owner, before=_amounts(before.auto_top_up), after=None
            )

        self._postgres.transaction(work)

    def auto_top_up_rules(self, limit: int, before_id: int = NEWEST) -> Page[AutoTopUpRule, int]:
        """The last made first. Raises Unavailable."""
        return self._postgres.run(
            lambda connection: page(
                lambda count: balance_rules.list_auto_top_up(connection, before_id, count), lambda rule: rule.id, limit
            )
        )

    def of_wallet(self, user_id: str) -> WalletRules:
        """What holds for a wallet. Raises WalletNotFound or Unavailable."""
        wallet_id = wallet_of(user_id)

        def work(connection: sa.Connection) -> WalletRules:
            if not wallets.exists(connection, wallet_id):
                raise WalletNotFound
            return WalletRules(
                balance_rules.low_balance_for(connection, wallet_id),
                balance_rules.auto_top_up_for(connection, wallet_id),
                top_up_requests.standing(connection, wallet_id),
            )

        return self._postgres.run(work)


class TopUpRequests:
    """What was asked for. A top-up under a request's reference answers it, by a trigger."""

    def __init__(self, *, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def get(self, request_id: UUID) -> TopUpRequest:
        """Raises NotFound or Unavailable."""
        return self._postgres.run(lambda connection: _found(top_up_requests.find(connection, request_id)))

    def list(
        self, limit: int, before_id: str = NEWEST_EVENT, matching: RequestFilter | None = None
    ) -> Page[TopUpRequest, str]:
        """Newest first. Raises Unavailable."""
        before, wanted = UUID(before_id), matching or RequestFilter()
        return self._postgres.run(
            lambda connection: page(
                lambda count: top_up_requests.list_newest(connection, wanted, before, count),
                lambda request: str(request.id),
                limit,
            )
        )

    def decline(self, request_id: UUID, reason: str, caller: Caller = SYSTEM) -> TopUpRequest:
        """Say that no top-up will come; that of an answered or declined one changes nothing.

        Raises NotFound, WalletBusy or Unavailable.
        """
        wallet_id = self._postgres.run(lambda connection: top_up_requests.wallet_of_request(connection, request_id))
        if wallet_id is None:
            raise NotFound("Top-up request not found")

        def work(connection: sa.Connection) -> TopUpRequest:
            wallets.lock(connection, wallet_id)
            before = _found(top_up_requests.find(connection, request_id))
            top_up_requests.decline(connection, request_id, reason)
            after = _found(top_up_requests.find(connection, request_id))
            was, now = differing({"state": before.state}, {"state": after.state})
            if now:
                told = {**now, "request_id": request_id, "reason": reason}
                audit.write(
                    connection, caller, "top_up_request.declined", ("wallet", wallet_id), before=was, after=told
                )
            return after

        return self._postgres.wallet_transaction(wallet_id, work)

    def resume(self, user_id: str, caller: Caller = SYSTEM) -> Standing:
        """Forget failures, and ask again if the balance is still below.

        Raises WalletNotFound, WalletBusy or Unavailable.
        """
        wallet_id = wallet_of(user_id)

        def work(connection: sa.Connection) -> Standing:
            if wallets.lock(connection, wallet_id) is None:
                raise WalletNotFound
            before = top_up_requests.standing(connection, wallet_id)
            top_up_requests.resume(connection, wallet_id)
            top_up_requests.request(connection, [wallet_id])
            if before != Standing():
                told = {"failed_requests": before.failed_requests, "stopped_reason": before.stopped_reason}
                audit.write(connection, caller, "auto_top_up.resumed", ("wallet", wallet_id), before=told)
            return top_up_requests.standing(connection, wallet_id)

        return self._postgres.wallet_transaction(wallet_id, work)

    def look_after(self) -> None:
        """Give up requests whose time is over, and ask for wallets that want it and weren't asked for. Raises
        Unavailable.
        """
        self._in_parts("top_up_requests_expired", top_up_requests.expire)
        self._in_parts("top_ups_requested", top_up_requests.request_wanted)

    def _in_parts(self, message: str, work: Callable[[sa.Connection, int], Sequence[WalletId]]) -> None:
        while True:
            found = self._postgres.transaction(lambda connection: work(connection, WALLETS_AT_ONCE))
            if found:
                log.info(message, wallets=len(found))
            if len(found) < WALLETS_AT_ONCE:
                return


def _check(connection: sa.Connection, owner: Owner) -> None:
    if owner.user_id is not None and not wallets.exists(connection, wallet_of(owner.user_id)):
        raise WalletNotFound
    if owner.package_id is not None and catalog.find_package(connection, owner.package_id) is None:
        reasons = [f"Unknown package: {owner.package_id}"]
        raise NotFound(f"Package not found: {owner.package_id}", errors={"package_id": reasons})


def _audit(
    connection: sa.Connection,
    caller: Caller,
    action: str,
    owner: Owner,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    if before == after:
        return
    if owner.user_id is not None:
        subject: tuple[str, object] = ("wallet", wallet_of(owner.user_id))
    else:
        subject = ("package", owner.package_id)
    audit.write(connection, caller, action, subject, before=before, after=after)


def _amounts(auto_top_up: AutoTopUp | None) -> Mapping[str, Any]:
    return {} if auto_top_up is None else asdict(auto_top_up)


def _found(request: TopUpRequest | None) -> TopUpRequest:
    if request is None:
        raise NotFound("Top-up request not found")
    return request
