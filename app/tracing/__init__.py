"""Traces by OpenTelemetry: from a call through Redis, Postgres and the queue to its settlement.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set: then nothing of OpenTelemetry is imported, and what stands on the way of
a call is a few comparisons. A process switches it on for itself once it serves, never before a fork: the SDK has a
thread.

Calls that run together share a span of their run, which links to the ends in it. What an end was called in goes with
the message that announces it to a worker, so that its settlement is a span of the same trace. A message that gets lost
takes that along: the sweep settles the end all the same, as a trace of its own.

Spans name routes, numbers and ids of ends and requests. Nothing in them is about a user.
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
    """Begin to trace what this process does, if that is asked for. `process` is what it is: web, worker."""
    global _on  # noqa: PLW0603 - a process traces or it doesn't
    if config.otlp_endpoint and _on is None:
        from app.tracing.opentelemetry import OpenTelemetry  # noqa: PLC0415

        _on = OpenTelemetry(config.otlp_endpoint, process)


def switch_off() -> None:
    """Send what waits, and trace nothing more."""
    global _on  # noqa: PLW0603
    if (found := _on) is not None:
        _on = None
        found.close()


def request(environ: Mapping[str, object]) -> AbstractContextManager[None]:
    """A span of a request, part of its caller's trace where that says so."""
    return _OFF if _on is None else _on.request(environ)


def answered(method: str, route: str, status: int, request_id: str) -> None:
    """Say of the request's span what it was about."""
    if _on is not None:
        _on.answered(method, route, status, request_id)


def span(name: str, calls: int | None = None) -> AbstractContextManager[None]:
    """A span of a part; `calls` is how many it does something for."""
    return _OFF if _on is None else _on.span(name, calls)


def remember(end_id: object) -> None:
    """Keep which span this end came in with, until it is announced."""
    if _on is not None:
        _on.remember(str(end_id))


def run_of(name: str, end_ids: Iterable[object]) -> AbstractContextManager[None]:
    """A span of a run that several ends share."""
    return _OFF if _on is None else _on.run_of(name, [str(end_id) for end_id in end_ids])


def sending(task: str, end_ids: Sequence[str]) -> AbstractContextManager[dict[str, object] | None]:
    """A span of sending a message about ends; the headers to send along."""
    return nullcontext() if _on is None else _on.sending(task, end_ids)


def settling(headers: Mapping[str, object] | None, end_ids: Sequence[str]) -> AbstractContextManager[None]:
    """A span of settling what a message told of, and one in the trace of each of its ends."""
    return _OFF if _on is None else _on.settling(headers or {}, end_ids)
