"""Traces by OpenTelemetry: from a call through Redis, Postgres and the queue to its settlement.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set. While off, OpenTelemetry isn't imported, and a call costs only a few
comparisons. Each process switches tracing on when it begins to serve, never before a fork, because the SDK has a
thread.

Calls that run as one batch share a span, which links to the spans of their ends. The span in which an end was accepted
goes with the message to a worker, so that its settlement is a span of the same trace. If the message is lost, so is
that link: the sweep settles the end in a trace of its own.

Spans contain routes, counts, and ids of ends and requests. They contain nothing about a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from app.config import Config

if TYPE_CHECKING:
    from app.tracing.opentelemetry import OpenTelemetry

_OFF: AbstractContextManager[None] = nullcontext()
_on: OpenTelemetry | None = None


def switch_on(config: Config, process: str) -> None:
    """Begin to trace this process, if that is configured. `process` is its kind, such as web or worker."""
    global _on  # noqa: PLW0603 - a process traces or it doesn't
    if config.otlp_endpoint and _on is None:
        from app.tracing.opentelemetry import OpenTelemetry  # noqa: PLC0415

        _on = OpenTelemetry(config.otlp_endpoint, process)


def switch_off() -> None:
    """Send pending spans and stop tracing."""
    global _on  # noqa: PLW0603
    if (found := _on) is not None:
        _on = None
        found.close()


def request(environ: Mapping[str, object]) -> AbstractContextManager[None]:
    """A span of a request, as part of the caller's trace where the request's headers name one."""
    return _OFF if _on is None else _on.request(environ)


def answered(method: str, route: str, status: int, request_id: str) -> None:
    """Complete the request's span once its route and status are known."""
    if _on is not None:
        _on.answered(method, route, status, request_id)


def span(name: str, calls: int | None = None) -> AbstractContextManager[None]:
    """A span of a part of the work; `calls` is how many calls it serves."""
    return _OFF if _on is None else _on.span(name, calls)


def remember(end_id: object) -> None:
    """Remember the span in which this end was accepted, until the end is announced to a worker."""
    if _on is not None:
        _on.remember(str(end_id))


def run_of(name: str, end_ids: Iterable[object]) -> AbstractContextManager[None]:
    """A span of a batch that several ends share."""
    return _OFF if _on is None else _on.run_of(name, [str(end_id) for end_id in end_ids])


def sending(task: str, end_ids: Sequence[str]) -> AbstractContextManager[dict[str, object] | None]:
    """A span of sending a message about ends. Yields the headers to send with it."""
    return nullcontext() if _on is None else _on.sending(task, end_ids)


def settling(headers: Mapping[str, object] | None, end_ids: Sequence[str]) -> AbstractContextManager[None]:
    """A span of settling the ends of a message, and one in the trace of each of these ends."""
    return _OFF if _on is None else _on.settling(headers or {}, end_ids)
