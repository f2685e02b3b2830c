"""What hooks and OpenTelemetry are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.unit.fake import Clock, Fake, failure
from tests.unit.test_holds import HoldFake
from tokentill import (
    AuthenticationError,
    CallEvent,
    Hooks,
    OutboxEvent,
    RetryEvent,
    UnavailableError,
    with_token_process,
)


@dataclass
class Told:
    calls: list[CallEvent] = field(default_factory=list)
    retries: list[RetryEvent] = field(default_factory=list)
    outbox: list[OutboxEvent] = field(default_factory=list)

    def hooks(self) -> Hooks:
        return Hooks(on_call=self.calls.append, on_retry=self.retries.append, on_outbox=self.outbox.append)

    def async_hooks(self) -> Hooks:
        async def on_call(event: CallEvent) -> None:
            await asyncio.sleep(0)
            self.calls.append(event)

        return Hooks(on_call=on_call)


def test_calls_and_retries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = Clock(monkeypatch), Told()
    fake = Fake(answers=[None, httpx.ConnectError("refused"), failure(503), None, failure(401)])
    with fake.client(hooks=told.hooks()) as client:
        client.start("u", "f")
        client.end("u", "f", 1, 40)
        with pytest.raises(AuthenticationError):
            client.start("u", "f")
    assert [(call.operation, call.status, call.attempts) for call in told.calls] == [
        ("start", 200, 1),
        ("end", 200, 3),
        ("start", 401, 1),
    ]
    assert told.calls[1].latency_seconds == pytest.approx(sum(clock.pauses))
    assert told.calls[1].idempotency_key == fake.of("end")[0].headers["idempotency-key"]
    assert [call.error is None for call in told.calls] == [True, True, False]
    assert [(retry.operation, retry.attempt) for retry in told.retries] == [("end", 1), ("end", 2)]
    assert [retry.pause_seconds for retry in told.retries] == clock.pauses


def test_a_call_without_an_answer_has_no_status() -> None:
    told = Told()
    fake = Fake(answers=[httpx.ConnectError("refused")] * 99)
    with (
        fake.client(hooks=told.hooks(), total_timeout_seconds=0.01) as client,
        pytest.raises(UnavailableError),
    ):
        client.cancel("u", "p")
    assert (told.calls[0].operation, told.calls[0].status) == ("cancel", None)


def test_the_outbox_is_told(tmp_path: Path) -> None:
    told = Told()
    fake = Fake(answers=[failure(503)] * 99)
    with fake.client(
        hooks=told.hooks(), outbox=tmp_path / "outbox.db", background=False, total_timeout_seconds=0.01
    ) as client:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                client.end("u", "f", 1, 40)
        fake.answers = []
        client.flush_outbox()
    assert told.outbox == [
        OutboxEvent(depth=1, refused=0, queued=1),
        OutboxEvent(depth=2, refused=0, queued=1),
        OutboxEvent(depth=0, refused=0, sent=2),
    ]
    assert told.calls[-1].operation == "end_batch"


def test_hooks_may_be_asynchronous_or_fail(caplog: pytest.LogCaptureFixture) -> None:
    told, fake = Told(), Fake()
    with fake.client(hooks=told.async_hooks()) as client:
        client.start("u", "f")

    async def work() -> None:
        async with fake.async_client(hooks=told.async_hooks()) as client:
            await client.start("u", "f")

    asyncio.run(work())
    assert len(told.calls) == 2

    def broken(_event: CallEvent) -> None:
        raise ZeroDivisionError

    with fake.client(hooks=Hooks(on_call=broken)) as client:
        assert client.start("u", "f").access_able
    assert "A hook failed" in caplog.text


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # Once for the process, as a service does when it begins.
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Any:
    exporter.clear()
    return exporter.get_finished_spans


def test_calls_are_spans(spans: Any) -> None:
    fake = Fake()
    function = with_token_process(
        lambda: {"output_token": 40}, feature_endpoint_id="f", user_id="u", client=fake.client()
    )
    with trace.get_tracer("service").start_as_current_span("request") as request:
        function()
    by_name = {span.name: span for span in spans()}
    assert set(by_name) == {"tokentill.start", "tokentill.end", "request"}
    end = by_name["tokentill.end"]
    assert end.parent.span_id == request.get_span_context().span_id
    assert end.kind is trace.SpanKind.CLIENT
    assert end.attributes["http.response.status_code"] == 200
    assert end.attributes["tokentill.attempts"] == 1
    assert end.attributes["tokentill.idempotency_key"] == fake.of("end")[0].headers["idempotency-key"]
    # The server's spans belong to this one.
    trace_id = trace.format_trace_id(end.context.trace_id)
    span_id = trace.format_span_id(end.context.span_id)
    assert fake.of("end")[0].headers["traceparent"].startswith(f"00-{trace_id}-{span_id}")


def test_cancels_and_extensions_are_spans_and_failures_are_seen(spans: Any) -> None:
    fake = HoldFake(failure(400, "validation_failed"))

    async def work() -> None:
        async with fake.async_client() as client:
            await client.cancel("u", "p")
            with pytest.raises(Exception, match="says 400"):
                await client.extend_hold("u", "p", hold_token=1)

    asyncio.run(work())
    cancel, extend = spans()
    assert (cancel.name, extend.name) == ("tokentill.cancel", "tokentill.extend")
    assert cancel.status.is_ok or cancel.status.is_unset
    assert not extend.status.is_ok
    assert extend.events[0].name == "exception"
