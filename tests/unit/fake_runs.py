"""The books of runs in memory: what the ledger has taken, what is owed, corrections and repricings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

from app.domain.catalog import FeatureEndpoint
from app.domain.corrections import NOTHING, Figures
from app.domain.pricing import ProfitRule, price
from app.domain.rates import RateCard
from app.domain.reasons import FailureReason
from app.domain.repricings import RepricingFilter, RepricingOutcome, RepricingState
from app.domain.usage import Usage
from app.domain.wallets import Wallet, WalletId, wallet_of
from app.stores.postgres.corrections import Correction, Run
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.ledger import LedgerEntry, NewEntry, billed
from app.stores.postgres.repricings import RepricedEnd, Repricing, RepricingGroup, RepricingSums
from app.stores.postgres.settlement import SettledWallet
from tests.unit.fake_books import FakeBooks
from tests.unit.fakes import FEATURE, NOW, TOKEN

T = TypeVar("T")
USAGE = [field.name for field in fields(Usage)]
BILLING = ("usage", "amendment", "chargeback")


class FakeRunBooks(FakeBooks):
    """Failed ends are rows of the inbox here; `run` puts one into it, or settles it at once."""

    def __init__(self, *wallets: Wallet) -> None:
        super().__init__(*wallets)
        self.kept: list[Correction] = []
        self.cards: dict[int, RateCard] = {}
        self.rules = {7: ProfitRule(7, 1_000, NOW)}
        self.features = {FEATURE: FeatureEndpoint(FEATURE, "Text", TOKEN)}
        self.keys: list[KnownEnd] = []
        self.ages: dict[UUID, float] = {}

    def run(self, usage: Usage, state: str = "settled", *, user_id: str = "alice", price_id: int | None = None) -> UUID:
        """A run that was accepted at the prices of this moment: settled, accepted, retrying or dead."""
        at = price(usage, None if price_id is None else self.cards[price_id], self.rules[7])
        end_id = self.fail(
            user_id,
            at.cost_micros,
            base_cost_micros=at.base_micros,
            state="accepted" if state == "settled" else state,
            is_debt=False,
            feature_endpoint_id=FEATURE,
            price_id=price_id,
            profit_rule_id=7,
            accepted_at=NOW,
            **asdict(usage),
        )
        if state != "accepted":
            self.settle([end_id])
        if end_id in self.failed:
            self.failed[end_id].state = state
        assert (end_id in self.failed) is (state != "settled"), "the wallet's tokens decide that"
        return end_id

    def settle(self, end_ids: Sequence[UUID]) -> SettledWallet:
        """Each in turn: what was covered when it came goes before debt, everything else behind it."""
        settled, owed = [], []
        for end_id in end_ids:
            row = self.failed[end_id]
            wallet = self.wallets[row.wallet_id]
            room_micros = wallet.posted_micros + wallet.overdraft_limit_micros
            if row.state != "accepted":
                room_micros -= wallet.debt_micros
            if row.cost_micros <= room_micros:
                self.enter(wallet, [billed(row)])
                self.update(wallet.id, {"posted_micros": wallet.posted_micros - row.cost_micros})
                del self.failed[end_id]
                settled.append(end_id)
            else:
                row.state, row.is_debt = "retrying", True
                self.update(wallet.id, {"debt_micros": wallet.debt_micros + row.cost_micros})
                owed.append(end_id)
        return SettledWallet(self.wallets[row.wallet_id], tuple(settled), tuple(owed), (), 0)

    def add_charge(self, **values: Any) -> None:
        columns = {*(field.name for field in fields(NewEntry)), "idempotency_key", "accepted_at"}
        charge = {"state": "retrying", "last_error": FailureReason.INSUFFICIENT_TOKENS, "is_debt": False, **values}
        self.failed[values["id"]] = SimpleNamespace(**{**dict.fromkeys(columns, None), **charge})

    def known_ends(self, idempotency_keys: Collection[str], process_ids: Collection[str]) -> Sequence[KnownEnd]:
        return [k for k in self.keys if k.idempotency_key in idempotency_keys or k.process_id in process_ids]

    def wallet_of_run(self, end_id: UUID) -> WalletId | None:
        run = self.find_run(end_id)
        return None if run is None or run.kind not in BILLING else wallet_of(run.user_id)

    def is_charge(self, end_id: UUID) -> bool:
        return any(correction.charge_id == end_id for correction in self.kept)

    def find_run(self, end_id: UUID) -> Run | None:
        found: Any = self.failed.get(end_id) or next(
            (e for e in self.ledger if e.end_id == end_id and e.kind == "usage"), None
        )
        if found is None:
            return None
        names = ("user_id", "kind", "feature_endpoint_id", "model", "process_id", "price_id", "profit_rule_id")
        values = {name: getattr(found, name) for name in names}
        is_written_off = self.find_write_off(end_id) is not None
        return Run(
            end_id, **values, accepted_at=NOW, age_seconds=self.ages.get(end_id, 0.0), is_written_off=is_written_off
        )

    def taken(self, end_id: UUID) -> Figures:
        entries = [e for e in self.ledger if (e.kind == "usage" and e.end_id == end_id) or e.corrects == end_id]
        return sum((_figures(entry) for entry in entries), NOTHING)

    def open_parts(self, end_id: UUID) -> Sequence[Any]:
        return [row for row in self.failed.values() if end_id in (row.id, row.corrects)]

    lock_open_parts = open_parts

    def find_billed(self, end_id: UUID) -> list[LedgerEntry]:
        return [e for e in self.ledger if e.end_id == end_id and e.kind in BILLING[1:]]

    def find_entries(self, numbers: Sequence[int]) -> Sequence[LedgerEntry]:
        return [entry for entry in self.ledger if entry.id in numbers]

    def find_correction(self, end_id: UUID, reference: str) -> Correction | None:
        return next((c for c in self.kept if (c.end_id, c.reference) == (end_id, reference)), None)

    def find_chargeback(self, wallet_id: WalletId, reference: str) -> Correction | None:
        found = (c for c in self.kept if (c.end_id, c.reference) == (None, reference))
        return next((c for c in found if wallet_of(c.user_id) == wallet_id), None)

    def last_correction(self, end_id: UUID) -> Correction | None:
        return next((c for c in reversed(self.kept) if c.end_id == end_id), None)

    def corrections_of(self, end_id: UUID) -> Sequence[Correction]:
        return [c for c in self.kept if c.end_id == end_id]

    def keep(self, usage: Usage | None, **values: Any) -> Correction:
        known = {name: value for name, value in values.items() if name != "wallet_id"}
        used = dict.fromkeys(USAGE, None) if usage is None else asdict(usage)
        columns = dict.fromkeys((field.name for field in fields(Correction)), None)
        correction = Correction(**{**columns, **used, **known, "id": len(self.kept) + 1, "created_at": NOW})
        self.kept.append(correction)
        return correction

    def feature(self, feature_endpoint_id: str) -> FeatureEndpoint | None:
        return self.features.get(feature_endpoint_id)

    def profit_rule(self, number: int) -> ProfitRule | None:
        return self.rules.get(number)

    def card(self, number: int) -> RateCard:
        return self.cards[number]


class FakeRepricingBooks(FakeRunBooks):
    def __init__(self, *wallets: Wallet) -> None:
        super().__init__(*wallets)
        self.repricings: dict[int, Repricing] = {}
        self.frozen: dict[int, dict[UUID, RepricedEnd]] = {}
        self.outcomes: dict[tuple[int, UUID], str] = {}
        self.locked: set[int] = set()

    def is_price(self, number: int) -> bool:
        return number in self.cards

    def create(self, filter: RepricingFilter, **values: Any) -> Repricing:
        number = len(self.repricings) + 1
        given = {
            **asdict(filter),
            **values,
            "accepted_to": filter.accepted_to or NOW,
        }
        self.frozen[number] = {}
        self.repricings[number] = Repricing(
            number, RepricingState.SELECTING, **given, selected_up_to=UUID(int=0), created_at=NOW
        )
        return self.repricings[number]

    def find(self, number: int) -> Repricing | None:
        return self.repricings.get(number)

    def lock_repricing(self, number: int) -> Repricing | None:
        return None if number in self.locked else self.repricings.get(number)

    def list_newest(self, before_id: int, limit: int) -> Sequence[Repricing]:
        found = sorted(self.repricings.values(), key=lambda each: -each.id)
        return [each for each in found if each.id < before_id][:limit]

    def unfinished(self) -> Sequence[int]:
        at_work = (RepricingState.SELECTING, RepricingState.APPLYING)
        return [number for number, each in self.repricings.items() if each.state in at_work]

    def set_state(self, number: int, before: RepricingState, state: RepricingState) -> bool:
        if self.repricings[number].state is not before:
            return False
        self.repricings[number] = replace(self.repricings[number], state=state)
        return True

    def sums(self, number: int) -> RepricingSums:
        ends = self.frozen[number].values()
        outcomes = [outcome for (of, _), outcome in self.outcomes.items() if of == number]
        done = [outcomes.count(RepricingOutcome.AMENDED), outcomes.count(RepricingOutcome.UNCHANGED)]
        old, new = sum(end.old_cost_micros for end in ends), sum(end.new_cost_micros for end in ends)
        return RepricingSums(len(ends), old, new, *done, len(outcomes) - sum(done))

    def groups(self, number: int, limit: int) -> Sequence[RepricingGroup]:
        return []

    def next_ends(self, repricing: Repricing, limit: int, seconds: float) -> Sequence[UUID]:
        settled = {entry.end_id: entry.user_id for entry in self.ledger if entry.kind == "usage" and entry.end_id}
        known = {**settled, **{row.id: row.user_id for row in self.failed.values() if row.kind == "usage"}}
        meant = [end_id for end_id, user_id in known.items() if repricing.user_id in (None, user_id)]
        return sorted(end_id for end_id in meant if end_id > repricing.selected_up_to)[:limit]

    def add_ends(self, number: int, ends: Sequence[RepricedEnd], up_to: UUID) -> None:
        self.frozen[number] |= {end.end_id: end for end in ends}
        self.repricings[number] = replace(self.repricings[number], selected_up_to=up_to)

    def open_ends(self, number: int, after_id: UUID, limit: int) -> Sequence[RepricedEnd]:
        ends = sorted(self.frozen[number].values(), key=lambda end: end.end_id)
        return [e for e in ends if e.end_id > after_id and (number, e.end_id) not in self.outcomes][:limit]

    def claim_run(self, number: int, end_id: UUID) -> bool:
        return (number, end_id) not in self.outcomes

    def set_outcome(self, number: int, end_id: UUID, outcome: RepricingOutcome | str) -> None:
        self.outcomes.setdefault((number, end_id), str(outcome))


def _figures(entry: LedgerEntry) -> Figures:
    usage = Usage(*(getattr(entry, name) or 0 for name in USAGE))
    return Figures(usage, entry.base_cost_micros or 0, entry.profit_micros or 0)


def is_whole(books: FakeRunBooks, opening_micros: int, wallet_id: WalletId) -> bool:
    """The ledger adds up to the balance, and what is owed to the wallet's debt."""
    wallet = books.wallets[wallet_id]
    posted = opening_micros + sum(e.amount_micros for e in books.ledger if e.wallet_id == wallet_id)
    owed = sum(row.cost_micros for row in books.failed.values() if row.wallet_id == wallet_id and row.is_debt)
    return (wallet.posted_micros, wallet.debt_micros) == (posted, owed)
