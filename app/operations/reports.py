"""Reports over all wallets: usage and revenue, totals, the whole ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from app.access.open_holds import OpenHolds
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable, WalletNotFound
from app.domain.pages import FIRST_ID, NEWEST, Page, page
from app.domain.rates import RateCard
from app.domain.reports import Entries, Usage
from app.domain.wallets import wallet_of
from app.stores.postgres import ledger_lists, prices, totals, usage, wallets
from app.stores.postgres.ledger import LedgerEntry
from app.stores.postgres.totals import PostgresTotals
from app.stores.postgres.usage import UsageRow

# Longer than other statements may take: reports read much, but are rare.
REPORT_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Totals:
    """`held_micros` is None while Redis, which keeps the holds, is away."""

    postgres: PostgresTotals
    held_micros: int | None


@dataclass(frozen=True, slots=True)
class PricedEntry:
    """A ledger entry. `card` is the rate card, if it is a run billed by one."""

    entry: LedgerEntry
    card: RateCard | None


class ReportService:
    def __init__(self, *, postgres: PostgresAccess, holds: OpenHolds) -> None:
        self._postgres = postgres
        self._holds = holds

    def usage(self, wanted: Usage, limit: int, after: str = FIRST_ID) -> Page[UsageRow, str]:
        """Usage and revenue in the order of the groups. Raises Unavailable."""
        key = None if after == FIRST_ID else usage.key_from(wanted.groups, json.loads(after))
        return self._postgres.transaction(
            lambda connection: page(
                lambda count: usage.report(connection, wanted, key, count, REPORT_SECONDS_MAX), _key_text, limit
            )
        )

    def totals(self) -> Totals:
        """What all wallets together have, owe and hold. Raises Unavailable."""
        found = self._postgres.transaction(lambda connection: totals.of_postgres(connection, REPORT_SECONDS_MAX))
        return Totals(found, self.held_micros())

    def transactions(
        self, wanted: Entries, limit: int, before_id: int = NEWEST, *, user_id: str | None = None
    ) -> Page[PricedEntry, int]:
        """Ledger entries, newest first: those of one user's wallet, or all. Raises WalletNotFound or Unavailable."""

        def work(connection: sa.Connection) -> Page[PricedEntry, int]:
            wallet_id = None if user_id is None else wallet_of(user_id)
            if wallet_id is not None and not wallets.exists(connection, wallet_id):
                raise WalletNotFound
            found = page(
                lambda count: ledger_lists.list_entries(connection, wanted, wallet_id, before_id, count),
                lambda entry: entry.id,
                limit,
            )
            cards = prices.by_ids(connection, {entry.price_id for entry in found.items if entry.price_id is not None})
            return Page([PricedEntry(entry, cards.get(entry.price_id)) for entry in found.items], found.next_key)

        return self._postgres.run(work)

    def held_micros(self) -> int | None:
        """What all holds reserve now. None while Redis, which keeps them, is away."""
        try:
            return self._holds.total_micros()
        except Unavailable:
            return None


def check_key(wanted: Usage, text: str) -> str:
    """Check a key of these groups, given as text. Raises ValueError."""
    usage.key_from(wanted.groups, json.loads(text))
    return text


def _key_text(row: UsageRow) -> str:
    return json.dumps([value if isinstance(value, (int, str)) else value.isoformat() for value in row.key])
