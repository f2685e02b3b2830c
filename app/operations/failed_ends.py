"""What operators do with ends whose deduction has failed: look at them, replay them, write them off.

Both changes take the wallet's lock first, so they come before or after each settlement of it and never in
between. Each may be repeated: a replay of what is replayed changes nothing, and a write-off answers as it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
import structlog

from app.access.changes import WalletChanges
from app.access.doorbell import Doorbell
from app.access.postgres import PostgresAccess
from app.domain.ends import EndState
from app.domain.errors import AlreadyExists, NotFound, WalletBusy, WalletNotFound
from app.domain.pages import Page, page
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres import debts, ledger, wallets
from app.stores.postgres import failed_ends as store
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.failed_ends import FailedEndRow, Filter
from app.stores.postgres.ledger import LedgerEntry, NewEntry

log = structlog.get_logger(__name__)

FIRST_END = str(UUID(int=0))
ENDS_PER_REPLAY = 100


@dataclass(frozen=True, slots=True)
class WrittenOff:
    entry: LedgerEntry
    replayed: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    entry: LedgerEntry
    wallet: Wallet | None = None
    woken: Sequence[IndebtedWallet] = ()


class FailedEndService:
    def __init__(
        self,
        *,
        postgres: PostgresAccess,
        changes: WalletChanges,
        doorbell: Doorbell,
    ) -> None:
        self._postgres = postgres
        self._changes = changes
        self._doorbell = doorbell

    def list(self, matching: Filter, limit: int, after_id: str = FIRST_END) -> Page[FailedEndRow, str]:
        """Oldest first. Raises Unavailable."""
        after = UUID(after_id)
        return self._postgres.run(
            lambda connection: page(
                lambda count: store.list_ends(connection, matching, after, count), lambda end: str(end.id), limit
            )
        )

    def count(self, matching: Filter) -> int:
        """Raises Unavailable."""
        return self._postgres.run(lambda connection: store.count(connection, matching))

    def get(self, end_id: UUID) -> FailedEndRow:
        """Raises NotFound or Unavailable."""
        found = self._postgres.run(lambda connection: store.find(connection, end_id))
        if found is None:
            raise NotFound("Failed end not found")
        return found

    def replay(self, end_id: UUID) -> FailedEndRow:
        """Have a failed end tried again at once; what it is after that. Raises NotFound, WalletBusy or Unavailable."""
        wallet_id = self._postgres.run(lambda connection: store.payer_of(connection, end_id))
        if wallet_id is None:
            raise NotFound("Failed end not found")
        replayed = self._postgres.wallet_transaction(wallet_id, lambda connection: store.replay(connection, [end_id]))
        if not replayed:
            raise NotFound("Failed end not found")
        self._ring(replayed)
        return replayed[0]

    def replay_all(self, end_ids: Sequence[UUID]) -> Sequence[FailedEndRow]:
        """Have failed ends tried again at once, in one transaction; those that there are. Raises WalletBusy when one of
        their wallets is locked, or Unavailable.
        """
        replayed = self._postgres.transaction(lambda connection: store.replay(connection, end_ids))
        self._ring(replayed)
        return replayed

    def replay_matching(self, matching: Filter) -> Iterator[Sequence[FailedEndRow]]:
        """Replay all that match, so many at a time. Stopped half-way it has done what it gave. Raises Unavailable, or
        WalletBusy at the end, when all are replayed but those of locked wallets.

        An end that fails again meanwhile is not tried twice: the list is walked through once, oldest first.
        """
        busy: set[WalletId] = set()
        after_id: str | None = FIRST_END
        while after_id is not None:
            found = self.list(matching, ENDS_PER_REPLAY, after_id)
            ends = [end for end in found.items if end.wallet_id not in busy]
            if ends:
                yield self._replay_free(ends, busy)
            after_id = found.next_key
        if busy:
            raise WalletBusy

    def _replay_free(self, ends: Sequence[FailedEndRow], busy: set[WalletId]) -> Sequence[FailedEndRow]:
        """Replay the ends of wallets that aren't locked; those that are get added to `busy`."""
        try:
            return self.replay_all([end.id for end in ends])
        except WalletBusy:
            replayed: list[FailedEndRow] = []
        for end in ends:
            if end.wallet_id not in busy:
                try:
                    replayed += self.replay_all([end.id])
                except WalletBusy:
                    busy.add(end.wallet_id)
        return replayed

    def write_off(self, end_id: UUID, reason: str, actor: str, request_id: str | None = None) -> WrittenOff:
        """Give up an end's cost, with two ledger entries that leave the balance as it is. It can't be billed any more.

        Raises NotFound, WalletNotFound, Unavailable, or AlreadyExists when it has been billed.
        """
        wallet_id = self._postgres.run(lambda connection: store.payer_of(connection, end_id))

        def work(connection: sa.Connection) -> _Outcome:
            return _write_off(connection, end_id, reason, actor, request_id)

        # An end that isn't there any more may have been written off: that is told, and needs no turn.
        transaction = self._postgres.transaction
        outcome = transaction(work) if wallet_id is None else self._postgres.wallet_transaction(wallet_id, work)
        if outcome.wallet is None:
            return WrittenOff(outcome.entry, replayed=True)
        log.info("end_written_off", end_id=str(end_id), actor=actor, micros=outcome.entry.amount_micros)
        self._changes.announce(outcome.wallet, [end_id])
        self._doorbell.collect(outcome.woken)
        return WrittenOff(outcome.entry, replayed=False)

    def _ring(self, ends: Sequence[FailedEndRow]) -> None:
        accepted = [end.id for end in ends if end.state == EndState.ACCEPTED]
        if accepted:
            self._doorbell.settle(accepted)
        owed_micros: dict[WalletId, int] = defaultdict(int)
        for end in ends:
            if end.state == EndState.RETRYING:
                owed_micros[end.wallet_id] += end.cost_micros
        self._doorbell.collect([IndebtedWallet(wallet_id, micros) for wallet_id, micros in owed_micros.items()])


def _write_off(connection: sa.Connection, end_id: UUID, reason: str, actor: str, request_id: str | None) -> _Outcome:
    wallet_id = store.payer_of(connection, end_id)
    wallet = None if wallet_id is None else wallets.lock(connection, wallet_id)
    known = ledger.find_write_off(connection, end_id)
    if known is not None:
        return _Outcome(known)
    if wallet_id is None:
        raise NotFound("Failed end not found")
    if wallet is None:
        raise WalletNotFound
    end = store.claim(connection, end_id)
    if end is None:
        raise NotFound("Failed end not found")
    if ledger.is_billed(connection, end_id):
        raise AlreadyExists("This end is billed already")
    # As written off and as billed: the balance ends where it was, and nothing can bill it again.
    given_up = NewEntry(
        user_id=end.user_id,
        kind="write_off",
        amount_micros=end.cost_micros,
        end_id=end.id,
        corrects=end.corrects,
        reason=reason,
        actor=actor,
        request_id=request_id,
    )
    written_off, _ = ledger.enter(connection, wallet, [given_up, ledger.billed(end)])
    store.delete(connection, end_id)
    debt_micros = max(wallet.debt_micros - end.cost_micros, 0) if end.is_debt else wallet.debt_micros
    changed = wallets.update(connection, wallet.id, {"debt_micros": debt_micros})
    # What stood behind it in the line may be payable.
    return _Outcome(written_off, changed, debts.wake(connection, wallet.id))
