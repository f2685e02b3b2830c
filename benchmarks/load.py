"""The load generator: many keep-alive clients in a closed loop, in one process and thread of its own.

Each client sends its next request as soon as its answer is there. Requests are put together from ready-made bytes and
answers are only cut at their `Content-Length`, so that a request costs this process a fraction of what it costs the
server; `cpu_us` in the result says how much. Standard library only, which keeps it quick to start.

    echo '{"port": 5000, "clients": 32, ...}' | python -m benchmarks.load
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

HOST = "127.0.0.1"
ANSWER_SECONDS_MAX = 30.0
# What every route answers per unit of work: once for a call, once for each end of a batch.
MARK_OF_SUCCESS = b'"success":true'


@dataclass(frozen=True)
class Plan:
    """What to send: one of `kind` healthz, start, end or batch, for `seconds` after a warm-up."""

    port: int
    kind: str
    clients: int
    seconds: float
    warmup_seconds: float
    api_key: str
    user_ids: Sequence[str]
    feature_endpoint_id: str
    # Distinguishes the idempotency keys of one run from those of every other.
    run_id: str
    ends_per_batch: int = 1


@dataclass(frozen=True)
class Result:
    """What came of it. Latencies are of the measured time only, `requests_total` counts the warm-up too."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    requests_total: int
    failures: int
    cpu_us: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Client:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self._received = b""

    def send(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """The whole answer, or None while there is more to come. Raises ConnectionError."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed a keep-alive connection")
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        length_at = self._received[:head_end].lower().find(b"content-length:")
        if length_at < 0:
            raise ConnectionError("an answer without Content-Length")
        line_end = self._received.find(b"\r\n", length_at)
        if len(self._received) < head_end + 4 + int(self._received[length_at + 15 : line_end]):
            return None
        answer, self._received = self._received, b""
        return answer


def requests_of(plan: Plan) -> Callable[[int], bytes]:
    """The nth request of a plan."""
    users = plan.user_ids
    if plan.kind == "healthz":
        healthz = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        return lambda n: healthz
    if plan.kind == "start":
        starts = [
            _post(plan, "start", {"user_id": user, "feature_endpoint_id": plan.feature_endpoint_id}) for user in users
        ]
        return lambda n: starts[n % len(starts)]
    if plan.kind == "end":
        ends = [_post(plan, "end", _end(plan, user), "Idempotency-Key: @\r\n") for user in users]
        return lambda n: ends[n % len(ends)].replace(b"@", b"%s-%d" % (plan.run_id.encode(), n), 1)
    if plan.kind == "batch":
        return lambda n: _post(
            plan, "end/batch", {"ends": [_end_of_batch(plan, n, i) for i in range(plan.ends_per_batch)]}
        )
    raise ValueError(plan.kind)


def _end(plan: Plan, user_id: str) -> dict[str, object]:
    return {
        "user_id": user_id,
        "feature_endpoint_id": plan.feature_endpoint_id,
        "input_token": 120,
        "output_token": 40,
        "model": "model-1",
    }


def _end_of_batch(plan: Plan, n: int, i: int) -> dict[str, object]:
    number = n * plan.ends_per_batch + i
    user_id = plan.user_ids[number % len(plan.user_ids)]
    return {**_end(plan, user_id), "idempotency_key": f"{plan.run_id}-{number}"}


def _post(plan: Plan, route: str, body: dict[str, object], headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /api/token-process/{route} HTTP/1.1\r\nHost: {HOST}\r\nx-server-api-key: {plan.api_key}\r\n"
        f"Content-Type: application/json\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def run(plan: Plan) -> Result:
    """Send a plan's requests until its time is over, then wait for the answers under way."""
    request_of = requests_of(plan)
    successes_expected = plan.ends_per_batch + 1 if plan.kind == "batch" else 1
    selector = selectors.DefaultSelector()
    clients = [Client(plan.port) for _ in range(plan.clients)]
    latencies: list[float] = []
    failures: Counter[bytes] = Counter()
    begun = time.perf_counter()
    measured_from = begun + plan.warmup_seconds
    over = measured_from + plan.seconds
    sent = 0
    cpu_begun = time.process_time()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send(request_of(sent))
        sent += 1
    waiting = len(clients)
    while waiting:
        ready = selector.select(ANSWER_SECONDS_MAX)
        if not ready:
            raise TimeoutError("no answer came")
        for key, _ in ready:
            client = key.data
            answer = client.receive()
            if answer is None:
                continue
            now = time.perf_counter()
            is_good = answer.startswith(b"HTTP/1.1 200") and (
                plan.kind == "healthz" or answer.count(MARK_OF_SUCCESS) == successes_expected
            )
            if not is_good:
                failures[answer[:1_000]] += 1
            if measured_from <= now <= over:
                latencies.append(now - client.sent_at)
            if now < over:
                client.send(request_of(sent))
                sent += 1
            else:
                waiting -= 1
    cpu_seconds = time.process_time() - cpu_begun
    for client in clients:
        client.socket.close()
    if failures:
        print(failures.most_common(1)[0][0].decode(errors="replace"), file=sys.stderr)
    latencies.sort()
    return Result(
        requests=len(latencies),
        seconds=plan.seconds,
        p50_ms=_percentile(latencies, 0.50) * 1000,
        p99_ms=_percentile(latencies, 0.99) * 1000,
        requests_total=sent,
        failures=failures.total(),
        cpu_us=cpu_seconds / sent * 1e6,
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.load(sys.stdin))))))
