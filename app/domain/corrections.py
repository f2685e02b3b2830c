"""Corrections of runs that have ended, and chargebacks: what is given back, what is charged, and from where.

A run's account is the sum of what the ledger has taken for it and what of it is still owed. A correction states what
the run should have cost; the difference is given back or charged. A refund first reduces what is owed, youngest part
first, and only then is posted to the ledger: nobody is paid tokens for a debt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum
from uuid import UUID

from app.domain.keys import SYSTEM, Caller
from app.domain.pricing import Price
from app.domain.usage import Usage

REVERSAL_SECONDS_MAX = 365 * 86_400
NO_USAGE = Usage(0, 0, requests=0)


class CorrectionKind(StrEnum):
    REVERSAL = "reversal"
    AMENDMENT = "amendment"
    CHARGEBACK = "chargeback"


@dataclass(frozen=True, slots=True)
class Figures:
    """A run's usage and its cost. Also used for differences of these, where each number may be negative."""

    usage: Usage
    base_micros: int
    profit_micros: int

    @classmethod
    def of(cls, usage: Usage, price: Price) -> Figures:
        return cls(usage, price.base_micros, price.profit_micros)

    @property
    def cost_micros(self) -> int:
        return self.base_micros + self.profit_micros

    @property
    def are_nothing(self) -> bool:
        return self == NOTHING

    def __add__(self, other: Figures) -> Figures:
        usage = Usage(*(left + right for left, right in zip(astuple(self.usage), astuple(other.usage), strict=True)))
        return Figures(usage, self.base_micros + other.base_micros, self.profit_micros + other.profit_micros)

    def __neg__(self) -> Figures:
        return Figures(Usage(*(-number for number in astuple(self.usage))), -self.base_micros, -self.profit_micros)

    def __sub__(self, other: Figures) -> Figures:
        return self + -other


NOTHING = Figures(NO_USAGE, 0, 0)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """An unpaid part of a run: the end itself, or what an amendment has charged for it since."""

    id: UUID
    figures: Figures


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run's account gets to its target.

    Each part of `given_up` is entered in the ledger as billed and as given back, so that it is no longer owed and the
    balance doesn't change. `rest` remains to be done after that: given back in the ledger where it is negative, charged
    where it is positive.
    """

    given_up: tuple[OpenPart, ...]
    rest: Figures


def plan(taken: Figures, open_parts: Sequence[OpenPart], target: Figures) -> Plan:
    """The plan from what the ledger has taken and the parts owed (oldest first) to what the run should have cost."""
    rest = target - sum((part.figures for part in open_parts), taken)
    given_up: list[OpenPart] = []
    for part in reversed(open_parts):
        if rest.cost_micros >= 0:
            break
        given_up.append(part)
        rest += part.figures
    return Plan(tuple(given_up), rest)


@dataclass(frozen=True, slots=True)
class CorrectionRequest:
    """What an end should have used (`usage` None: unchanged; NO_USAGE for a reversal), and by which rate card it should
    be priced (`price_id` None: the one that priced it).

    `reference` is unique among an end's corrections and makes the request idempotent. `caller` is stored, but a repeat
    by another caller is still the same correction.
    """

    end_id: UUID
    kind: CorrectionKind
    reference: str
    reason: str
    usage: Usage | None = NO_USAGE
    price_id: int | None = None
    caller: Caller = SYSTEM

    def is_repeated_by(self, kind: str, reason: str | None, usage: Usage, price_id: int | None) -> bool:
        """Whether a request with these values repeats this correction."""
        return (
            (kind, reason) == (self.kind, self.reason)
            and self.usage in (None, usage)
            and self.price_id in (None, price_id)
        )


@dataclass(frozen=True, slots=True)
class OwnReversal:
    """A service server reverses a run of its own, named by the process id or idempotency key of its end."""

    user_id: str
    reference: str
    reason: str
    process_id: str | None = None
    idempotency_key: str | None = None
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A top-up whose payment was taken back: the wallet returns the tokens, or owes them.

    `reference` is unique among a wallet's postings.
    """

    user_id: str
    amount_micros: int
    reference: str
    reason: str | None = None
    caller: Caller = SYSTEM
