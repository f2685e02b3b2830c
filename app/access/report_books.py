"""Books for wallets' statements, and for samples, within one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa

from app.domain.rates import RateCard
from app.domain.reports import Entries
from app.domain.wallets import WalletId
from app.stores.postgres import archives, corrections, prices, samples, statements
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.samples import Sample
from app.stores.postgres.statements import DayBalance, Span

# A sample reads all wallets and the inbox.
SAMPLE_SECONDS_MAX = 30.0


class StatementBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def now(self) -> datetime:
        return archives.now(self._connection)

    def archived_until(self) -> date | None:
        return archives.archived_until(self._connection)

    def span(self, wallet_id: WalletId, since: datetime | None, until: datetime | None) -> Span | None:
        return statements.span(self._connection, wallet_id, since, until)

    def list_entries(self, within: Span, wanted: Entries, after_id: int, limit: int) -> Sequence[LedgerEntry]:
        return statements.list_entries(self._connection, within, wanted, after_id, limit)

    def cards(self, numbers: Collection[int]) -> Mapping[int | None, RateCard]:
        return prices.by_ids(self._connection, numbers)

    def costs_by_now(self, end_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Current costs of those of these ends that were corrected."""
        return corrections.costs_by_now(self._connection, end_ids)

    def balances_by_day(self, wallet_id: WalletId, since: date, until: date) -> Sequence[DayBalance]:
        return statements.balances_by_day(self._connection, wallet_id, since, until)


class SampleBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def minute_to_take(self) -> datetime | None:
        return samples.to_take(self._connection)

    def take(self, minute: datetime, until: datetime, held_micros: int | None) -> bool:
        return samples.take(self._connection, minute, until, held_micros, SAMPLE_SECONDS_MAX)

    def between(
        self,
        since: datetime | None,
        until: datetime | None,
        *,
        before: datetime | None = None,
        limit: int | None = None,
    ) -> Sequence[Sample]:
        return samples.between(self._connection, since, until, before=before, limit=limit)

    def thinned(self, since: datetime, every_seconds: int) -> Sequence[Sample]:
        return samples.thinned(self._connection, since, every_seconds)
