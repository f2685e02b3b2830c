"""Every way this client fails.

TokenProcessError
 ├─ ConfigurationError        a setting is missing or wrong; nothing was sent
 ├─ AuthenticationError       401: the server doesn't know SERVER_API_KEY
 ├─ WalletNotFoundError       404: no wallet (start: none that is active with a valid package)
 ├─ FeatureNotAvailableError  403: the feature endpoint doesn't exist or isn't in the package
 ├─ InsufficientTokensError   start said not-access-able; `token` is the balance
 ├─ ValidationError           400, 413, 415: `errors` names each field; also raised before anything is sent
 ├─ ConflictError             409: the idempotency key was used with another body
 ├─ UnavailableError          no usable answer in time, or 5xx: the same call may be repeated
 ├─ UsageError                the feature ran, and what it used isn't known; `result` is what it returned
 │   ├─ UsageMissingError     a model was called and reported no usage
 │   └─ UsageUnreadableError  its report can't be read or doesn't add up (a ValidationError too)
 └─ OutboxError               the outbox file can't be used
     └─ OutboxFullError       it holds as many ends as it may
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


class TokenProcessError(Exception):
    """The root of the tree. Everything but `message` is the server's, where it gave it."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        errors: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.errors = dict(errors or {})
        self.request_id = request_id
        self.data = dict(data or {})

    @property
    def token(self) -> int | Decimal | None:
        """The user's balance, where the answer carried it."""
        return self.data.get("token")

    @property
    def refused(self) -> bool:
        """The server itself refused this very body: sending the same again can only be refused again."""
        return self.status in {400, 403, 404, 409} and self.code not in {None, "not_found"}

    def __str__(self) -> str:
        details = [f"{field}: {' '.join(map(str, _as_list(why)))}" for field, why in self.errors.items()]
        if self.request_id:
            details.append(f"request {self.request_id}")
        return f"{self.message} ({'; '.join(details)})" if details else self.message


class ConfigurationError(TokenProcessError):
    pass


class AuthenticationError(TokenProcessError):
    pass


class WalletNotFoundError(TokenProcessError):
    pass


class FeatureNotAvailableError(TokenProcessError):
    pass


class InsufficientTokensError(TokenProcessError):
    pass


class ValidationError(TokenProcessError):
    pass


class ConflictError(TokenProcessError):
    pass


class UnavailableError(TokenProcessError):
    """`queued` tells whether the end stands in the outbox, from where it will still be sent."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, queued: bool = False, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after
        self.queued = queued


class UsageError(TokenProcessError):
    """`seen` is what there was to read, an object for each answer; `result` the feature's result."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.seen: list[dict[str, Any]] = []
        self.result: Any = None


class UsageMissingError(UsageError):
    pass


class UsageUnreadableError(UsageError, ValidationError):
    pass


class OutboxError(TokenProcessError):
    pass


class OutboxFullError(OutboxError):
    pass


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
