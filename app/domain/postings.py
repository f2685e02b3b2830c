"""A posting: tokens an administrator puts into a wallet or takes out, under a reference of their own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.errors import Invalid
from app.domain.keys import SYSTEM, Caller


class PostingKind(StrEnum):
    TOP_UP = "top_up"
    REFUND = "refund"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True)
class Posting:
    """`reference` is unique among a wallet's postings: it makes the posting repeatable.

    Who asked for it is kept, and makes no other posting of it.
    """

    user_id: str
    kind: PostingKind
    amount_micros: int
    reference: str
    reason: str | None = None
    caller: Caller = SYSTEM

    def __post_init__(self) -> None:
        if self.amount_micros == 0:
            raise Invalid(errors={"token": ["Must not be zero."]})
        if self.amount_micros < 0 and self.kind is not PostingKind.ADJUSTMENT:
            raise Invalid(errors={"token": ["Must not be negative."]})
