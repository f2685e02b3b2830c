"""Real processes that send real OTLP to a collector's stand-in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests import processes
from tests.conftest import SERVER_KEY
from tests.support import FEATURE, Billing

pytestmark = pytest.mark.long

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """What takes OTLP over HTTP; the spans by the service that sent them."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for of_resource in request.resource_spans:
                    names = [a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name"]
                    for of_scope in of_resource.scope_spans:
                        collector.spans += [(names[0], span) for span in of_scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def named(self, name: str, trace: str | None = None) -> list[Span]:
        return [span for _, span in self.spans if span.name == name and trace in {None, span.trace_id.hex()}]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def test_a_trace_goes_from_the_call_to_its_settlement(
    billing: Billing, environment: dict[str, str], tmp_path: Path, collector: Collector
) -> None:
    billing.catalog()
    billing.wallet(tokens=100)
    settings = {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with processes.worker(settings, tmp_path) as worker, processes.web(settings, tmp_path) as (url, web):
        run = {"user_id": "user-1", "feature_endpoint_id": FEATURE}
        headers = {"x-server-api-key": SERVER_KEY, "traceparent": CALLER, "x-request-id": "request-1"}
        assert httpx.post(f"{url}/api/token-process/start", json=run, headers=headers).status_code == 200
        ended = {**run, "input_token": 1, "output_token": 4}
        assert httpx.post(f"{url}/api/token-process/end", json=ended, headers=headers).status_code == 200
        processes.wait_until(
            lambda: bool(collector.named("settle", TRACE)), what="the end's settlement", log=worker.log
        )
        processes.wait_until(lambda: bool(collector.named("postgres settle ends")), what="its batch", log=worker.log)
        processes.wait_until(lambda: bool(collector.named("send tokentill.settle_ends")), what="the message")
        assert (web.stop(), worker.stop()) == (0, 0)
    in_trace = {span.name for _, span in collector.spans if span.trace_id.hex() == TRACE}
    assert in_trace == {
        "POST /api/token-process/start",
        "redis start",
        "POST /api/token-process/end",
        "commit ends",
        "redis end",
        "postgres record ends",
        "settle",
    }
    [call], [settled] = collector.named("POST /api/token-process/end"), collector.named("settle")
    assert settled.parent_span_id == call.span_id
    [batch], [sent] = collector.named("settle ends"), collector.named("send tokentill.settle_ends")
    assert [link.span_id for link in batch.links] == [link.span_id for link in sent.links] == [call.span_id]
    assert batch.parent_span_id == sent.span_id
    assert {service for service, span in collector.spans if span.name == "settle ends"} == {"tokentill-worker"}
    assert {service for service, span in collector.spans if span.name == "commit ends"} == {"tokentill-web"}
    assert not any("user-1" in str(span) for _, span in collector.spans)


def test_a_collector_that_is_away_keeps_nobody_waiting(
    billing: Billing, environment: dict[str, str], tmp_path: Path
) -> None:
    billing.catalog()
    billing.wallet(tokens=100)
    settings = {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{processes.free_port()}"}
    with processes.web(settings, tmp_path) as (url, web):
        for _ in range(5):
            ended = {"user_id": "user-1", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 4}
            answer = httpx.post(
                f"{url}/api/token-process/end", json=ended, headers={"x-server-api-key": SERVER_KEY}, timeout=5
            )
            assert answer.status_code == 200
        assert web.stop(timeout_seconds=15) == 0
