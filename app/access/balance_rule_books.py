"""Books for balance rules and the top-ups that they request, within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.balance_rules import AutoTopUp, AutoTopUpRule, LowBalance, LowBalanceRule, Owner, TopUpRequest
from app.domain.keys import Caller
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres import audit, balance_rules, catalog, top_up_requests, wallets
from app.stores.postgres.top_up_requests import RequestFilter, Standing


class _Books:
    """Common to both books."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def standing(self, wallet_id: WalletId) -> Standing:
        return top_up_requests.standing(self._connection, wallet_id)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)


class BalanceRuleBooks(_Books):
    def has_wallet(self, wallet_id: WalletId) -> bool:
        return wallets.exists(self._connection, wallet_id)

    def has_package(self, package_id: str) -> bool:
        return catalog.find_package(self._connection, package_id) is not None

    def find_low_balance(self, owner: Owner) -> LowBalanceRule | None:
        return balance_rules.find_low_balance(self._connection, owner)

    def set_low_balance(self, owner: Owner, low_balance: LowBalance) -> LowBalanceRule:
        return balance_rules.set_low_balance(self._connection, owner, low_balance)

    def remove_low_balance(self, owner: Owner) -> None:
        balance_rules.remove_low_balance(self._connection, owner)

    def list_low_balance(self, before_id: int, limit: int) -> Sequence[LowBalanceRule]:
        """Newest first."""
        return balance_rules.list_low_balance(self._connection, before_id, limit)

    def low_balance_for(self, wallet_id: WalletId) -> LowBalanceRule | None:
        """The rule in force for a wallet: its own, or else its package's."""
        return balance_rules.low_balance_for(self._connection, wallet_id)

    def find_auto_top_up(self, owner: Owner) -> AutoTopUpRule | None:
        return balance_rules.find_auto_top_up(self._connection, owner)

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None) -> AutoTopUpRule:
        return balance_rules.set_auto_top_up(self._connection, owner, auto_top_up)

    def remove_auto_top_up(self, owner: Owner) -> None:
        balance_rules.remove_auto_top_up(self._connection, owner)

    def list_auto_top_up(self, before_id: int, limit: int) -> Sequence[AutoTopUpRule]:
        """Newest first."""
        return balance_rules.list_auto_top_up(self._connection, before_id, limit)

    def auto_top_up_for(self, wallet_id: WalletId) -> AutoTopUpRule | None:
        """The rule in force for a wallet: its own, or else its package's."""
        return balance_rules.auto_top_up_for(self._connection, wallet_id)


class TopUpRequestBooks(_Books):
    def lock(self, wallet_id: WalletId) -> Wallet | None:
        """Lock the wallet until this transaction ends, so that neither it nor its requests change meanwhile."""
        return wallets.lock(self._connection, wallet_id)

    def wallet_of(self, request_id: UUID) -> WalletId | None:
        return top_up_requests.wallet_of_request(self._connection, request_id)

    def find(self, request_id: UUID) -> TopUpRequest | None:
        return top_up_requests.find(self._connection, request_id)

    def list_newest(self, wanted: RequestFilter, before_id: UUID, limit: int) -> Sequence[TopUpRequest]:
        return top_up_requests.list_newest(self._connection, wanted, before_id, limit)

    def decline(self, request_id: UUID, reason: str) -> None:
        """Decline a request that is open or unanswered; any other stays as it is. The caller has locked its wallet."""
        top_up_requests.decline(self._connection, request_id, reason)

    def forget_failures(self, wallet_id: WalletId) -> None:
        """Reset the failure count of a wallet that the caller has locked."""
        top_up_requests.resume(self._connection, wallet_id)

    def request(self, wallet_id: WalletId) -> None:
        """Request a top-up for a locked wallet, if its rule wants one."""
        top_up_requests.request(self._connection, [wallet_id])

    def expire(self, limit: int) -> Sequence[WalletId]:
        """Expire overdue requests of up to `limit` wallets that no other transaction has locked. Returns those
        wallets.
        """
        return top_up_requests.expire(self._connection, limit)

    def request_wanted(self, limit: int) -> Sequence[WalletId]:
        """Request top-ups for up to `limit` wallets whose rule wants one and that have no open request. Returns the
        wallets that were looked at.
        """
        return top_up_requests.request_wanted(self._connection, limit)
