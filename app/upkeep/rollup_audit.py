"""Compares the daily roll-ups with the ledger, day by day: yesterday and today, or all days that the ledger still has.

Wrong roll-ups are reported and, if that is asked for, rebuilt from the ledger. The ledger is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable, WalletBusy
from app.domain.reasons import DriftKind
from app.domain.wallets import WalletId
from app.stores.postgres import rollups as store
from app.stores.postgres import wallets
from app.stores.postgres.reconciliation import Drift
from app.stores.postgres.rollups import WrongRollUp

log = structlog.get_logger(__name__)

# Enough for a day of about ten million entries.
DAY_SECONDS_MAX = 100.0
# How many wrong roll-ups of a day are read, and rebuilt, at a time.
WRONG_PER_LOOK = 1_000


class RollUpAudit:
    def __init__(self, postgres: PostgresAccess) -> None:
        self._postgres = postgres

    def drifts(self, *, is_full: bool, repair: bool, on_step: Callable[[], None]) -> Iterator[Sequence[Drift]]:
        """The wrong roll-ups, day by day; `on_step` is called after each day. Raises Unavailable."""
        day = self._postgres.run(store.first_unarchived_day)
        if not is_full:
            day = max(day, self._postgres.run(store.today) - timedelta(days=1))
        while (found := self._next(day)) is not None:
            yield self._drifts_of(found, repair=repair)
            on_step()
            day = found + timedelta(days=1)

    def _next(self, since: date) -> date | None:
        return self._postgres.run(lambda connection: store.next_day(connection, since))

    def _drifts_of(self, day: date, *, repair: bool) -> list[Drift]:
        drifts: list[Drift] = []
        try:
            while found := self._wrong(day):
                repaired = self._rebuild(day, {wrong.wallet_id for wrong in found}) if repair else set()
                drifts += [_drift(wrong, repaired=wrong.wallet_id in repaired) for wrong in found]
                if not repaired or len(found) < WRONG_PER_LOOK:
                    break
        except (Unavailable, sa.exc.SQLAlchemyError) as error:
            # Raises Unavailable if Postgres itself is away, rather than only the last statement having failed.
            self._postgres.run(lambda connection: connection.execute(sa.text("SELECT 1")))
            log.exception("roll_ups_not_checked", day=day.isoformat())
            reason = type(error.__cause__ or error).__name__
            drifts.append(
                Drift(WalletId(""), DriftKind.UNCHECKED, 0, 0, f"roll-ups of {day} could not be read: {reason}")
            )
        return drifts

    def _wrong(self, day: date) -> list[WrongRollUp]:
        return self._postgres.transaction(
            lambda connection: store.wrong(connection, day, WRONG_PER_LOOK, DAY_SECONDS_MAX)
        )

    def _rebuild(self, day: date, wallet_ids: set[WalletId]) -> set[WalletId]:
        """Rebuild a day's roll-ups of these wallets. Returns those that were rebuilt: busy wallets are left out."""
        done = set()
        for wallet_id in sorted(wallet_ids):

            def work(connection: sa.Connection, wallet_id: WalletId = wallet_id) -> None:
                wallets.lock(connection, wallet_id)
                store.rebuild(connection, day, wallet_id)

            try:
                self._postgres.wallet_transaction(wallet_id, work)
            except WalletBusy:
                continue
            done.add(wallet_id)
        return done


def _drift(wrong: WrongRollUp, *, repaired: bool) -> Drift:
    of = ", ".join(filter(None, (wrong.user_id, wrong.feature_endpoint_id, wrong.model)))
    if wrong.price_id:
        of += f", price {wrong.price_id}"
    detail = f"the roll-up of {wrong.day} ({of}) is not the sum of its entries: "
    detail += f"{wrong.found_runs} runs of {wrong.ledger_runs}"
    return Drift(wrong.wallet_id, DriftKind.ROLL_UP, wrong.ledger_micros, wrong.found_micros, detail, repaired)
