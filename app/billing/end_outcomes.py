"""An end on its way: priced, then decided, then with its outcome. None of these values changes.

Priced ──decide──▶ Decided ──record──▶ Recorded | Replayed | Refused
               └─▶ Refused | NotCached | Unused
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias
from uuid import UUID

from app.domain.ends import AcceptedEnd, EndAnswer, EndRequest
from app.domain.errors import DomainError, IdempotencyConflict, UnknownPayloadVersion
from app.domain.pricing import Price
from app.domain.wallets import Deduction, WalletId
from app.stores.redis.wallet_calls import EndMark, mark_of


@dataclass(frozen=True, slots=True)
class Priced:
    """A validated end with the price that it is billed at, whoever decides it."""

    id: UUID
    request: EndRequest
    wallet_id: WalletId
    price: Price
    past_cache: bool = False
    """Its wallet couldn't be cached: Postgres decides."""

    @property
    def mark(self) -> EndMark:
        return mark_of(self.request, self.wallet_id, self.id, self.price)

    def accepted(self, verdict: Deduction, spendable_micros: int) -> AcceptedEnd:
        return AcceptedEnd(
            id=self.id,
            wallet_id=self.wallet_id,
            request=self.request,
            price=self.price,
            deduction=verdict,
            spendable_micros=spendable_micros,
        )


class Origin(Enum):
    """Who decided an end, which says what Redis knows of it."""

    MARKED = "Redis, which marked it on the cached wallet"
    SEEN = "Redis, when its key came first: the end has the first call's id, and the mark is that call's"
    PAST_CACHE = "Postgres, as the wallet can't be cached"
    PAST_REDIS = "Postgres, as Redis is away: what is cached there is older than this"

    @property
    def is_redis(self) -> bool:
        return self in (Origin.MARKED, Origin.SEEN)


@dataclass(frozen=True, slots=True)
class Decided:
    """To be recorded before anybody hears yes."""

    end: AcceptedEnd
    origin: Origin

    @property
    def wallet_id(self) -> WalletId:
        return self.end.wallet_id

    @property
    def mark(self) -> EndMark | None:
        """What Redis holds of this call's own."""
        end = self.end
        return mark_of(end.request, end.wallet_id, end.id, end.price) if self.origin is Origin.MARKED else None

    def answered(self) -> Recorded | Replayed:
        """Its outcome once it is durable."""
        return Replayed(self.end.id, _answer(self.end)) if self.origin is Origin.SEEN else Recorded(self.end)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Durable by this call: in the inbox or in the spool."""

    end: AcceptedEnd


@dataclass(frozen=True, slots=True)
class Replayed:
    """Its key is known: answered as the first time. `end_id` is the first call's."""

    end_id: UUID
    first: EndAnswer


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of it is kept."""

    error: Exception


@dataclass(frozen=True, slots=True)
class NotCached:
    """The wallet has to be loaded before this end can be decided."""


@dataclass(frozen=True, slots=True)
class Unused:
    """The run used nothing: it costs nothing and leaves no record. Its hold has ended all the same."""

    user_id: str
    spendable_micros: int


Outcome: TypeAlias = Recorded | Replayed | Refused | NotCached | Unused


def answer_of(outcome: Recorded | Replayed | Refused | Unused) -> EndAnswer | Exception:
    """What the caller hears."""
    match outcome:
        case Recorded(end):
            return _answer(end)
        case Replayed(_, first):
            return EndAnswer(first.user_id, first.spendable_micros, first.cost_micros, first.deduction, replayed=True)
        case Refused(error):
            return error
        case Unused(user_id, spendable_micros):
            return EndAnswer(user_id, spendable_micros, 0, Deduction.COVERED)


def reuse_of_key(request: EndRequest, payload_hash: str) -> DomainError | None:
    """Why a request can't have the answer that its key was given first, if that came with another body."""
    try:
        return None if request.has_payload(payload_hash) else IdempotencyConflict()
    except UnknownPayloadVersion as error:
        return error


def _answer(end: AcceptedEnd) -> EndAnswer:
    return EndAnswer(end.request.user_id, end.spendable_micros, end.price.cost_micros, end.deduction)
