"""Every way this client fails.

TokenProcessError
 ├─ ConfigurationError        a setting is missing or wrong; nothing was sent
 ├─ AuthenticationError       401: the server doesn't know SERVER_API_KEY
 ├─ WalletNotFoundError       404: no wallet (start: none that is active with a valid package)
 ├─ FeatureNotAvailableError  403: the feature endpoint doesn't exist or isn't in the package
 ├─ InsufficientTokensError   start said not-access-able; `token` is the balance
 │   └─ HoldRefusedError      a hold could not be extended by that much; it is as it was
 ├─ HoldNotFoundError         404: there is no open hold with this process id
 ├─ ReversalRefusedError      403, 409: this run can't be taken back (any more)
 ├─ ValidationError           400, 413, 415: `errors` names each field; also raised before anything is sent
 ├─ ConflictError             409: the idempotency key was used with another body
 ├─ UnavailableError          no usable answer in time, or 5xx: the same call may be repeated
 ├─ UsageError                the feature ran, and what it used isn't known; `result` is what it returned
 │   ├─ UsageMissingError     a model was called and reported no usage
 │   └─ UsageUnreadableError  its report can't be read or doesn't add up (a ValidationError too)
 └─ OutboxError               the outbox file can't be used
     └─ OutboxFullError       it holds as many ends as it may

An error of a call says how to repeat it: `getattr(client, error.operation)(**error.repeat)`, which carries
the idempotency key. Errors keep all of it when they are pickled, or stored by Celery as JSON.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar


class TokenProcessError(Exception):
    """The root of the tree.

    `status`, `code`, `errors`, `request_id` and `data` are the server's, where it gave them. `operation`
    names the client's method that failed, `idempotency_key` its key, and `repeat` its arguments. `queued`:
    the end stands in the outbox, from where it will still be sent, so there is nothing to repeat.
    """

    _details: ClassVar[tuple[str, ...]] = (
        "status",
        "code",
        "errors",
        "request_id",
        "data",
        "operation",
        "idempotency_key",
        "repeat",
        "queued",
    )

    def __init__(
        self,
        message: str = "",
        details: Mapping[str, Any] | None = None,
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
        self.operation: str | None = None
        self.idempotency_key: str | None = None
        self.repeat: dict[str, Any] | None = None
        self.queued = False
        # As `args` gave them, when the error is made again elsewhere.
        for name in self._details:
            if details and name in details:
                setattr(self, name, details[name])

    # A property, as what was noted since the error was made belongs to it as well.
    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The message and all else in plain JSON: what Celery's JSON keeps of an error is its `args`."""
        details = {name: value for name in self._details if (value := getattr(self, name))}
        return (self.message, _plain(details)) if details else (self.message,)

    @property
    def token(self) -> int | Decimal | None:
        """The user's balance, where the answer carried it."""
        token = self.data.get("token")
        # Text only where the error came through JSON, which knows no Decimal.
        return Decimal(token) if isinstance(token, str) else token

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


class HoldRefusedError(InsufficientTokensError):
    pass


class HoldNotFoundError(TokenProcessError):
    pass


class ReversalRefusedError(TokenProcessError):
    """`code`: reversal_not_allowed (too late, or the feature allows none), exceeds_original (nothing is left
    to give back), or written_off.
    """


class ValidationError(TokenProcessError):
    pass


class ConflictError(TokenProcessError):
    pass


class UnavailableError(TokenProcessError):
    """`retry_after_seconds` is the server's wish, where it had one."""

    _details: ClassVar[tuple[str, ...]] = (*TokenProcessError._details, "retry_after_seconds")

    def __init__(
        self,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        *,
        retry_after_seconds: float | None = None,
        **more: Any,
    ) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message, details, **more)

    @property
    def away(self) -> bool:
        """Nobody there, or nobody who can work: not the server's own trouble with this one call."""
        return self.status != 500


class UsageError(TokenProcessError):
    """`seen` is what there was to read, an object for each answer; `result` the feature's result."""

    _details: ClassVar[tuple[str, ...]] = (*TokenProcessError._details, "seen")

    def __init__(self, message: str = "", details: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        self.result: Any = None
        super().__init__(message, details, **more)

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.result)
        except Exception:
            # A result can be anything: where it can't come along, the error does without it.
            return (type(self), (self.message,), {**self.__dict__, "result": None})
        return (type(self), (self.message,), self.__dict__)


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
