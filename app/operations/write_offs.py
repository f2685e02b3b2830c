"""Writes off ends of one wallet: each by two ledger entries that leave the balance as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from app.domain.wallets import Wallet, WalletId
from app.stores.postgres.ledger import LedgerEntry, NewEntry, billed


class Books(Protocol):
    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]: ...

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet: ...

    def delete_failed(self, end_ids: Collection[UUID]) -> None: ...


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Why ends are written off, by whom, and under which reference, if the operator gave one."""

    reason: str
    actor: str
    request_id: str | None = None
    reference: str | None = None


def write_off(
    books: Books, wallet: Wallet, ends: Sequence[Any], given: WriteOff
) -> tuple[Mapping[UUID, LedgerEntry], Wallet]:
    """Write off claimed, unbilled ends of a locked wallet. Returns their write-off entries and the changed wallet."""
    # Each end gets an entry as written off and one as billed: the balance stays the same, and the end can't be billed
    # again.
    pairs = [entry for end in ends for entry in (_given_up(end, given), billed(end))]
    written_off = books.enter(wallet, pairs)[::2]
    books.delete_failed([end.id for end in ends])
    owed_micros = sum(end.cost_micros for end in ends if end.is_debt)
    changed = books.update(wallet.id, {"debt_micros": max(wallet.debt_micros - owed_micros, 0)})
    return {end.id: entry for end, entry in zip(ends, written_off, strict=True)}, changed


def _given_up(end: Any, given: WriteOff) -> NewEntry:
    return NewEntry(
        user_id=end.user_id,
        kind="write_off",
        amount_micros=end.cost_micros,
        # The run's own fields, so that reports count the write-off where they count such runs.
        model=end.model,
        feature_endpoint_id=end.feature_endpoint_id,
        price_id=end.price_id,
        end_id=end.id,
        corrects=end.corrects,
        reference=given.reference,
        reason=given.reason,
        actor=given.actor,
        request_id=given.request_id,
    )
