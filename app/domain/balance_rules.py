"""When a wallet counts as low, and when a top-up is requested: by a rule of the wallet, or else of its package."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.domain.errors import Invalid

REQUESTS_PER_MONTH_DEFAULT, REQUESTS_PER_MONTH_MAX = 10, 1_000
FAILURES_DEFAULT, FAILURES_MAX = 3, 100
ANSWER_SECONDS_DEFAULT, ANSWER_SECONDS_MIN, ANSWER_SECONDS_MAX = 86_400, 60, 30 * 86_400
# After a declined request the next one waits this long: it would most likely be declined again at once.
PAUSE_AFTER_DECLINE_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a rule applies to: one wallet, named by its user, or all wallets of a package that have no rule of
    their own.
    """

    user_id: str | None = None
    package_id: str | None = None

    def __post_init__(self) -> None:
        if (self.user_id is None) == (self.package_id is None):
            reasons = ["Give either user_id or package_id."]
            raise Invalid(errors={"user_id": reasons, "package_id": reasons})


@dataclass(frozen=True, slots=True)
class LowBalance:
    """The balance below which a wallet is low: an amount, or basis points of the balance after its last top-up.

    With neither the wallet is never reported as low, whatever its package's rule says.
    """

    below_micros: int | None = None
    below_basis_points: int | None = None


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """The balance below which a top-up is requested, its amount, and the limits on such requests."""

    below_micros: int
    amount_micros: int
    requests_per_month: int
    micros_per_month: int
    failures_max: int
    answer_seconds: int


class RequestState(StrEnum):
    OPEN = "open"
    ANSWERED = "answered"
    """The requested top-up has been posted."""
    DECLINED = "declined"
    """The receiver of the request has said that no top-up will come."""
    UNANSWERED = "unanswered"
    """No top-up came in time. One that comes later still answers the request."""


@dataclass(frozen=True, slots=True)
class LowBalanceRule:
    id: int
    owner: Owner
    low_balance: LowBalance
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AutoTopUpRule:
    """With `auto_top_up` None no top-up is requested, whatever the package's rule says."""

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
