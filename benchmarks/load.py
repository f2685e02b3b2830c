"""The load generator used for load at a given rate, and when wrk isn't installed: keep-alive clients in one process.

Without a rate, each client sends its next request as soon as its answer has arrived. With one, requests are due at even
intervals, however long those before take, and latency is counted from the time a request was due, so that waiting for
an idle client counts as the server's latency. Requests are made from prepared bytes and answers are only split by their
`Content-Length`, so a request costs this process a fraction of what it costs the server; `cpu_seconds` in the result
says how much. It uses only the standard library, and so starts fast.

    echo '{"port": 5000, "clients": 32, ...}' | python -m benchmarks.load
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

HOST = "127.0.0.1"
ANSWER_SECONDS_MAX = 30.0
# The placeholder of a request's number, which has as many digits.
MARK = "########"
# Every answer has this once for each success: once for a call, once for each end of a batch.
MARK_OF_SUCCESS = b'"success":true'


@dataclass(frozen=True)
class Plan:
    """What to send, and for how long: `kind` is healthz, start, end or batch; `seconds` count after the warm-up.

    `rate` is in requests per second. None: as many as are answered.
    """

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
    rate: float | None = None
    keeps_answered_at: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a plan. Latencies don't include the warm-up; `requests_total` does."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    requests_total: int
    failures: int
    cpu_seconds: float
    # When the first request was sent, by the machine's clock.
    begun_at: float
    # If asked for: when each end was answered, by its idempotency key.
    answered_at: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """This generator's processor time per request, in microseconds."""
        return self.cpu_seconds / max(1, self.requests_total) * 1e6


class Client:
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The number of the request in flight, and when it was due.
        self.number = 0
        self.due_at = 0.0
        self._received = b""

    def send(self, request: bytes, number: int, due_at: float) -> None:
        self.number, self.due_at = number, due_at
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Returns the whole answer, or None if it isn't complete yet. Raises ConnectionError."""
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


def templates_of(plan: Plan) -> list[bytes]:
    """The templates of a plan's requests, used in turn. Each has MARK in the place of its number."""
    users = plan.user_ids
    if plan.kind == "healthz":
        return [f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()]
    if plan.kind == "start":
        return [
            _post(plan, "start", {"user_id": user, "feature_endpoint_id": plan.feature_endpoint_id}) for user in users
        ]
    if plan.kind == "end":
        return [
            _post(plan, "end", _end(plan, user), f"Idempotency-Key: {key_of(plan.run_id, MARK)}\r\n") for user in users
        ]
    if plan.kind == "batch":
        return [
            _post(plan, "end/batch", {"ends": [_end_of_batch(plan, first, i) for i in range(plan.ends_per_batch)]})
            for first in range(0, len(users), plan.ends_per_batch)
        ]
    raise ValueError(plan.kind)


def key_of(run_id: str, number: int | str) -> str:
    """The idempotency key of a run's nth end."""
    return f"{run_id}-{number:0>{len(MARK)}}"


def _end(plan: Plan, user_id: str) -> dict[str, object]:
    return {
        "user_id": user_id,
        "feature_endpoint_id": plan.feature_endpoint_id,
        "input_token": 120,
        "output_token": 40,
        "model": "model-1",
    }


def _end_of_batch(plan: Plan, first: int, i: int) -> dict[str, object]:
    user_id = plan.user_ids[(first + i) % len(plan.user_ids)]
    return {**_end(plan, user_id), "idempotency_key": f"{key_of(plan.run_id, MARK)}-{i}"}


def _post(plan: Plan, route: str, body: dict[str, object], headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST /api/token-process/{route} HTTP/1.1\r\nHost: {HOST}\r\nx-server-api-key: {plan.api_key}\r\n"
        f"Content-Type: application/json\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def run(plan: Plan) -> Result:
    """Send a plan's requests until its time is over, then wait for outstanding answers."""
    return Run(plan).result()


class Run:
    """The execution of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._templates = templates_of(plan)
        self._successes_expected = plan.ends_per_batch + 1 if plan.kind == "batch" else 1
        self._selector = selectors.DefaultSelector()
        self._idle = [Client(plan.port) for _ in range(plan.clients)]
        for client in self._idle:
            self._selector.register(client.socket, selectors.EVENT_READ, client)
        self._sent = 0
        self._latencies: list[float] = []
        self._answered_at: dict[str, float] = {}
        self._failures: Counter[bytes] = Counter()

    def result(self) -> Result:
        cpu_begun = time.process_time()
        begun_at = time.time()
        self._begun = time.perf_counter()
        self._measured_from = self._begun + self._plan.warmup_seconds
        self._over = self._measured_from + self._plan.seconds
        clients = len(self._idle)
        while (wait_seconds := self._send_due()) is not None or len(self._idle) < clients:
            ready = self._selector.select(ANSWER_SECONDS_MAX if wait_seconds is None else wait_seconds)
            if not ready and wait_seconds is None:
                raise TimeoutError("no answer came")
            for key, _ in ready:
                self._receive(key.data)
        cpu_seconds = time.process_time() - cpu_begun
        for client in self._idle:
            client.socket.close()
        if self._failures:
            print(self._failures.most_common(1)[0][0].decode(errors="replace"), file=sys.stderr)
        self._latencies.sort()
        return Result(
            requests=len(self._latencies),
            seconds=self._plan.seconds,
            p50_ms=percentile(self._latencies, 0.50) * 1000,
            p99_ms=percentile(self._latencies, 0.99) * 1000,
            requests_total=self._sent,
            failures=self._failures.total(),
            cpu_seconds=cpu_seconds,
            begun_at=begun_at,
            answered_at=self._answered_at,
        )

    def _send_due(self) -> float | None:
        """Send due requests by the idle clients. Returns the seconds until the next one is due, or None if there are no
        more requests or no idle clients.
        """
        rate = self._plan.rate
        while self._idle:
            now = time.perf_counter()
            due_at = now if rate is None else self._begun + self._sent / rate
            # A request that was due before the end is sent, however late.
            if due_at >= self._over:
                return None
            if due_at > now:
                return due_at - now
            template = self._templates[self._sent % len(self._templates)]
            request = template.replace(MARK.encode(), b"%08d" % self._sent)
            self._idle.pop().send(request, self._sent, due_at)
            self._sent += 1
        return None

    def _receive(self, client: Client) -> None:
        answer = client.receive()
        if answer is None:
            return
        now = time.perf_counter()
        is_good = answer.startswith(b"HTTP/1.1 200") and (
            self._plan.kind == "healthz" or answer.count(MARK_OF_SUCCESS) == self._successes_expected
        )
        if not is_good:
            self._failures[answer[:1_000]] += 1
        elif self._plan.keeps_answered_at:
            self._answered_at[key_of(self._plan.run_id, client.number)] = time.time()
        # With a rate, what counts is when the request was due. Otherwise the slowest answers would be left out.
        if self._measured_from <= (now if self._plan.rate is None else client.due_at) <= self._over:
            self._latencies.append(now - client.due_at)
        self._idle.append(client)


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.load(sys.stdin))))))
