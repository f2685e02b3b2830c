"""One wallet under any sequence of what can happen to it, against a model in a few lines of Python.

Held after every step: the ledger sums up to the posted balance entry by entry (1); each end we said yes to is
settled once or stands in the inbox with its amount (2); the posted balance stays above the overdraft limit (3);
what the cache says is posted less unsettled less debt less holds, also after flushes and restarts (4); holds never
exceed what there is (5); a key never bills twice (6), nor after it was written off.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from app.billing.start import StartRequest
from app.domain.corrections import NO_USAGE, Chargeback, CorrectionKind, CorrectionRequest
from app.domain.ends import EndRequest
from app.domain.errors import (
    AlreadyEnded,
    AlreadyWrittenOff,
    BalanceOutOfRange,
    ExceedsOriginal,
    IdempotencyConflict,
    NotFound,
)
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.usage import Usage
from app.domain.wallets import Access, Deduction
from tests.support import FEATURE, Billing, assert_conserved, collect_now

pytestmark = pytest.mark.long

TOKEN = 1_000_000


@dataclass(frozen=True)
class Charge:
    """For a run, by its key, or a chargeback."""

    key: str
    micros: int
    id: UUID


@dataclass
class Model:
    posted: int = 0
    overdraft: int = 0
    pending: dict[str, int] = field(default_factory=dict)
    debts: dict[str, int] = field(default_factory=dict)
    # Those of the debts that the wallet's row tells of.
    told: set[str] = field(default_factory=set)
    holds: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, UUID] = field(default_factory=dict)
    written_off: set[str] = field(default_factory=set)
    # What a run costs since it was corrected; those of which the last correction was a reversal; and what corrections
    # have charged and isn't paid, oldest first.
    corrected: dict[str, int] = field(default_factory=dict)
    reversed: set[str] = field(default_factory=set)
    charges: list[Charge] = field(default_factory=list)
    references: int = 0

    @property
    def covered(self) -> int:
        return self.posted - sum(self.pending.values()) - self.debt

    @property
    def debt(self) -> int:
        return sum(self.debts.values()) + sum(charge.micros for charge in self.charges)

    @property
    def told_debt(self) -> int:
        """What of it the wallet's row tells of: charges always."""
        return self.debt - sum(micros for key, micros in self.debts.items() if key not in self.told)

    def charge(self, charge: Charge) -> None:
        """Stands behind what accepted ends were promised and what is owed already, and is paid whole or not at all."""
        if charge.micros <= self.posted + self.overdraft - self.told_debt - sum(self.pending.values()):
            self.posted -= charge.micros
        else:
            self.charges.append(charge)

    @property
    def spendable(self) -> int:
        return self.covered - sum(self.holds.values())


def key_of(end: Any) -> str:
    """What makes an end, or its row in the inbox, repeatable."""
    key: str = end.idempotency_key or end.process_id
    return key


