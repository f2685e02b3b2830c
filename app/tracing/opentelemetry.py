"""The OpenTelemetry part of tracing: the only module that imports it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.util import Finalize

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# In a message's headers: the span that sent it, and by end id the spans in which its ends were accepted.
SENT_BY = "tokentill_sent_by"
CAME_WITH = "tokentill_came_with"

# Ends that are never announced, because their queue is full, are forgotten once this many are remembered.
REMEMBERED_MAX = 50_000
TRACES_PATH = "/v1/traces"

_propagator = TraceContextTextMapPropagator()


class OpenTelemetry:
    def __init__(self, endpoint: str, process: str, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: f"tokentill-{process}"}))
        # The SDK reads sampling and export settings from its own variables (OTEL_TRACES_SAMPLER ...).
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = exporter or OTLPSpanExporter(endpoint=endpoint.rstrip("/") + TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tokentill")
        self._lock = threading.Lock()
        self._came_with: dict[str, str] = {}
        # Runs also at the end of Granian's workers, which run no `atexit` functions.
        self._finalize = Finalize(self, self._provider.shutdown, exitpriority=0)

    def close(self) -> None:
        self._finalize()

    @contextmanager
    def request(self, environ: Mapping[str, object]) -> Iterator[None]:
        carrier = {
            name: str(environ[variable])
            for name, variable in (("traceparent", "HTTP_TRACEPARENT"), ("tracestate", "HTTP_TRACESTATE"))
            if variable in environ
        }
        parent = _propagator.extract(carrier, context=Context())
        with self._tracer.start_as_current_span("request", context=parent, kind=SpanKind.SERVER):
            yield

    def answered(self, method: str, route: str, status: int, request_id: str) -> None:
        span = get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "tokentill.request_id": request_id,
            }
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)

    @contextmanager
    def span(self, name: str, calls: int | None) -> Iterator[None]:
        attributes = None if calls is None else {"tokentill.calls": calls}
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield

    def remember(self, end_id: str) -> None:
        context = get_current_span().get_span_context()
        if not (context.is_valid and context.trace_flags.sampled):
            return
        with self._lock:
            while len(self._came_with) >= REMEMBERED_MAX:
                del self._came_with[next(iter(self._came_with))]
            self._came_with[end_id] = _text(context)

    @contextmanager
    def run_of(self, name: str, end_ids: Sequence[str]) -> Iterator[None]:
        with self._lock:
            known = [self._came_with[end_id] for end_id in end_ids if end_id in self._came_with]
        with self._tracer.start_as_current_span(
            name, links=_links(known), attributes={"tokentill.calls": len(end_ids)}
        ):
            yield

    @contextmanager
    def sending(self, task: str, end_ids: Sequence[str]) -> Iterator[dict[str, object] | None]:
        with self._lock:
            came_with = {end_id: self._came_with.pop(end_id) for end_id in end_ids if end_id in self._came_with}
        if not came_with:
            # None of these ends is sampled.
            yield None
            return
        with self._tracer.start_as_current_span(
            f"send {task}",
            context=Context(),
            kind=SpanKind.PRODUCER,
            links=_links(list(came_with.values())),
            attributes={"tokentill.calls": len(end_ids)},
        ) as span:
            yield {SENT_BY: _text(span.get_span_context()), CAME_WITH: came_with}

    @contextmanager
    def settling(self, headers: Mapping[str, object], end_ids: Sequence[str]) -> Iterator[None]:
        found = headers.get(CAME_WITH)
        came_with = {
            end_id: text for end_id in end_ids if isinstance(found, dict) and isinstance(text := found.get(end_id), str)
        }
        sender = _context(headers.get(SENT_BY))
        with self._tracer.start_as_current_span(
            "settle ends",
            context=Context() if sender is None else set_span_in_context(_remote(sender), Context()),
            kind=SpanKind.CONSUMER,
            links=_links(list(came_with.values())),
            attributes={"tokentill.calls": len(end_ids)},
        ) as batch:
            # A span in the trace of each end, which shows its settlement with the duration of the whole batch.
            link = [Link(batch.get_span_context())]
            own = [
                self._tracer.start_span(
                    "settle",
                    context=set_span_in_context(_remote(context), Context()),
                    links=link,
                    attributes={"tokentill.end_id": end_id},
                )
                for end_id, text in came_with.items()
                if (context := _context(text)) is not None
            ]
            try:
                yield
            finally:
                for span in own:
                    span.end()


def _text(context: SpanContext) -> str:
    """A span context in the form of the header `traceparent`."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _context(text: object) -> SpanContext | None:
    """The span context in such a text; None where it isn't valid."""
    if not isinstance(text, str):
        return None
    found = get_current_span(_propagator.extract({"traceparent": text}, context=Context())).get_span_context()
    return found if found.is_valid else None


def _links(texts: Sequence[str]) -> list[Link]:
    return [Link(context) for text in texts if (context := _context(text)) is not None]


def _remote(context: SpanContext) -> NonRecordingSpan:
    return NonRecordingSpan(context)
