"""Corrections of a run after it ended, and chargebacks: what is given back, what is charged, and from where.

A run's account is what the ledger has taken for it and what of it is still owed. A correction says what the run shall
have cost; the difference is given back or charged. What is given back comes off what is owed first, the youngest part
of it first, and only then out of the ledger: nobody is paid tokens for a debt.
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
    """What a run used and what that costs, or by how much two such differ: each number may be below zero then."""

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
        usage = Usage(*(mine + theirs for mine, theirs in zip(astuple(self.usage), astuple(other.usage), strict=True)))
        return Figures(usage, self.base_micros + other.base_micros, self.profit_micros + other.profit_micros)

    def __neg__(self) -> Figures:
        return Figures(Usage(*(-number for number in astuple(self.usage))), -self.base_micros, -self.profit_micros)

    def __sub__(self, other: Figures) -> Figures:
        return self + -other


NOTHING = Figures(NO_USAGE, 0, 0)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """What of a run isn't paid: the end itself, or what an amendment has charged for it since."""

    id: UUID
    figures: Figures


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run's account gets to its target.

    Each part of `given_up` is entered as billed and as given back: it is owed no more, and the balance stays. `rest` is
    what there is to do then: given back out of the ledger where it is below zero, and charged where it is above.
    """

    given_up: tuple[OpenPart, ...]
    rest: Figures


def plan(taken: Figures, open_parts: Sequence[OpenPart], target: Figures) -> Plan:
    """From what the ledger has taken and the parts that are owed, oldest first, to what the run shall have cost."""
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
    """What an end shall have used instead (nothing at all for a reversal, None: what it has), and by which rate card it
    shall be priced (None: the one that it was priced by).

    `reference` is unique among an end's corrections: it makes the correction repeatable. Who asked for it
    is kept, and makes no other correction of it.
    """

    end_id: UUID
    kind: CorrectionKind
    reference: str
    reason: str
    usage: Usage | None = NO_USAGE
    price_id: int | None = None
    caller: Caller = SYSTEM

    def is_repeated_by(self, kind: str, reason: str | None, usage: Usage, price_id: int | None) -> bool:
        """Whether a correction of these was asked for by the same words."""
        return (
            (kind, reason) == (self.kind, self.reason)
            and self.usage in (None, usage)
            and self.price_id in (None, price_id)
        )


@dataclass(frozen=True, slots=True)
class OwnReversal:
    """A service server takes back a run of its own, which it names by one of the keys that the end came with."""

    user_id: str
    reference: str
    reason: str
    process_id: str | None = None
    idempotency_key: str | None = None
    caller: Caller = SYSTEM


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A top-up that was taken back from us: the wallet gives the tokens back, or owes them.

    `reference` is unique among a wallet's postings.
    """

    user_id: str
    amount_micros: int
    reference: str
    reason: str | None = None
    caller: Caller = SYSTEM
