"""Webhooks: which events there are, when a delivery is tried again, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """What receivers are told of. Triggers of the migrations write them as literals; a test holds both together."""

    LOW_BALANCE = "wallet.low_balance"
    DEPLETED = "wallet.depleted"
    TOPPED_UP = "wallet.topped_up"
    DEAD_LETTERED = "end.dead_lettered"
    TOP_UP_REQUESTED = "topup.requested"
    TOP_UP_STOPPED = "topup.stopped"
    TEST = "webhook.test"
    """Made by an operator, for one endpoint."""


# What an endpoint can ask for.
SUBSCRIBABLE = tuple(kind for kind in EventType if kind is not EventType.TEST)


class EndpointState(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


class DisabledReason(StrEnum):
    OPERATOR = "operator"
    FAILING = "failing"
    """Nothing could be delivered for days."""
    GONE = "gone"
    """It answered 410."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class AttemptError(StrEnum):
    """Why an attempt brought no answer that counts."""

    REFUSED_ADDRESS = "refused_address"
    """Its name leads to an address that isn't public."""
    UNKNOWN_HOST = "unknown_host"
    TIMEOUT = "timeout"
    TLS = "tls"
    """The certificate isn't for that name, or is nobody's that we trust."""
    CONNECTION = "connection"
    """It can't be reached, or broke off."""
    BAD_ANSWER = "bad_answer"
    """What it sent is no HTTP."""
    STATUS = "status"
    """It answered with a status that isn't 2xx; redirects are not followed."""


# Standard Webhooks' schedule: the wait before each attempt after the first, three days in all.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
ATTEMPTS_MAX = len(RETRY_SECONDS) + 1
# Each wait is longer by up to this share, so that what failed together doesn't come back together.
JITTER = 0.2
# A receiver that asks for more patience has that much.
RETRY_AFTER_SECONDS_MAX = 86_400

GONE_STATUS = 410
# With these a receiver asks to be let alone for a while: all that is for it waits.
BUSY_STATUSES = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt brought: an HTTP status, or why there is none."""

    duration_seconds: float
    status: int | None = None
    error: AttemptError | None = None
    excerpt: str | None = None
    """The beginning of the answer's body."""
    detail: str | None = None
    """What is known of the error besides, for people."""
    retry_after_seconds: int | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def reason(self) -> str | None:
        """Why it failed, in short."""
        if self.is_success:
            return None
        if self.error is None:
            return AttemptError.STATUS
        return self.error if self.detail is None else f"{self.error}: {self.detail}"


def retry_seconds(attempts: int, answer: Answer, share: float) -> float | None:
    """How long to wait after so many attempts, the last of which failed; None: no more are made.

    `share` is from 0 to 1, by chance.
    """
    if attempts >= ATTEMPTS_MAX:
        return None
    seconds = RETRY_SECONDS[attempts - 1] * (1 + JITTER * share)
    return max(seconds, pause_seconds(answer))


def pause_seconds(answer: Answer) -> int:
    """For how long a receiver wants to be let alone."""
    if answer.status not in BUSY_STATUSES or answer.retry_after_seconds is None:
        return 0
    return min(answer.retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
