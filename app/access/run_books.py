"""Wallets' books together with runs and their corrections, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.access.books import Books
from app.domain.catalog import FeatureEndpoint
from app.domain.corrections import Figures
from app.domain.pricing import ProfitRule
from app.domain.rates import RateCard
from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.domain.usage import Usage
from app.domain.wallets import WalletId
from app.stores.postgres import catalog, corrections, inbox, ledger, prices, repricings, settlement
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.repricings import RepricedEnd, Repricing, RepricingGroup, RepricingSums
from app.stores.postgres.settlement import RetryPolicy, SettledWallet


class RunBooks(Books):
    def __init__(self, connection: sa.Connection, policy: RetryPolicy) -> None:
        super().__init__(connection)
        self._policy = policy

    def known_ends(self, idempotency_keys: Collection[str], process_ids: Collection[str]) -> Sequence[KnownEnd]:
        return inbox.find_keys(self._connection, idempotency_keys, process_ids)

    def wallet_of_run(self, end_id: UUID) -> WalletId | None:
        return corrections.wallet_of(self._connection, end_id)

    def is_charge(self, end_id: UUID) -> bool:
        return corrections.is_charge(self._connection, end_id)

    def find_run(self, end_id: UUID) -> Run | None:
        return corrections.find_run(self._connection, end_id)

    def taken(self, end_id: UUID) -> Figures:
        return corrections.taken(self._connection, end_id)

    def open_parts(self, end_id: UUID) -> Sequence[Any]:
        return corrections.open_parts(self._connection, end_id)

    def lock_open_parts(self, end_id: UUID) -> Sequence[Any]:
        return corrections.lock_open_parts(self._connection, end_id)

    def settle(self, end_ids: Sequence[UUID]) -> SettledWallet:
        """Settle ends and charges of the one wallet that the caller has locked."""
        [settled] = settlement.settle(self._connection, end_ids, self._policy)
        return settled

    def add_charge(self, **values: Any) -> None:
        corrections.insert_charge(self._connection, **values)

    def find_billed(self, end_id: UUID) -> list[LedgerEntry]:
        return ledger.find_billed(self._connection, end_id)

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]:
        return ledger.find_entries(self._connection, numbers)

    def find_correction(self, end_id: UUID, reference: str) -> Correction | None:
        return corrections.find(self._connection, end_id, reference)

    def find_chargeback(self, wallet_id: WalletId, reference: str) -> Correction | None:
        return corrections.find_chargeback(self._connection, wallet_id, reference)

    def last_correction(self, end_id: UUID) -> Correction | None:
        return corrections.find_last(self._connection, end_id)

    def corrections_of(self, end_id: UUID) -> Sequence[Correction]:
        return corrections.list_of_end(self._connection, end_id)

    def keep(self, usage: Usage | None, **values: Any) -> Correction:
        return corrections.insert(self._connection, usage, **values)

    def feature(self, feature_endpoint_id: str) -> FeatureEndpoint | None:
        return catalog.find_feature(self._connection, feature_endpoint_id)

    def profit_rule(self, number: int) -> ProfitRule | None:
        return catalog.find_rule(self._connection, number)

    def card(self, number: int) -> RateCard:
        """The rate card with this id. It exists, because something was billed by it."""
        return prices.by_ids(self._connection, [number])[number]


class RepricingBooks(RunBooks):
    def is_price(self, number: int) -> bool:
        return number in prices.by_ids(self._connection, [number])

    def create(self, filter: RepricingFilter, **values: Any) -> Repricing:
        return repricings.insert(self._connection, filter, **values)

    def find(self, number: int) -> Repricing | None:
        return repricings.find(self._connection, number)

    def lock_repricing(self, number: int) -> Repricing | None:
        return repricings.lock(self._connection, number)

    def list_newest(self, before_id: int, limit: int) -> Sequence[Repricing]:
        return repricings.list_newest(self._connection, before_id, limit)

    def unfinished(self) -> Sequence[int]:
        return repricings.unfinished(self._connection)

    def set_state(self, number: int, before: RepricingState, state: RepricingState) -> bool:
        return repricings.set_state(self._connection, number, before, state)

    def sums(self, number: int) -> RepricingSums:
        return repricings.sums(self._connection, number)

    def groups(self, number: int, limit: int) -> Sequence[RepricingGroup]:
        return repricings.groups(self._connection, number, limit)

    def next_ends(self, repricing: Repricing, limit: int, seconds: float) -> Sequence[UUID]:
        return repricings.next_ends(self._connection, repricing, limit, seconds)

    def add_ends(self, number: int, ends: Sequence[RepricedEnd], up_to: UUID) -> None:
        repricings.add_ends(self._connection, number, ends, up_to)

    def open_ends(self, number: int, after_id: UUID, limit: int) -> Sequence[RepricedEnd]:
        return repricings.open_ends(self._connection, number, after_id, limit)

    def claim_run(self, number: int, end_id: UUID) -> bool:
        return repricings.claim(self._connection, number, end_id)

    def set_outcome(self, number: int, end_id: UUID, outcome: RepricingOutcome | str) -> None:
        repricings.set_outcome(self._connection, number, end_id, outcome)
