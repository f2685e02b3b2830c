"""Corrects one run in the caller's transaction, in whatever state it is: billed, waiting, debt or a dead letter.

Parts of the run that can be settled are settled first. A decrease is then taken off what the run still owes, and the
remainder is credited by a ledger entry. An increase is queued behind the wallet's debts, and settlement pays it at once
if it can. The caller has locked the wallet, so a correction never runs during a settlement of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from app.billing.entries import Bell, Changes
from app.domain.amounts import BALANCE_MICROS_MAX, DEBT_MICROS_MAX
from app.domain.corrections import NOTHING, CorrectionKind, CorrectionRequest, Figures, OpenPart, plan
from app.domain.errors import AlreadyWrittenOff, BalanceOutOfRange, ExceedsOriginal
from app.domain.pricing import ProfitRule, price
from app.domain.rates import RateCard
from app.domain.usage import Usage
from app.domain.wallets import Wallet, WalletId
from app.stores.postgres import corrections as store
from app.stores.postgres import ledger
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import LedgerEntry, NewEntry
from app.stores.postgres.settlement import SettledWallet


class RunBooks(Protocol):
    """A run's account and the locked wallet that pays for it, in one transaction."""

    def taken(self, end_id: UUID) -> Figures:
        """What the ledger has taken for a run by now, corrections included."""

    def open_parts(self, end_id: UUID) -> Sequence[Any]:
        """The unpaid parts of a run: rows of the inbox, oldest first."""

    def lock_open_parts(self, end_id: UUID) -> Sequence[Any]: ...

    def settle(self, end_ids: Sequence[UUID]) -> SettledWallet: ...

    def add_charge(self, **values: Any) -> None: ...

    def find_billed(self, end_id: UUID) -> list[LedgerEntry]:
        """The ledger entry of an end or a charge; empty as long as it isn't billed."""

    def enter(self, wallet: Wallet, entries: Sequence[NewEntry]) -> Sequence[LedgerEntry]: ...

    def update(self, wallet_id: WalletId, changes: Mapping[str, Any]) -> Wallet: ...

    def delete_failed(self, end_ids: Collection[UUID]) -> None: ...

    def wake(self, wallet_id: WalletId) -> Sequence[IndebtedWallet]: ...

    def last_correction(self, end_id: UUID) -> Correction | None: ...

    def keep(self, usage: Usage | None, **values: Any) -> Correction:
        """Store a correction. `usage` is the run's usage after it."""

    def profit_rule(self, number: int) -> ProfitRule | None: ...

    def card(self, number: int) -> RateCard: ...


@dataclass(slots=True)
class Told:
    """What to announce about a wallet once its transaction is committed."""

    wallet: Wallet
    ends: list[UUID] = field(default_factory=list)
    """Ends that the wallet's row accounts for after the transaction."""
    woken: Sequence[IndebtedWallet] = ()

    def tell(self, changes: Changes, doorbell: Bell) -> None:
        changes.announce(self.wallet, self.ends)
        doorbell.collect(self.woken)


@dataclass(frozen=True, slots=True)
class _Template:
    """What all entries of a correction have in common."""

    run: Run
    request: CorrectionRequest
    price_id: int | None

    def entry(self, figures: Figures) -> NewEntry:
        run, request = self.run, self.request
        return NewEntry(
            user_id=run.user_id,
            kind=request.kind,
            amount_micros=-figures.cost_micros,
            base_cost_micros=figures.base_micros,
            profit_micros=figures.profit_micros,
            cost_micros=figures.cost_micros,
            **asdict(figures.usage),
            model=run.model,
            feature_endpoint_id=run.feature_endpoint_id,
            price_id=self.price_id,
            profit_rule_id=run.profit_rule_id,
            corrects=run.id,
            process_id=run.process_id,
            reference=request.reference,
            reason=request.reason,
            actor=request.caller.actor,
            request_id=request.caller.request_id,
        )

    def charge(self, figures: Figures) -> dict[str, Any]:
        """The columns of the inbox row that charges more for the run."""
        not_of_a_row = ("amount_micros", "end_id", "accepted_at")
        return {name: value for name, value in asdict(self.entry(figures)).items() if name not in not_of_a_row}


