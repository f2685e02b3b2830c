"""Traces: off without a trace of them, and what becomes of an end's span on its way to its settlement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import tracing
from app.config import Config, ConfigError
from app.tracing import opentelemetry
from app.tracing.opentelemetry import OpenTelemetry
from tests.conftest import PROJECT
from tests.unit.test_config import GOOD

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = f"{CALLER[:-2]}00"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_on", OpenTelemetry("http://127.0.0.1:1", "web", exporter))
    yield exporter
    tracing.switch_off()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    assert tracing._on is not None
    tracing._on._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def send(*end_ids: str, caller: str | None = CALLER) -> Mapping[str, Any] | None:
    """The headers of the message about ends that came in one call."""
    environ = {} if caller is None else {"HTTP_TRACEPARENT": caller}
    with tracing.request(environ):
        for end_id in end_ids:
            tracing.remember(end_id)
        tracing.answered("POST", "/api/token-process/end", 200, "request-1")
    with tracing.sending("settle_ends", end_ids) as headers:
        return headers


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def test_the_way_of_an_end_is_one_trace(exporter: InMemorySpanExporter) -> None:
    headers = send("end-1", "end-2")
    with tracing.settling(headers, ["end-1", "end-2", "end-3"]), tracing.span("postgres settle ends", 3):
        pass
    found = spans(exporter)
    call, batch = found["POST /api/token-process/end"], found["settle ends"]
    assert f"{trace_of(call):032x}" == CALLER.split("-")[1]
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == CALLER.split("-")[2]
    assert dict(call.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/api/token-process/end",
        "http.response.status_code": 200,
        "tokentill.request_id": "request-1",
    }
    settled = [span for span in exporter.get_finished_spans() if span.name == "settle"]
    assert [dict(span.attributes or {}) for span in settled] == [
        {"tokentill.end_id": "end-1"},
        {"tokentill.end_id": "end-2"},
    ]
    for span in settled:
        assert trace_of(span) == trace_of(call)
        assert span.parent is not None
        assert span.parent.span_id == call.context.span_id  # type: ignore[union-attr]
        assert [link.context.trace_id for link in span.links] == [trace_of(batch)]
    assert [link.context.span_id for link in batch.links] == [call.context.span_id] * 2  # type: ignore[union-attr]
    sent = found["send settle_ends"]
    assert (batch.parent and batch.parent.span_id) == sent.context.span_id  # type: ignore[union-attr]
    assert trace_of(found["postgres settle ends"]) == trace_of(batch) == trace_of(sent) != trace_of(call)


def test_a_shared_run_links_to_all_ends_in_it(exporter: InMemorySpanExporter) -> None:
    for end_id in ("end-1", "end-2"):
        with tracing.request({}):
            tracing.remember(end_id)
    with tracing.run_of("commit ends", ["end-1", "end-2", "end-3"]):
        pass
    run = spans(exporter)["commit ends"]
    calls = [span for span in exporter.get_finished_spans() if span.name == "request"]
    assert {link.context.trace_id for link in run.links} == {trace_of(span) for span in calls}
    assert dict(run.attributes or {}) == {"tokentill.calls": 3}


def test_what_the_caller_doesnt_sample_sends_nothing_along(exporter: InMemorySpanExporter) -> None:
    assert send("end-1", caller=UNSAMPLED) is None
    with tracing.settling(None, ["end-1"]):
        pass
    assert list(spans(exporter)) == ["settle ends"]
    assert spans(exporter)["settle ends"].parent is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"tokentill_sent_by": 3, "tokentill_came_with": "x"},
        {"tokentill_sent_by": "00-0-0-0", "tokentill_came_with": {"end-1": 1, "end-2": "no"}},
        {"tokentill_came_with": [CALLER]},
    ],
)
def test_whatever_stands_in_a_message_ends_are_settled(exporter: InMemorySpanExporter, headers: dict[str, Any]) -> None:
    is_settled = False
    with tracing.settling(headers, ["end-1", "end-2"]):
        is_settled = True
    assert is_settled
    assert spans(exporter)["settle ends"].parent is None


def test_a_failure_shows_and_goes_on(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no"), tracing.request({}), tracing.span("redis start", 1):
        raise ValueError("no")
    assert not spans(exporter)["redis start"].status.is_ok
    with tracing.request({}):
        tracing.answered("GET", "/x", 503, "request-1")
    assert not spans(exporter)["GET /x"].status.is_ok


def test_ends_that_nobody_announces_are_forgotten(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opentelemetry, "REMEMBERED_MAX", 3)
    with tracing.request({}):
        for i in range(10):
            tracing.remember(f"end-{i}")
    with tracing.sending("settle_ends", [f"end-{i}" for i in range(10)]) as headers:
        assert headers is not None
        assert sorted(headers["tokentill_came_with"]) == ["end-7", "end-8", "end-9"]  # type: ignore[call-overload]
    with tracing.sending("settle_ends", ["end-9"]) as headers:
        assert headers is None


def test_without_a_collector_nothing_of_it_is_imported() -> None:
    script = """
import sys
import worker.tasks.settle
from app.web import create_app
create_app()
from app import tracing
tracing.switch_on(worker.celery_app.config, "web")
with tracing.request({}), tracing.span("x"), tracing.sending("t", ["a"]) as headers, tracing.settling(None, ["a"]):
    tracing.remember("a")
    assert headers is None
# redis-py imports the interface of metrics wherever that is installed, as beside these tests.
ours = ("app.tracing.opentelemetry", "opentelemetry.sdk.trace", "opentelemetry.exporter")
print([name for name in sys.modules if name.startswith(ours)])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env={**GOOD, "DATABASE_URL": "postgresql://127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "4318"])
def test_a_collector_is_named_by_its_url(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT must be"):
        Config.from_environment({**GOOD, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})


def test_a_process_without_what_traces_need_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"requirements/tracing\.lock"):
        Config.from_environment({**GOOD, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
