"""What one transaction sees and changes of balance rules, and of the top-ups that they ask for."""

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
    """What both need."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def standing(self, wallet_id: WalletId) -> Standing:
        return top_up_requests.standing(self._connection, wallet_id)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write down who did what with this transaction."""
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
        """The last made first."""
        return balance_rules.list_low_balance(self._connection, before_id, limit)

    def low_balance_for(self, wallet_id: WalletId) -> LowBalanceRule | None:
        """What holds for a wallet: its own, or its package's."""
        return balance_rules.low_balance_for(self._connection, wallet_id)

    def find_auto_top_up(self, owner: Owner) -> AutoTopUpRule | None:
        return balance_rules.find_auto_top_up(self._connection, owner)

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None) -> AutoTopUpRule:
        return balance_rules.set_auto_top_up(self._connection, owner, auto_top_up)

    def remove_auto_top_up(self, owner: Owner) -> None:
        balance_rules.remove_auto_top_up(self._connection, owner)

    def list_auto_top_up(self, before_id: int, limit: int) -> Sequence[AutoTopUpRule]:
        """The last made first."""
        return balance_rules.list_auto_top_up(self._connection, before_id, limit)

    def auto_top_up_for(self, wallet_id: WalletId) -> AutoTopUpRule | None:
        """The same of top-ups."""
        return balance_rules.auto_top_up_for(self._connection, wallet_id)


class TopUpRequestBooks(_Books):
    def lock(self, wallet_id: WalletId) -> Wallet | None:
        """Nobody else changes it, or what was asked for it, before this transaction ends."""
        return wallets.lock(self._connection, wallet_id)

    def wallet_of(self, request_id: UUID) -> WalletId | None:
        return top_up_requests.wallet_of_request(self._connection, request_id)

    def find(self, request_id: UUID) -> TopUpRequest | None:
        return top_up_requests.find(self._connection, request_id)

    def list_newest(self, wanted: RequestFilter, before_id: UUID, limit: int) -> Sequence[TopUpRequest]:
        return top_up_requests.list_newest(self._connection, wanted, before_id, limit)

    def decline(self, request_id: UUID, reason: str) -> None:
        """One that is open or unanswered; any other stays as it is. Its wallet has to be locked."""
        top_up_requests.decline(self._connection, request_id, reason)

    def forget_failures(self, wallet_id: WalletId) -> None:
        """Of a locked wallet."""
        top_up_requests.resume(self._connection, wallet_id)

    def request(self, wallet_id: WalletId) -> None:
        """Ask for a locked wallet's top-up, if it wants one."""
        top_up_requests.request(self._connection, [wallet_id])

    def expire(self, limit: int) -> Sequence[WalletId]:
        """Give up requests whose time is over, of so many wallets that nobody else has; which these were."""
        return top_up_requests.expire(self._connection, limit)

    def request_wanted(self, limit: int) -> Sequence[WalletId]:
        """Ask for wallets that want it and weren't asked for; those that were looked at."""
        return top_up_requests.request_wanted(self._connection, limit)