def correct(books: RunBooks, wallet: Wallet, run: Run, request: CorrectionRequest) -> tuple[Correction, Told]:
    """Correct a run under a new reference. Raises AlreadyWrittenOff, ExceedsOriginal or BalanceOutOfRange."""
    if run.is_written_off:
        raise AlreadyWrittenOff
    told = Told(wallet)
    rows = {row.id: row for row in _settled_first(books, run, told)}
    parts = [OpenPart(row.id, store.figures_of(row)) for row in rows.values()]
    taken = books.taken(run.id)
    before = sum((part.figures for part in parts), taken)
    if request.kind is CorrectionKind.REVERSAL and before.are_nothing:
        raise ExceedsOriginal
    price_id = request.price_id or _price_id(books, run)
    target = _target(books, run, request, before.usage, price_id)
    planned = plan(taken, parts, target)
    template = _Template(run, request, price_id)
    entries = [*_give_up(books, told, template, [rows[part.id] for part in planned.given_up])]
    debt_change_micros = -sum(part.figures.cost_micros for part in planned.given_up)
    posted_change_micros = 0
    charge_id = None
    if planned.rest.cost_micros > 0:
        charge_id = charge(books, told, template.charge(planned.rest))
        paid = books.find_billed(charge_id)
        entries += paid
        if paid:
            posted_change_micros -= planned.rest.cost_micros
        else:
            debt_change_micros += planned.rest.cost_micros
    elif not planned.rest.are_nothing:
        entries += _give_back(books, told, template, planned.rest)
        posted_change_micros -= planned.rest.cost_micros
    if planned.given_up or posted_change_micros > 0:
        # The wallet may be able to pay its oldest debt now.
        told.woken = books.wake(wallet.id)
    kept = books.keep(
        target.usage,
        kind=request.kind,
        wallet_id=wallet.id,
        user_id=run.user_id,
        end_id=run.id,
        reference=request.reference,
        reason=request.reason,
        price_id=price_id,
        profit_rule_id=run.profit_rule_id,
        cost_before_micros=before.cost_micros,
        cost_after_micros=target.cost_micros,
        amount_micros=before.cost_micros - target.cost_micros,
        posted_change_micros=posted_change_micros,
        debt_change_micros=debt_change_micros,
        charge_id=charge_id,
        transaction_ids=sorted(entry.id for entry in entries),
        actor=request.caller.actor,
        request_id=request.caller.request_id,
    )
    return kept, told


def quote(books: RunBooks, run: Run, request: CorrectionRequest) -> tuple[Figures, Figures]:
    """What a run costs now, settled or owed, and what it would cost after a correction. Changes nothing."""
    parts = books.open_parts(run.id)
    before = sum((store.figures_of(part) for part in parts), books.taken(run.id))
    price_id = request.price_id or _price_id(books, run)
    return before, _target(books, run, request, before.usage, price_id)


def charge(books: RunBooks, told: Told, row: dict[str, Any]) -> UUID:
    """Charge a wallet for a correction: at once if it can pay and owes nothing else, otherwise as debt.

    Returns the id of the inbox row. Raises BalanceOutOfRange.
    """
    if told.wallet.debt_micros + row["cost_micros"] > DEBT_MICROS_MAX:
        raise BalanceOutOfRange
    charge_id: UUID = uuid7()
    books.add_charge(id=charge_id, wallet_id=told.wallet.id, **row)
    _settle(books, told, [charge_id])
    return charge_id


def _settled_first(books: RunBooks, run: Run, told: Told) -> Sequence[Any]:
    """Settle the parts of a run that can be settled. Returns the parts that are still unpaid."""
    rows = books.lock_open_parts(run.id)
    to_settle = [row.id for row in rows if row.state == "accepted" or (row.state == "retrying" and not row.is_debt)]
    if not to_settle:
        return rows
    _settle(books, told, to_settle)
    return books.lock_open_parts(run.id)


def _settle(books: RunBooks, told: Told, ids: Sequence[UUID]) -> None:
    settled = books.settle(ids)
    told.ends += settled.told
    told.wallet = settled.wallet


def _price_id(books: RunBooks, run: Run) -> int | None:
    """The rate card that a run is billed by: that of its last correction, or else the one pinned at its end."""
    last = books.last_correction(run.id)
    return run.price_id if last is None else last.price_id


def _target(books: RunBooks, run: Run, request: CorrectionRequest, used: Usage, price_id: int | None) -> Figures:
    if request.kind is CorrectionKind.REVERSAL:
        return NOTHING
    usage = used if request.usage is None else request.usage
    rule = None if run.profit_rule_id is None else books.profit_rule(run.profit_rule_id)
    card = None if price_id is None else books.card(price_id)
    return Figures.of(usage, price(usage, card, rule))


def _give_up(books: RunBooks, told: Told, template: _Template, rows: Sequence[Any]) -> Sequence[LedgerEntry]:
    """Give up owed parts of a run. Each gets two ledger entries, as given back and as billed: the balance stays the
    same, and the part can't be billed again.
    """
    entries = []
    for row in rows:
        entries += [template.entry(-store.figures_of(row)), ledger.billed(row)]
        books.delete_failed([row.id])
        told.ends.append(row.id)
    if not entries:
        return []
    entered = books.enter(told.wallet, entries)
    owed_micros = sum(row.cost_micros for row in rows if row.is_debt)
    debt_micros = max(told.wallet.debt_micros - owed_micros, 0)
    told.wallet = books.update(told.wallet.id, {"debt_micros": debt_micros})
    return entered


def _give_back(books: RunBooks, told: Told, template: _Template, rest: Figures) -> Sequence[LedgerEntry]:
    posted_micros = told.wallet.posted_micros - rest.cost_micros
    if posted_micros > BALANCE_MICROS_MAX:
        raise BalanceOutOfRange
    entered = books.enter(told.wallet, [template.entry(rest)])
    told.wallet = books.update(told.wallet.id, {"posted_micros": posted_micros})
    return entered
