"""Compares each wallet's posted balance with its ledger, from where the last audit ended.

The wallets of a page are read together, a few entries of each. A wallet with more entries is then read alone, slice by
slice, so that no statement runs for long. A wallet that can't be read is reported as unchecked, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.domain.pages import FIRST_ID
from app.domain.reasons import DriftKind
from app.domain.wallets import WalletId
from app.stores.postgres import ledger_audit as store
from app.stores.postgres.ledger_audit import ChainBreak, Position, Slice
from app.stores.postgres.reconciliation import Drift

log = structlog.get_logger(__name__)

WALLETS_PER_PAGE = 500
# Entries per statement: of each wallet of a page, and of a wallet that is read alone.
ENTRIES_SHARED = 1_000
ENTRIES_ALONE = 50_000
# A slice that can't be read is tried again in smaller ones. One that isn't larger than this is given up.
ENTRIES_LEAST = 50
SLICE_SECONDS_MAX = 30.0
ORPHANS_MAX = 1_000


class _Walk:
    """The progress of one wallet's audit through its entries."""

    def __init__(self, start: Position) -> None:
        self.position = start
        self.right_up_to = start
        self._sum_micros = start.balance_micros
        self._breaks = 0
        self._first_break: ChainBreak | None = None

    def take(self, found: Slice) -> None:
        self._breaks += found.breaks
        self._first_break = self._first_break or found.first_break
        self._sum_micros += found.amount_micros
        # Continue from the balance of the last entry, even if it is wrong, so that one wrong entry counts once.
        self.position = found.end
        if self._breaks == 0 and self._sum_micros == found.end.balance_micros:
            self.right_up_to = found.end

    @property
    def is_right(self) -> bool:
        return self.right_up_to == self.position

    def drifts(self, last: Slice) -> list[Drift]:
        """What is wrong with the wallet, once its whole ledger is read. `last` has the wallet as of the last slice."""
        drifts = []
        wallet_id, posted_micros = last.wallet_id, last.posted_micros
        if posted_micros != self._sum_micros:
            detail = "the posted balance is not the sum of the ledger"
            drifts.append(Drift(wallet_id, DriftKind.LEDGER_SUM, self._sum_micros, posted_micros, detail))
        if (at := self._first_break) is not None:
            detail = f"entry {at.entry_id} does not follow from the one before; {self._breaks} such entries"
            drifts.append(Drift(wallet_id, DriftKind.LEDGER_CHAIN, at.expected_micros, at.found_micros, detail))
        if posted_micros < -last.overdraft_limit_micros:
            detail = "more is overdrawn than the limit allows"
            drifts.append(Drift(wallet_id, DriftKind.BELOW_LIMIT, -last.overdraft_limit_micros, posted_micros, detail))
        return drifts


@dataclass(frozen=True, slots=True)
class AuditedPage:
    wallet_ids: Sequence[WalletId]
    drifts: Sequence[Drift]


