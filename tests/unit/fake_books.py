"""The books of wallets with their ledgers and failed ends, in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

from app.domain.errors import WalletBusy
from app.domain.failed_ends import Filter
from app.domain.reasons import FailureReason
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow
from app.stores.postgres.ledger import LedgerEntry, NewEntry
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import FEATURE, NOW, TOKEN

T = TypeVar("T")


class FakeBooks(FakeBookKeeping):
    """Wallets with their ledgers and failed ends. A transaction that raises leaves all as it was."""

    LASTING = FakeBookKeeping.LASTING | {"_numbers"}

    def __init__(self, *wallets: Wallet) -> None:
        super().__init__()
        self.wallets = {wallet.id: wallet for wallet in wallets}
        self.ledger: list[LedgerEntry] = []
        self._numbers = itertools.count(1)
        self.failed: dict[UUID, SimpleNamespace] = {}
        self.chargebacks: set[str] = set()
        self.busy: set[WalletId] = set()
        self.turns: list[WalletId] = []

    def in_turn(self, wallet_id: WalletId, work: Callable[[Any], T]) -> T:
        self.turns.append(wallet_id)
        return self.transaction(work)

    def lock(self, wallet_id: WalletId) -> Wallet | None:
        if wallet_id in self.busy:
            raise WalletBusy
        return self.wallets.get(wallet_id)

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet:
        wallet = self.wallets[wallet_id]
        self.wallets[wallet_id] = replace(wallet, **changes, version=wallet.version + 1)
        return self.wallets[wallet_id]

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]:
        balance_micros, made = wallet.posted_micros, []
        for entry in entries:
            balance_micros += entry.amount_micros
            names = {field.name for field in fields(NewEntry)} & {field.name for field in fields(LedgerEntry)}
            values = dict.fromkeys((field.name for field in fields(LedgerEntry)), None)
            values |= {name: getattr(entry, name) for name in names}
            values |= {"id": len(self.ledger) + 1, "wallet_id": wallet.id, "balance_after_micros": balance_micros}
            made.append(LedgerEntry(**{**values, "created_at": NOW}))  # type: ignore[arg-type]
            self.ledger.append(made[-1])
        return made

    def find_posting(self, wallet_id: WalletId, reference: str) -> LedgerEntry | None:
        found = (e for e in self.ledger if e.wallet_id == wallet_id and e.reference == reference and e.end_id is None)
        return next(found, None)

    def is_chargeback(self, wallet_id: WalletId, reference: str) -> bool:
        return reference in self.chargebacks

    def find_write_off(self, end_id: UUID) -> LedgerEntry | None:
        return next((e for e in self.ledger if e.end_id == end_id and e.kind == "write_off"), None)

    def billed_of(self, end_ids: Collection[UUID]) -> Set[UUID]:
        return {e.end_id for e in self.ledger if e.end_id in end_ids and e.kind == "usage" and e.end_id is not None}

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]:
        wallet = self.wallets[wallet_id]
        is_able = wallet.debt_micros and wallet.posted_micros + wallet.overdraft_limit_micros >= wallet.debt_micros
        return [IndebtedWallet(wallet_id, wallet.debt_micros)] if is_able else []

    def fail(self, user_id: str = "alice", cost_micros: int = 11 * TOKEN, **values: Any) -> UUID:
        """A failed end, which is debt of its wallet."""
        end_id = UUID(int=next(self._numbers))
        end = {
            "id": end_id,
            "wallet_id": wallet_of(user_id),
            "user_id": user_id,
            "kind": "usage",
            "cost_micros": cost_micros,
            "base_cost_micros": cost_micros,
            "state": "retrying",
            "is_debt": True,
            "last_error": FailureReason.INSUFFICIENT_TOKENS,
            **values,
        }
        columns = {*(field.name for field in fields(NewEntry)), "idempotency_key", "accepted_at"}
        self.failed[end_id] = SimpleNamespace(**{**dict.fromkeys(columns, None), **end})
        return end_id

    def payer_of(self, end_id: UUID) -> WalletId | None:
        end = self.failed.get(end_id)
        return None if end is None else end.wallet_id

    def claim_failed(self, end_ids: Collection[UUID]) -> Sequence[Any]:
        return [end for end in self.failed.values() if end.id in end_ids and end.state != "accepted"]

    def delete_failed(self, end_ids: Collection[UUID]) -> None:
        for end_id in end_ids:
            del self.failed[end_id]

    def find_failed(self, end_id: UUID) -> FailedEndRow | None:
        end = self.failed.get(end_id)
        return None if end is None else _failed_row(end)

    def list_failed(self, matching: Filter, after_id: UUID, limit: int) -> Sequence[FailedEndRow]:
        found = [end for end in self.failed.values() if end.id > after_id and matching.state in (None, end.state)]
        return [_failed_row(end) for end in found][:limit]

    def count_failed(self, matching: Filter) -> int:
        return len(self.list_failed(matching, UUID(int=0), len(self.failed)))

    def replay(self, end_ids: Collection[UUID]) -> Sequence[FailedEndRow]:
        found = [self.failed[end_id] for end_id in end_ids if end_id in self.failed]
        if any(end.wallet_id in self.busy for end in found):
            raise WalletBusy
        for end in found:
            is_debt = end.last_error is FailureReason.INSUFFICIENT_TOKENS
            end.state = "retrying" if is_debt else "accepted"
        return [_failed_row(end) for end in found]


def _failed_row(end: SimpleNamespace) -> FailedEndRow:
    return FailedEndRow(
        end.id, end.wallet_id, end.user_id, end.kind, None, None, FEATURE, None, end.cost_micros, end.state, 0, None,
        end.last_error, NOW,
    )  # fmt: skip
