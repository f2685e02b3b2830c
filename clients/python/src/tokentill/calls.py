"""One call to the server: its attempts, their limits and pauses, and who is told of them.

No answer, an unusable one and 5xx are tried again; a refusal is not. Every attempt carries the same
idempotency key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from tokentill import wire
from tokentill.away import Away
from tokentill.errors import TokenProcessError, UnavailableError
from tokentill.hooks import CallEvent, Hook, Hooks, RetryEvent, Span, call_span
from tokentill.settings import Settings, backoff_seconds
from tokentill.steps import Interrupted, Send, Sleep, Steps, Tell
from tokentill.version import __version__

T = TypeVar("T")

# What a shorter attempt would come to know is that time is up, in place of what the last one did.
ATTEMPT_SECONDS_MIN = 0.05


class Caller:
    """Makes calls, and keeps in mind whether the server answers them."""

    def __init__(self, settings: Settings, hooks: Hooks | None = None) -> None:
        self.settings = settings
        self.away = Away(settings)
        self._hooks = hooks or Hooks()

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-server-api-key": self.settings.api_key,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"tokentill-python/{__version__}",
        }

    def ask_breaker(self) -> None:
        if not self.away.worth_asking():
            raise UnavailableError("Tokentill is unavailable: the last calls got no answer")

    def call(
        self,
        operation: str,
        path: str,
        body: str,
        *,
        limit_seconds: float,
        parse: Callable[..., T],
        key: str | None = None,
        looking: bool = False,
    ) -> Steps[T]:
        """One call with its retries: no answer, an unusable one and 5xx are tried again until time is up.

        `looking`: it was made to see whether the server is back, so its failure says nothing new.
        """
        call = _Call(operation, path, body, time.monotonic() + limit_seconds, key)
        began = time.monotonic()
        failure: TokenProcessError | None = None
        try:
            with call_span(operation, key) as span:
                result = yield from self._attempts(call, parse, span)
        except TokenProcessError as error:
            failure = error
        if not isinstance(failure, UnavailableError):
            self.away.answered()
        elif failure.away and not looking:
            self.away.failed()
        latency_seconds = time.monotonic() - began
        event = CallEvent(operation, call.status, latency_seconds, call.attempts, failure, key)
        yield from self.tell(self._hooks.on_call, event)
        if failure is not None:
            try:
                raise failure
            finally:
                # An error whose own frame knows it is only freed by the garbage collector.
                del failure, event
        return result

    def _attempts(self, call: _Call, parse: Callable[..., T], span: Span) -> Steps[T]:
        while True:
            call.attempts += 1
            headers = {} if call.key is None else {"Idempotency-Key": call.key}
            span.attempt(headers, call.attempts)
            left_seconds = max(call.deadline - time.monotonic(), 0.001)
            answer = yield Send(
                call.path, call.body, headers, min(self.settings.timeout_seconds, left_seconds)
            )
            call.status = answer.status_code if isinstance(answer, httpx.Response) else None
            span.status(call.status)
            try:
                return _read(answer, parse)
            except UnavailableError as error:
                pause_seconds = max(backoff_seconds(call.attempts), error.retry_after_seconds or 0.0)
                late = time.monotonic() + pause_seconds + ATTEMPT_SECONDS_MIN > call.deadline
                if late or isinstance(answer, Interrupted):
                    raise
                event = RetryEvent(call.operation, call.attempts, pause_seconds, error)
            yield from self.tell(self._hooks.on_retry, event)
            # See `call`.
            del event
            yield Sleep(pause_seconds)

    def tell(self, hook: Hook | None, event: Any) -> Steps[None]:
        if hook is not None:
            yield Tell("A hook", lambda: hook(event))


@dataclass
class _Call:
    """One call on its way through its attempts."""

    operation: str
    path: str
    body: str
    deadline: float
    key: str | None
    attempts: int = 0
    status: int | None = None


def _read(answer: httpx.Response | httpx.RequestError, parse: Callable[..., T]) -> T:
    if not isinstance(answer, httpx.Response):
        what = "no answer in time" if isinstance(answer, httpx.TimeoutException) else "no connection"
        detail = f": {answer}" if str(answer) else ""
        raise UnavailableError(f"Tokentill is unavailable, {what}{detail}") from answer
    try:
        envelope = wire.parse(answer.status_code, answer.text)
    except UnavailableError as error:
        error.retry_after_seconds = _retry_after_seconds(answer)
        raise
    if parse in (wire.parse_end, wire.parse_reversal):
        return parse(envelope, replayed=answer.headers.get("Idempotent-Replayed") == "true")
    return parse(envelope)


def _retry_after_seconds(answer: httpx.Response) -> float | None:
    """The header's seconds, given as a number or as a date."""
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(float(value), 0.0) if value.replace(".", "", 1).isdigit() else _seconds_until(value)
    except (ValueError, TypeError):
        return None


def _seconds_until(date: str) -> float:
    when = parsedate_to_datetime(date)
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max((when - datetime.now(timezone.utc)).total_seconds(), 0.0)