class LedgerAudit:
    def __init__(self, postgres: PostgresAccess, *, wallets_per_page: int = WALLETS_PER_PAGE) -> None:
        self._postgres = postgres
        self._wallets_per_page = wallets_per_page

    def pages(self, *, is_full: bool, on_step: Callable[[], None]) -> Iterator[AuditedPage]:
        """Audit every wallet, in the order of wallet ids; `on_step` is called after each statement or so.

        Raises Unavailable.
        """
        after_id = FIRST_ID
        while positions := self._positions(after_id, is_full=is_full):
            after_id = positions[-1].wallet_id
            wallet_ids = [position.wallet_id for position in positions]
            yield AuditedPage(wallet_ids, self._drifts(positions, on_step) + self._debts(wallet_ids))

    def orphans(self) -> list[Drift]:
        """Unsettled ends whose wallet doesn't exist. Raises Unavailable."""
        found = self._postgres.transaction(lambda connection: store.orphans(connection, ORPHANS_MAX, SLICE_SECONDS_MAX))
        return [
            Drift(
                wallet.wallet_id,
                DriftKind.WALLET_MISSING,
                expected_micros=-wallet.cost_micros,
                found_micros=0,
                detail=f"{wallet.ends} unsettled ends and no wallet to deduct them from",
            )
            for wallet in found
        ]

    def _positions(self, after_id: str, *, is_full: bool) -> list[Position]:
        return self._postgres.run(
            lambda connection: store.positions_after(connection, after_id, self._wallets_per_page, is_full=is_full)
        )

    def _drifts(self, positions: Sequence[Position], on_step: Callable[[], None]) -> list[Drift]:
        walks = {position.wallet_id: _Walk(position) for position in positions}
        drifts: list[Drift] = []
        try:
            drifts += self._step(walks, list(walks), ENTRIES_SHARED)
        except (Unavailable, sa.exc.SQLAlchemyError):
            # One wallet that can't be read fails the statement for all: below, each wallet is read alone.
            self._ask_postgres()
        on_step()
        for wallet_id in list(walks):
            drifts += self._alone(walks, wallet_id, on_step)
        return drifts

    def _alone(self, walks: dict[WalletId, _Walk], wallet_id: WalletId, on_step: Callable[[], None]) -> list[Drift]:
        drifts: list[Drift] = []
        entries_max = ENTRIES_ALONE
        while wallet_id in walks:
            try:
                drifts += self._step(walks, [wallet_id], entries_max)
            except (Unavailable, sa.exc.SQLAlchemyError) as error:
                self._ask_postgres()
                if entries_max <= ENTRIES_LEAST:
                    del walks[wallet_id]
                    drifts.append(unchecked(wallet_id, error))
                entries_max //= 10
            on_step()
        return drifts

    def _step(self, walks: dict[WalletId, _Walk], wallet_ids: Sequence[WalletId], entries_max: int) -> list[Drift]:
        """Advance each of these walks by up to `entries_max` entries. Returns the drifts of those that are finished."""
        found = self._slices([walks[wallet_id].position for wallet_id in wallet_ids], entries_max)
        for part in found:
            walks[part.wallet_id].take(part)
        moved = [part.wallet_id for part in found if part.entries or not walks[part.wallet_id].is_right]
        if moved:
            right = [walks[wallet_id].right_up_to for wallet_id in moved]
            self._postgres.run(lambda connection: store.set_checkpoints(connection, right))
        at_their_end = [part for part in found if part.entries < entries_max]
        return [drift for part in at_their_end for drift in walks.pop(part.wallet_id).drifts(part)]

    def _debts(self, wallet_ids: Sequence[WalletId]) -> list[Drift]:
        try:
            found = self._postgres.transaction(
                lambda connection: store.wrong_debts(connection, wallet_ids[0], wallet_ids[-1], SLICE_SECONDS_MAX)
            )
        except (Unavailable, sa.exc.SQLAlchemyError) as error:
            self._ask_postgres()
            if len(wallet_ids) == 1:
                return [unchecked(wallet_ids[0], error)]
            middle = len(wallet_ids) // 2
            return self._debts(wallet_ids[:middle]) + self._debts(wallet_ids[middle:])
        detail = "the debt is not the sum of the failed ends"
        return [
            Drift(wrong.wallet_id, DriftKind.DEBT_SUM, wrong.owed_micros, wrong.debt_micros, detail) for wrong in found
        ]

    def _ask_postgres(self) -> None:
        """Raises Unavailable if Postgres itself is away, rather than only the last statement having failed."""
        self._postgres.run(lambda connection: connection.execute(sa.text("SELECT 1")))

    def _slices(self, positions: Sequence[Position], entries_max: int) -> list[Slice]:
        return self._postgres.transaction(
            lambda connection: store.slices(connection, positions, entries_max, SLICE_SECONDS_MAX)
        )


def unchecked(wallet_id: WalletId, error: Exception) -> Drift:
    """The drift that reports a wallet as unchecked, as it can't be read."""
    log.error("wallet_not_checked", wallet_id=wallet_id, exc_info=error)
    reason = type(error.__cause__ or error).__name__
    return Drift(wallet_id, DriftKind.UNCHECKED, 0, 0, f"could not be read: {reason}")
