"""Webhooks: the types of events, when a delivery is retried, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """The events that receivers get. Triggers of the migrations write them as literals; a test compares both."""

    LOW_BALANCE = "wallet.low_balance"
    DEPLETED = "wallet.depleted"
    TOPPED_UP = "wallet.topped_up"
    DEAD_LETTERED = "end.dead_lettered"
    TOP_UP_REQUESTED = "topup.requested"
    TOP_UP_STOPPED = "topup.stopped"
    TEST = "webhook.test"
    """Made by an operator, for one endpoint."""


# The types that an endpoint can subscribe to.
SUBSCRIBABLE = tuple(kind for kind in EventType if kind is not EventType.TEST)


class EndpointState(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


class DisabledReason(StrEnum):
    OPERATOR = "operator"
    FAILING = "failing"
    """No delivery succeeded for days."""
    GONE = "gone"
    """The endpoint answered 410."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class AttemptError(StrEnum):
    """Why an attempt got no HTTP status of its own that counts."""

    REFUSED_ADDRESS = "refused_address"
    """The host resolves to an address that isn't public."""
    UNKNOWN_HOST = "unknown_host"
    TIMEOUT = "timeout"
    TLS = "tls"
    """The certificate isn't for that host, or no authority that we trust has signed it."""
    CONNECTION = "connection"
    """The host can't be reached, or broke the connection off."""
    BAD_ANSWER = "bad_answer"
    """The reply isn't HTTP."""
    STATUS = "status"
    """The status isn't 2xx; redirects are not followed."""


# Standard Webhooks' schedule: the wait before each attempt after the first, about three days in all.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
ATTEMPTS_MAX = len(RETRY_SECONDS) + 1
# Each wait is lengthened by up to this share, so that deliveries that failed together don't retry together.
JITTER = 0.2
# The longest wait that a receiver can ask for with Retry-After.
RETRY_AFTER_SECONDS_MAX = 86_400

GONE_STATUS = 410
# Statuses with which a receiver asks for a pause: then all its deliveries wait.
BUSY_STATUSES = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an attempt: an HTTP status, or the error instead of one."""

    duration_seconds: float
    status: int | None = None
    error: AttemptError | None = None
    excerpt: str | None = None
    """The beginning of the reply's body."""
    detail: str | None = None
    """Details of the error, for people."""
    retry_after_seconds: int | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def reason(self) -> str | None:
        """Why the attempt failed, in short."""
        if self.is_success:
            return None
        if self.error is None:
            return AttemptError.STATUS
        return self.error if self.detail is None else f"{self.error}: {self.detail}"


def retry_seconds(attempts: int, answer: Answer, share: float) -> float | None:
    """How long to wait after `attempts` attempts, of which the last one failed; None: give up.

    `share` is a random number from 0 to 1.
    """
    if attempts >= ATTEMPTS_MAX:
        return None
    seconds = RETRY_SECONDS[attempts - 1] * (1 + JITTER * share)
    return max(seconds, pause_seconds(answer))


def pause_seconds(answer: Answer) -> int:
    """How long the receiver asks to be left alone, in seconds."""
    if answer.status not in BUSY_STATUSES or answer.retry_after_seconds is None:
        return 0
    return min(answer.retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
