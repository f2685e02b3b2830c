"""What the client tells of itself: hooks for metrics, and OpenTelemetry spans where its API is installed.

Hooks may be plain or asynchronous functions. They are called while a run waits, so they should only count;
one that raises is logged, and costs nobody anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokentill.errors import TokenProcessError
from tokentill.version import __version__

try:
    from opentelemetry import propagate, trace
except ImportError:  # pragma: no cover - the tests have it
    _tracer = None
else:
    _tracer = trace.get_tracer("tokentill", __version__)


@dataclass(frozen=True)
class CallEvent:
    """A call is over: `operation` is start, end, end_batch, cancel or extend_hold.

    `latency_seconds` is all of it, with its attempts and pauses. `status` is the last answer's, None where
    there was none; `error` is None where it went well.
    """

    operation: str
    status: int | None
    latency_seconds: float
    attempts: int
    error: TokenProcessError | None
    idempotency_key: str | None


@dataclass(frozen=True)
class RetryEvent:
    """Attempt number `attempt` failed, and the next one follows after `pause_seconds`."""

    operation: str
    attempt: int
    pause_seconds: float
    error: TokenProcessError


@dataclass(frozen=True)
class OutboxEvent:
    """Ends were put into the outbox to stay (`queued`), or a round of sending is over.

    `depth` of them wait in it now, and `refused` stand in it that the server refused.
    """

    depth: int
    refused: int
    queued: int = 0
    sent: int = 0
    postponed: int = 0


Hook: TypeAlias = "Callable[[Any], Awaitable[None] | None]"


@dataclass(frozen=True)
class Hooks:
    """Each is called with its event: CallEvent, RetryEvent, OutboxEvent."""

    on_call: Callable[[CallEvent], Awaitable[None] | None] | None = None
    on_retry: Callable[[RetryEvent], Awaitable[None] | None] | None = None
    on_outbox: Callable[[OutboxEvent], Awaitable[None] | None] | None = None


class Span:
    """One call as OpenTelemetry sees it, or nothing where that isn't installed."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def attempt(self, headers: dict[str, str], number: int) -> None:
        """Have the server's own spans, if it makes any, belong to this one."""
        if self._span is not None:
            propagate.inject(headers, context=trace.set_span_in_context(self._span))
            self._span.set_attribute("tokentill.attempts", number)

    def status(self, status: int | None) -> None:
        if self._span is not None and status is not None:
            self._span.set_attribute("http.response.status_code", status)


@contextlib.contextmanager
def call_span(operation: str, idempotency_key: str | None) -> Iterator[Span]:
    """`tokentill.start`, `.end`, `.cancel`, `.extend`: a child of the span that is current when it begins."""
    if _tracer is None:
        yield Span(None)
        return
    # Not made the current one: the caller's code runs between the steps of a call.
    span = _tracer.start_span(f"tokentill.{_SPANS.get(operation, operation)}", kind=trace.SpanKind.CLIENT)
    if idempotency_key:
        span.set_attribute("tokentill.idempotency_key", idempotency_key)
    try:
        yield Span(span)
    except BaseException as error:
        span.record_exception(error)
        span.set_status(trace.Status(trace.StatusCode.ERROR, str(error)))
        raise
    finally:
        span.end()


_SPANS = {"extend_hold": "extend"}
