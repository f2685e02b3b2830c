"""Correcting one run in the caller's transaction, whatever has become of it: billed, waiting, debt or a dead letter.

What can be settled is settled first. Then what is given back comes off what the run still owes, and else out of the
ledger; what is charged joins the line of the wallet's debts, of which settlement pays what it can at once. Whoever
calls this has the wallet locked, so a correction comes before or after each settlement of it and never in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.billing.entries import Bell, Changes
from app.domain.amounts import BALANCE_MICROS_MAX, DEBT_MICROS_MAX
from app.domain.corrections import NOTHING, CorrectionKind, CorrectionRequest, Figures, OpenPart, plan
from app.domain.errors import AlreadyWrittenOff, BalanceOutOfRange, ExceedsOriginal
from app.domain.pricing import price
from app.domain.usage import Usage
from app.domain.wallets import Wallet
from app.stores.postgres import catalog, debts, failed_ends, ledger, prices, settlement, wallets
from app.stores.postgres import corrections as store
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.debts import IndebtedWallet
from app.stores.postgres.ledger import LedgerEntry, NewEntry
from app.stores.postgres.settlement import RetryPolicy


@dataclass(slots=True)
class Told:
    """What there is to tell of a wallet once its transaction is committed."""

    wallet: Wallet
    ends: list[UUID] = field(default_factory=list)
    """Those that the wallet's row tells of now."""
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
        """The row of the inbox that has the run charged for more."""
        not_of_a_row = ("amount_micros", "end_id", "accepted_at")
        return {name: value for name, value in asdict(self.entry(figures)).items() if name not in not_of_a_row}


def correct(
    connection: sa.Connection, wallet: Wallet, run: Run, request: CorrectionRequest, policy: RetryPolicy
) -> tuple[Correction, Told]:
    """Correct a run under a reference that is new. Raises AlreadyWrittenOff, ExceedsOriginal or BalanceOutOfRange."""
    if run.is_written_off:
        raise AlreadyWrittenOff
    told = Told(wallet)
    rows = {row.id: row for row in _settled_first(connection, run, policy, told)}
    parts = [OpenPart(row.id, store.figures_of(row)) for row in rows.values()]
    taken = store.taken(connection, run.id)
    before = sum((part.figures for part in parts), taken)
    if request.kind is CorrectionKind.REVERSAL and before.are_nothing:
        raise ExceedsOriginal
    price_id = request.price_id or _price_id(connection, run)
    target = _target(connection, run, request, before.usage, price_id)
    planned = plan(taken, parts, target)
    template = _Template(run, request, price_id)
    entries = _give_up(connection, told, template, [rows[part.id] for part in planned.given_up])
    debt_change_micros = -sum(part.figures.cost_micros for part in planned.given_up)
    posted_change_micros = 0
    charge_id = None
    if planned.rest.cost_micros > 0:
        charge_id = charge(connection, told, template.charge(planned.rest), policy)
        paid = ledger.find_billed(connection, charge_id)
        entries += paid
        if paid:
            posted_change_micros -= planned.rest.cost_micros
        else:
            debt_change_micros += planned.rest.cost_micros
    elif not planned.rest.are_nothing:
        entries += _give_back(connection, told, template, planned.rest)
        posted_change_micros -= planned.rest.cost_micros
    if planned.given_up or posted_change_micros > 0:
        # What stands in the line now may be payable.
        told.woken = debts.wake(connection, wallet.id)
    kept = store.insert(
        connection,
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


def quote(connection: sa.Connection, run: Run, request: CorrectionRequest) -> tuple[Figures, Figures]:
    """What a run costs by now, settled or owed, and what it would cost by a correction. Nothing changes."""
    parts = store.open_parts(connection, run.id)
    before = sum((store.figures_of(part) for part in parts), store.taken(connection, run.id))
    price_id = request.price_id or _price_id(connection, run)
    return before, _target(connection, run, request, before.usage, price_id)


def charge(connection: sa.Connection, told: Told, row: dict[str, Any], policy: RetryPolicy) -> UUID:
    """Have a wallet pay what a correction asks for: now, if it can and owes nothing else, or as debt. The row's id."""
    if told.wallet.debt_micros + row["cost_micros"] > DEBT_MICROS_MAX:
        raise BalanceOutOfRange
    charge_id: UUID = uuid7()
    store.insert_charge(connection, id=charge_id, wallet_id=told.wallet.id, **row)
    _settle(connection, told, [charge_id], policy)
    return charge_id


def _settled_first(connection: sa.Connection, run: Run, policy: RetryPolicy, told: Told) -> list[Any]:
    """Settle what of a run can be; what is open of it after that."""
    rows = store.lock_open_parts(connection, run.id)
    to_settle = [row.id for row in rows if row.state == "accepted" or (row.state == "retrying" and not row.is_debt)]
    if not to_settle:
        return rows
    _settle(connection, told, to_settle, policy)
    return store.lock_open_parts(connection, run.id)


def _settle(connection: sa.Connection, told: Told, ids: Sequence[UUID], policy: RetryPolicy) -> None:
    [settled] = settlement.settle(connection, ids, policy)
    told.ends += settled.told
    told.wallet = settled.wallet


def _price_id(connection: sa.Connection, run: Run) -> int | None:
    """Which rate card a run is billed by: the pinned one, unless it was priced anew since."""
    last = store.find_last(connection, run.id)
    return run.price_id if last is None else last.price_id


def _target(
    connection: sa.Connection, run: Run, request: CorrectionRequest, used: Usage, price_id: int | None
) -> Figures:
    if request.kind is CorrectionKind.REVERSAL:
        return NOTHING
    usage = used if request.usage is None else request.usage
    rule = None if run.profit_rule_id is None else catalog.find_rule(connection, run.profit_rule_id)
    card = None if price_id is None else prices.by_ids(connection, [price_id])[price_id]
    return Figures.of(usage, price(usage, card, rule))


def _give_up(connection: sa.Connection, told: Told, template: _Template, rows: Sequence[Any]) -> list[LedgerEntry]:
    """Enter parts that are owed as given back and as billed: the balance stays, and nothing can bill them again."""
    entries = []
    for row in rows:
        entries += [template.entry(-store.figures_of(row)), ledger.billed(row)]
        failed_ends.delete(connection, [row.id])
        told.ends.append(row.id)
    if not entries:
        return []
    entered = ledger.enter(connection, told.wallet, entries)
    owed_micros = sum(row.cost_micros for row in rows if row.is_debt)
    debt_micros = max(told.wallet.debt_micros - owed_micros, 0)
    told.wallet = wallets.update(connection, told.wallet.id, {"debt_micros": debt_micros})
    return entered


def _give_back(connection: sa.Connection, told: Told, template: _Template, rest: Figures) -> list[LedgerEntry]:
    posted_micros = told.wallet.posted_micros - rest.cost_micros
    if posted_micros > BALANCE_MICROS_MAX:
        raise BalanceOutOfRange
    entered = ledger.enter(connection, told.wallet, [template.entry(rest)])
    told.wallet = wallets.update(connection, told.wallet.id, {"posted_micros": posted_micros})
    return entered
