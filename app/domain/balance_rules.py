"""When a wallet is said to be low, and when a top-up is asked for: by rules of a wallet, or of its package."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.domain.errors import Invalid

REQUESTS_PER_MONTH_DEFAULT, REQUESTS_PER_MONTH_MAX = 10, 1_000
FAILURES_DEFAULT, FAILURES_MAX = 3, 100
ANSWER_SECONDS_DEFAULT, ANSWER_SECONDS_MIN, ANSWER_SECONDS_MAX = 86_400, 60, 30 * 86_400
# After a request that was declined the next one waits: what failed a moment ago fails again.
PAUSE_AFTER_DECLINE_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a rule is for: one wallet by its user, or all wallets with a package that have no rule of their own."""

    user_id: str | None = None
    package_id: str | None = None

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.package_id is None):
            reasons = ["Give either user_id or package_id."]
            raise Invalid(errors={"user_id": reasons, "package_id": reasons})


@dataclass(frozen=True, slots=True)
class LowBalance:
    """Below which balance a wallet is low: an amount, or basis points of what it had after its last top-up.

    Neither: it is never told to be, whatever its package says.
    """

    below_micros: int | None = None
    below_basis_points: int | None = None


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """Below which balance how much is asked for, within which bounds."""

    below_micros: int
    amount_micros: int
    requests_per_month: int
    micros_per_month: int
    failures_max: int
    answer_seconds: int


class RequestState(StrEnum):
    OPEN = "open"
    ANSWERED = "answered"
    """Its top-up has come."""
    DECLINED = "declined"
    """Whoever was asked has said that none will come."""
    UNANSWERED = "unanswered"
    """None has come in its time. One that comes later still answers it."""


@dataclass(frozen=True, slots=True)
class LowBalanceRule:
    id: int
    owner: Owner
    low_balance: LowBalance
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AutoTopUpRule:
    """Without `auto_top_up` nothing is asked for, whatever the package says."""

    id: int
    owner: Owner
    auto_top_up: AutoTopUp | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TopUpRequest:
    id: UUID
    user_id: str
    reference: str
    amount_micros: int
    state: RequestState
    reason: str | None
    transaction_id: int | None
    requested_at: datetime
    expires_at: datetime
    closed_at: datetime | None
