"""A posting: an administrator puts tokens into a wallet or takes some out, under a reference of their own."""

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
    """`reference` is unique among a wallet's postings and makes the posting idempotent.

    `caller` is stored, but a repeat by another caller is still the same posting.
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
