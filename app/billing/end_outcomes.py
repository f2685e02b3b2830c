"""The states of an end during a call: priced, decided, and its outcome. All are immutable.

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
    """A validated end with the price at which it is billed."""

    id: UUID
    request: EndRequest
    wallet_id: WalletId
    price: Price
    past_cache: bool = False
    """The wallet couldn't be cached: Postgres decides."""

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
    """Which store decided an end, and so whether Redis has a mark of it."""

    MARKED = "Redis, which marked it on the cached wallet"
    SEEN = "Redis, when its key came first: the end has the first call's id, and the mark is that call's"
    PAST_CACHE = "Postgres, as the wallet can't be cached"
    PAST_REDIS = "Postgres, as Redis is away: what is cached there is older than this"

    @property
    def is_redis(self) -> bool:
        return self in (Origin.MARKED, Origin.SEEN)


@dataclass(frozen=True, slots=True)
class Decided:
    """A decided end. It has to be recorded before the caller is answered."""

    end: AcceptedEnd
    origin: Origin

    @property
    def wallet_id(self) -> WalletId:
        return self.end.wallet_id

    @property
    def mark(self) -> EndMark | None:
        """The mark that this call has set on the cached wallet. None: it has set none."""
        end = self.end
        return mark_of(end.request, end.wallet_id, end.id, end.price) if self.origin is Origin.MARKED else None

    def answered(self) -> Recorded | Replayed:
        """The outcome once this end is durable."""
        return Replayed(self.end.id, _answer(self.end)) if self.origin is Origin.SEEN else Recorded(self.end)


@dataclass(frozen=True, slots=True)
class Recorded:
    """This call has made the end durable, in the inbox or in the spool."""

    end: AcceptedEnd


@dataclass(frozen=True, slots=True)
class Replayed:
    """The end's key was used before: the first answer is repeated. `end_id` is the id of the first call's end."""

    end_id: UUID
    first: EndAnswer


@dataclass(frozen=True, slots=True)
class Refused:
    """The end is refused with this error, and nothing of it is kept."""

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
    """The answer for the caller, or the error to raise."""
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
    """The error for a key that first came with another body. None if the bodies are the same."""
    try:
        return None if request.has_payload(payload_hash) else IdempotencyConflict()
    except UnknownPayloadVersion as error:
        return error


def _answer(end: AcceptedEnd) -> EndAnswer:
    return EndAnswer(end.request.user_id, end.spendable_micros, end.price.cost_micros, end.deduction)