def machine(billing: Billing) -> type[RuleBasedStateMachine]:
    services = billing.container

    class WalletMachine(RuleBasedStateMachine):
        ended: Bundle[EndRequest] = Bundle("ended")
        held: Bundle[str] = Bundle("held")

        def __init__(self) -> None:
            super().__init__()
            self.user = uuid4().hex
            self.model = Model()
            billing.wallet(self.user, tokens=0)

        @rule(tokens=st.integers(1, 60))
        def top_up(self, tokens: int) -> None:
            services.postings.post(Posting(self.user, PostingKind.TOP_UP, tokens * TOKEN, uuid4().hex))
            self.model.posted += tokens * TOKEN

        @rule(tokens=st.integers(1, 60))
        def adjust_down(self, tokens: int) -> None:
            posting = Posting(self.user, PostingKind.ADJUSTMENT, -tokens * TOKEN, uuid4().hex)
            if self.model.posted - tokens * TOKEN < -self.model.overdraft:
                with pytest.raises(BalanceOutOfRange):
                    services.postings.post(posting)
            else:
                services.postings.post(posting)
                self.model.posted -= tokens * TOKEN

        @rule(tokens=st.integers(0, 40))
        def set_overdraft(self, tokens: int) -> None:
            if self.model.posted >= -tokens * TOKEN:
                services.wallet_admin.update(self.user, {"overdraft_limit_micros": tokens * TOKEN})
                self.model.overdraft = tokens * TOKEN

        @rule(target=held, tokens=st.integers(1, 40))
        def start_with_a_hold(self, tokens: int) -> Any:
            model = self.model
            answer = services.start.start(StartRequest(self.user, FEATURE, hold_micros=tokens * TOKEN))
            fits = not model.debt and model.spendable + model.overdraft >= tokens * TOKEN
            assert (answer.access is Access.GRANTED) == fits
            if fits and answer.process_id is not None:
                model.holds[answer.process_id] = tokens * TOKEN
            assert answer.spendable_micros == model.spendable
            return answer.process_id if fits and answer.process_id else multiple()

        @rule(process_id=held)
        def cancel(self, process_id: str) -> None:
            self.model.holds.pop(process_id, None)
            # A run that has ended has no hold, and is told so.
            with suppress(AlreadyEnded):
                assert services.holds.cancel(self.user, process_id) == self.model.spendable

        @rule(target=ended, output_tokens=st.integers(0, 160))
        def end(self, output_tokens: int) -> EndRequest:
            return self._end(billing.usage(self.user, output_tokens=output_tokens))

        @rule(target=ended, process_id=held, output_tokens=st.integers(1, 160))
        def end_of_a_hold(self, process_id: str, output_tokens: int) -> Any:
            if process_id in self.model.answers:
                return multiple()
            request = billing.usage(self.user, output_tokens=output_tokens, process_id=process_id, idempotency_key=None)
            return self._end(request)

        def _end(self, request: EndRequest) -> EndRequest:
            model = self.model
            key = key_of(request)
            cost = request.usage.output_tokens * 275_000
            own_hold = model.holds.pop(request.process_id or "", 0)
            # What a run has reserved debt doesn't take away.
            reach = model.covered + (model.debt if cost <= own_hold else 0)
            covered = cost == 0 or reach - cost >= -model.overdraft
            (model.pending if covered else model.debts)[key] = cost
            answer = services.end.end(request)
            assert answer.deduction is (Deduction.COVERED if covered else Deduction.FAILED)
            assert (answer.cost_micros, answer.spendable_micros) == (cost, model.spendable)
            model.answers[key] = answer
            [model.ids[key]] = [row.id for row in billing.inbox(self.user) if key_of(row) == key]
            return request

        @rule(tokens=st.integers(1, 60))
        def charge_back(self, tokens: int) -> None:
            model = self.model
            model.references += 1
            asked = Chargeback(self.user, tokens * TOKEN, f"dispute-{model.references}")
            first = services.corrections.charge_back(asked)
            assert first.correction.charge_id is not None
            model.charge(Charge(asked.reference, tokens * TOKEN, first.correction.charge_id))
            again = services.corrections.charge_back(asked)
            assert (again.replayed, again.correction, again.entries) == (True, first.correction, first.entries)

        @rule(request=ended)
        def reverse(self, request: EndRequest) -> None:
            if key_of(request) in self.model.reversed:
                with pytest.raises(ExceedsOriginal):
                    services.corrections.correct(self._correction(request, None))
            else:
                self._correct(request, None)

        @rule(request=ended, output_tokens=st.integers(0, 240))
        def amend(self, request: EndRequest, output_tokens: int) -> None:
            self._correct(request, output_tokens)

        def _correction(self, request: EndRequest, output_tokens: int | None) -> CorrectionRequest:
            """To so many output tokens, or None: a reversal."""
            self.model.references += 1
            kind = CorrectionKind.REVERSAL if output_tokens is None else CorrectionKind.AMENDMENT
            usage = NO_USAGE if output_tokens is None else Usage(request.usage.input_tokens, output_tokens)
            reference = f"ticket-{self.model.references}"
            return CorrectionRequest(self.model.ids[key_of(request)], kind, reference, "Wrong", usage)

        def _correct(self, request: EndRequest, output_tokens: int | None) -> None:
            model, key = self.model, key_of(request)
            correction = self._correction(request, output_tokens)
            if key in model.written_off:
                with pytest.raises(AlreadyWrittenOff):
                    services.corrections.correct(correction)
                return
            first = services.corrections.correct(correction)
            self._settle_one(key)
            before = model.corrected.get(key, model.answers[key].cost_micros)
            target = (output_tokens or 0) * 275_000
            rest = self._give_up(key, target - before)
            if rest > 0:
                assert first.correction.charge_id is not None
                model.charge(Charge(key, rest, first.correction.charge_id))
            else:
                model.posted -= rest
            model.corrected[key] = target
            (model.reversed.add if output_tokens is None else model.reversed.discard)(key)
            assert (first.correction.cost_before_micros, first.correction.cost_after_micros) == (before, target)
            again = services.corrections.correct(correction)
            assert (again.replayed, again.correction, again.entries) == (True, first.correction, first.entries)

        def _give_up(self, key: str, rest: int) -> int:
            """What isn't paid for a run is given up first, the youngest before the others; what is left to do."""
            model = self.model
            for charge in [charge for charge in reversed(model.charges) if charge.key == key]:
                if rest < 0:
                    model.charges.remove(charge)
                    rest += charge.micros
            if rest < 0 and key in model.debts:
                model.told.discard(key)
                rest += model.debts.pop(key)
            return rest

        def _settle_one(self, key: str) -> None:
            """An end that can be settled is settled before it is corrected."""
            model = self.model
            if key in model.pending:
                cost = model.pending.pop(key)
                if cost == 0 or cost <= model.posted + model.overdraft:
                    model.posted -= cost
                else:
                    model.debts[key] = cost
                    model.told.add(key)
            elif key in model.debts and key not in model.told:
                room = model.posted + model.overdraft - model.told_debt - sum(model.pending.values())
                if model.debts[key] <= room:
                    model.posted -= model.debts.pop(key)
                else:
                    model.told.add(key)

        @rule(request=ended)
        def write_off(self, request: EndRequest) -> None:
            model, key = self.model, key_of(request)
            if key in model.debts or key in model.written_off:
                first = services.failed_ends.write_off(model.ids[key], "Gone", Caller("machine"))
                assert first.replayed == (key in model.written_off)
                model.debts.pop(key, None)
                model.told.discard(key)
                model.written_off.add(key)
                again = services.failed_ends.write_off(model.ids[key], "Gone", Caller("machine"))
                assert (again.replayed, again.entry) == (True, first.entry)
            else:
                # Not failed, or billed already.
                with pytest.raises(NotFound):
                    services.failed_ends.write_off(model.ids[key], "Gone", Caller("machine"))

        @rule(request=ended)
        def replay(self, request: EndRequest) -> None:
            end_id = self.model.ids[key_of(request)]
            if key_of(request) in {*self.model.debts, *self.model.pending}:
                expected = "retrying" if key_of(request) in self.model.debts else "accepted"
                replayed = services.failed_ends.replay(end_id)
                assert replayed.state == expected, "an end that failed waits for its retry again"
            else:
                with pytest.raises(NotFound):
                    services.failed_ends.replay(end_id)

        @rule(request=ended)
        def end_again(self, request: EndRequest) -> None:
            first = self.model.answers[key_of(request)]
            again = services.end.end(request)
            assert again.replayed
            assert (again.spendable_micros, again.cost_micros, again.deduction) == (
                first.spendable_micros,
                first.cost_micros,
                first.deduction,
            )

        @rule(request=ended)
        def end_with_another_body(self, request: EndRequest) -> None:
            other = EndRequest(
                self.user,
                FEATURE,
                replace(request.usage, input_tokens=request.usage.input_tokens + 1),
                idempotency_key=request.idempotency_key,
                process_id=request.process_id,
            )
            with pytest.raises(IdempotencyConflict):
                services.end.end(other)

        @rule()
        def settle(self) -> None:
            billing.settle_everything()
            model = self.model
            untold = model.debts.keys() - model.told
            asked = 0
            room = model.posted + model.overdraft
            for key, cost in list(model.pending.items()):
                del model.pending[key]
                asked += cost
                if cost == 0 or asked <= room:
                    model.posted -= cost
                else:
                    # Money left by an adjustment, or a lower limit, since we said yes: it waits as debt, and so does
                    # what came after it.
                    model.debts[key] = cost
            # What wasn't covered when it came stands behind all debt that the wallet knows of.
            room -= sum(model.debts[key] for key in model.told) + sum(charge.micros for charge in model.charges)
            for key in [key for key in model.debts if key in untold]:
                asked += model.debts[key]
                if asked <= room:
                    model.posted -= model.debts.pop(key)
            model.told = set(model.debts)

        @rule()
        def retry(self) -> None:
            self.settle()
            collect_now(services, self.user)
            model = self.model
            left = {row.id for row in billing.inbox(self.user)}
            for key in [key for key in model.debts if model.ids[key] not in left]:
                model.posted -= model.debts.pop(key)
            for charge in [charge for charge in model.charges if charge.id not in left]:
                model.charges.remove(charge)
                model.posted -= charge.micros
            model.told = set(model.debts)
            line = [(model.ids[key], cost) for key, cost in model.debts.items()]
            line += [(charge.id, charge.micros) for charge in model.charges]
            for end_id, cost in sorted(line)[:1]:
                assert model.posted - cost < -model.overdraft, end_id

        @rule()
        def flush(self) -> None:
            services.redis_client.flushall()
            self.model.holds.clear()

        @rule()
        def new_epoch(self) -> None:
            services.catalog.start_new_epoch()

        @invariant()
        def it_adds_up(self) -> None:
            model = self.model
            balance = billing.balance(self.user)
            assert balance.posted_micros == model.posted >= -model.overdraft
            assert balance.pending_micros == sum(model.pending.values())
            assert balance.debt_micros == model.debt
            waiting = {row.id for row in billing.inbox(self.user)}
            assert waiting == {
                *(model.ids[key] for key in (*model.pending, *model.debts)),
                *(charge.id for charge in model.charges),
            }
            assert billing.cached_spendable_micros(self.user) in (None, model.spendable)
            written_off = [entry for entry in billing.ledger(self.user) if entry.kind == "write_off"]
            assert len(written_off) == len(model.written_off)
            assert_conserved(billing, self.user)

    return WalletMachine


def test_one_wallet_whatever_happens(billing: Billing) -> None:
    billing.catalog(min_micros=0)
    run_state_machine_as_test(
        machine(billing),
        settings=settings(
            max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
