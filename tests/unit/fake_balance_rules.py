"""The books of balance rules, and of the top-ups that they ask for, in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from app.domain.balance_rules import (
    PAUSE_AFTER_DECLINE_SECONDS,
    AutoTopUp,
    AutoTopUpRule,
    LowBalance,
    LowBalanceRule,
    Owner,
    RequestState,
    TopUpRequest,
)
from app.domain.errors import WalletBusy
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.top_up_requests import RequestFilter, Standing
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW, PACKAGE, TOKEN, row

T = TypeVar("T")


@dataclass
class Kept:
    """All that is in the books."""

    low_balance: dict[Owner, LowBalanceRule]
    auto_top_up: dict[Owner, AutoTopUpRule]
    requests: dict[UUID, TopUpRequest]
    standings: dict[WalletId, Standing]


class FakeBalanceRuleBooks(FakeBookKeeping):
    """Alice's wallet, and the package that it has. A transaction that raises leaves all as it was, and what changes
    what was asked for has to have locked its wallet.

    `steps` says how transactions ended, and in whose turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wallets: dict[WalletId, Wallet] = {wallet_of("alice"): row(wallet_of("alice"))}
        self.kept = Kept({}, {}, {}, {})
        self.busy: set[WalletId] = set()
        self.wanting: set[WalletId] = set()
        """Wallets that are below what their rule says."""
        self.expiring: list[WalletId] = []
        self._locked: set[WalletId] = set()

    def read(self, work: Callable[[Any], T]) -> T:
        self._locked.clear()
        return super().read(work)

    def transaction(self, work: Callable[[Any], T]) -> T:
        self._locked.clear()
        return super().transaction(work)

    def written(self) -> dict[str, Any]:
        return {**super().written(), "kept": deepcopy(self.kept)}

    def in_turn(self, wallet_id: WalletId, work: Callable[[Any], T]) -> T:
        self.steps.append(f"turn of {wallet_id}")
        return self.transaction(work)

    def has_wallet(self, wallet_id: WalletId) -> bool:
        return wallet_id in self.wallets

    def has_package(self, package_id: str) -> bool:
        return package_id == PACKAGE

    def lock(self, wallet_id: WalletId) -> Wallet | None:
        if wallet_id in self.busy:
            raise WalletBusy
        self._locked.add(wallet_id)
        return self.wallets.get(wallet_id)

    # When wallets are low.

    def find_low_balance(self, owner: Owner) -> LowBalanceRule | None:
        return self.kept.low_balance.get(owner)

    def set_low_balance(self, owner: Owner, low_balance: LowBalance) -> LowBalanceRule:
        known = self.kept.low_balance.get(owner)
        number = len(self.kept.low_balance) + 1 if known is None else known.id
        self.kept.low_balance[owner] = LowBalanceRule(number, owner, low_balance, NOW)
        return self.kept.low_balance[owner]

    def remove_low_balance(self, owner: Owner) -> None:
        del self.kept.low_balance[owner]

    def list_low_balance(self, before_id: int, limit: int) -> Sequence[LowBalanceRule]:
        newest = sorted(self.kept.low_balance.values(), key=lambda rule: -rule.id)
        return [rule for rule in newest if rule.id < before_id][:limit]

    def low_balance_for(self, wallet_id: WalletId) -> LowBalanceRule | None:
        own, theirs = Owner(user_id=wallet_id), Owner(package_id=self.wallets[wallet_id].package_id)
        return self.find_low_balance(own) or self.find_low_balance(theirs)

    # When top-ups are asked for.

    def find_auto_top_up(self, owner: Owner) -> AutoTopUpRule | None:
        return self.kept.auto_top_up.get(owner)

    def set_auto_top_up(self, owner: Owner, auto_top_up: AutoTopUp | None) -> AutoTopUpRule:
        known = self.kept.auto_top_up.get(owner)
        number = len(self.kept.auto_top_up) + 1 if known is None else known.id
        self.kept.auto_top_up[owner] = AutoTopUpRule(number, owner, auto_top_up, NOW)
        return self.kept.auto_top_up[owner]

    def remove_auto_top_up(self, owner: Owner) -> None:
        del self.kept.auto_top_up[owner]

    def list_auto_top_up(self, before_id: int, limit: int) -> Sequence[AutoTopUpRule]:
        newest = sorted(self.kept.auto_top_up.values(), key=lambda rule: -rule.id)
        return [rule for rule in newest if rule.id < before_id][:limit]

    def auto_top_up_for(self, wallet_id: WalletId) -> AutoTopUpRule | None:
        own, theirs = Owner(user_id=wallet_id), Owner(package_id=self.wallets[wallet_id].package_id)
        return self.find_auto_top_up(own) or self.find_auto_top_up(theirs)

    # What was asked for.

    def ask(self, user_id: str = "alice", state: RequestState = RequestState.OPEN) -> UUID:
        number = len(self.kept.requests) + 1
        end = NOW + timedelta(days=1)
        request = TopUpRequest(
            UUID(int=number), user_id, f"auto-{number}", TOKEN, state, None, None, NOW, end, closed_at=None
        )
        self.kept.requests[request.id] = request
        return request.id

    def wallet_of(self, request_id: UUID) -> WalletId | None:
        found = self.kept.requests.get(request_id)
        return None if found is None else wallet_of(found.user_id)

    def find(self, request_id: UUID) -> TopUpRequest | None:
        return self.kept.requests.get(request_id)

    def list_newest(self, wanted: RequestFilter, before_id: UUID, limit: int) -> Sequence[TopUpRequest]:
        newest = sorted(self.kept.requests.values(), key=lambda request: request.id, reverse=True)
        return [each for each in newest if each.id < before_id and wanted.state in (None, each.state)][:limit]

    def decline(self, request_id: UUID, reason: str) -> None:
        found = self.kept.requests[request_id]
        wallet_id = wallet_of(found.user_id)
        assert wallet_id in self._locked
        if found.state in (RequestState.ANSWERED, RequestState.DECLINED):
            return
        self.kept.requests[request_id] = replace(found, state=RequestState.DECLINED, reason=reason, closed_at=NOW)
        if found.state is RequestState.OPEN:
            before, end = self.standing(wallet_id), NOW + timedelta(seconds=PAUSE_AFTER_DECLINE_SECONDS)
            self.kept.standings[wallet_id] = replace(
                before, failed_requests=before.failed_requests + 1, next_request_at=end
            )

    def standing(self, wallet_id: WalletId) -> Standing:
        return self.kept.standings.get(wallet_id, Standing())

    def forget_failures(self, wallet_id: WalletId) -> None:
        assert wallet_id in self._locked
        self.kept.standings.pop(wallet_id, None)

    def request(self, wallet_id: WalletId) -> None:
        """One at a time, and none of a wallet that has to wait or is stopped."""
        assert wallet_id in self._locked
        is_open = any(each.user_id == wallet_id for each in self.list_newest(OPEN, UUID(int=2**128 - 1), 1))
        if wallet_id in self.wanting and not is_open and self.standing(wallet_id) == Standing():
            self.ask(wallet_id)

    def expire(self, limit: int) -> Sequence[WalletId]:
        found, self.expiring = self.expiring[:limit], self.expiring[limit:]
        self.steps.append(f"expires {len(found)}")
        return found

    def request_wanted(self, limit: int) -> Sequence[WalletId]:
        found = sorted(self.wanting)[:limit]
        self.wanting -= set(found)
        self.steps.append(f"asks for {len(found)}")
        return found


OPEN = RequestFilter(state=RequestState.OPEN)
