"""What a server in memory remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from tokentill.testing.bodies import Refused
from tokentill.testing.prices import Price, ProfitRule
from tokentill.wire import Amount


@dataclass(frozen=True)
class MemoryEnd:
    """An end as it was billed. Amounts are tokens."""

    user_id: str
    feature_endpoint_id: str
    input_token: int
    output_token: int
    cached_input_token: int
    cache_write_token: int
    reasoning_token: int
    requests: int
    model: str | None
    process_id: str | None
    idempotency_key: str | None
    base_cost: Amount
    profit: Amount
    cost: Amount
    price_id: int | None


@dataclass
class Hold:
    amount_micros: int
    expires_at: datetime


@dataclass
class Wallet:
    package_id: str
    posted_micros: int = 0
    overdraft_micros: int = 0
    active: bool = True
    # Costs that were not covered, the oldest first.
    debts_micros: list[int] = field(default_factory=list)
    holds: dict[str, Hold] = field(default_factory=dict)

    @property
    def covered_micros(self) -> int:
        return self.posted_micros - sum(self.debts_micros)

    @property
    def spendable_micros(self) -> int:
        return self.covered_micros - sum(hold.amount_micros for hold in self.holds.values())

    @property
    def room_micros(self) -> int:
        return self.spendable_micros + self.overdraft_micros

    def deduct(self, cost_micros: int, own_hold_micros: int) -> bool:
        """Whether it was covered; else it is a debt. What a run reserved itself debt doesn't take away."""
        after_micros = self.covered_micros - cost_micros
        if cost_micros <= own_hold_micros:
            after_micros = self.posted_micros - cost_micros
        covered = cost_micros == 0 or after_micros >= -self.overdraft_micros
        if covered:
            self.posted_micros -= cost_micros
        else:
            self.debts_micros.append(cost_micros)
        return covered

    def give_back(self, cost_micros: int) -> bool:
        """Whether a debt went by it; else the tokens are back on the balance."""
        owed = cost_micros in self.debts_micros
        if owed:
            self.debts_micros.remove(cost_micros)
        else:
            self.posted_micros += cost_micros
        self.collect()
        return owed

    def collect(self) -> None:
        """Pay what there is enough for, in order."""
        while self.debts_micros and self.posted_micros + self.overdraft_micros >= self.debts_micros[0]:
            self.posted_micros -= self.debts_micros.pop(0)


@dataclass(frozen=True)
class Feature:
    min_micros: int
    refuses_unpriced: bool
    reversal_seconds: int = 0


@dataclass(frozen=True)
class Answered:
    """What a key was used for, and the answer to it."""

    body: Any
    data: dict[str, Any]


@dataclass
class Account:
    """What a run has cost, to be taken back."""

    end: MemoryEnd
    cost_micros: int
    accepted_at: datetime
    # By reference.
    reversals: dict[str, Answered] = field(default_factory=dict)
    reversed: bool = False


@dataclass
class State:
    features: dict[str, Feature] = field(default_factory=dict)
    # None: all features.
    packages: dict[str, set[str] | None] = field(default_factory=lambda: {"default": None})
    wallets: dict[str, Wallet] = field(default_factory=dict)
    prices: list[Price] = field(default_factory=list)
    profit_rules: list[ProfitRule] = field(default_factory=list)
    ends: list[MemoryEnd] = field(default_factory=list)
    user_of_process: dict[str, str] = field(default_factory=dict)
    starts: dict[tuple[str, str], Answered] = field(default_factory=dict)
    extensions: dict[tuple[str, str], Answered] = field(default_factory=dict)
    # By idempotency key and by process id.
    ended: dict[tuple[str, str], Answered] = field(default_factory=dict)
    accounts: dict[tuple[str, str], Account] = field(default_factory=dict)
    passed: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self.passed

    def wallet(self, user_id: str) -> Wallet:
        """With its open holds only. Raises Refused."""
        wallet = self.wallets.get(user_id)
        if wallet is None:
            raise Refused(404, "wallet_not_found", "User wallet not found")
        now = self.now()
        wallet.holds = {name: hold for name, hold in wallet.holds.items() if hold.expires_at > now}
        return wallet
