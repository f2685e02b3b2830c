"""The protocol once, for the plain and the asyncio client alike.

Each call is a generator of steps: it yields what has to be done (send this, wait so long, write that to disk)
and is sent the result. The two clients only differ in how they carry a step out. So the retry policy, the
idempotency keys and the order "disk first, then network" exist in one place.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar

import httpx

from tokentill import wire
from tokentill.errors import ConfigurationError, OutboxError, TokenProcessError, UnavailableError
from tokentill.outbox import Outbox, QueuedEnd
from tokentill.settings import Settings, backoff_seconds
from tokentill.version import __version__

T = TypeVar("T")

START_PATH = "/api/token-process/start"
END_PATH = "/api/token-process/end"
BATCH_PATH = "/api/token-process/end/batch"
CANCEL_PATH = "/api/token-process/cancel"

# Half of what the server takes in one call: a batch that has to be sent again is not lost time for long.
BATCH_ENDS_MAX = 500
BATCH_BYTES_MAX = 900_000
LEASE_SLACK_SECONDS = 5.0
POSTPONE_CAP_SECONDS = 60.0
# However little time is left for a flush, a call that it makes has a fair chance to be answered.
CALL_SECONDS_MIN = 1.0


@dataclass(frozen=True)
class Send:
    """POST `body`; answers with the httpx.Response, or the httpx.RequestError that came instead."""

    path: str
    body: str
    headers: dict[str, str]
    timeout_seconds: float


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Disk:
    """A short blocking call; answers with its result, or has its error raised at the step."""

    call: Callable[[], Any]


Step: TypeAlias = Send | Sleep | Disk
Steps: TypeAlias = Generator[Step, Any, T]


@dataclass(frozen=True)
class BatchItem:
    """One end of a batch: exactly one of the two is set."""

    end: wire.End | None
    error: TokenProcessError | None


@dataclass(frozen=True)
class Flushed:
    """What one round of the outbox did. `postponed` ends stay queued; `error` says why."""

    sent: int = 0
    refused: int = 0
    postponed: int = 0
    error: TokenProcessError | None = None

    @property
    def handled(self) -> int:
        return self.sent + self.refused + self.postponed


def new_key() -> str:
    """An idempotency key: one per run, made before the run's end is first sent and kept over every retry."""
    return str(uuid.uuid4())


class Core:
    def __init__(self, settings: Settings, outbox: Outbox | None) -> None:
        self.settings = settings
        self.outbox = outbox

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-server-api-key": self.settings.api_key,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"tokentill-python/{__version__}",
        }

    def start(
        self,
        user_id: str,
        feature_endpoint_id: str,
        hold_token: wire.Amount | None = None,
        hold_seconds: int | None = None,
    ) -> Steps[wire.Start]:
        body = wire.start_body(user_id, feature_endpoint_id, hold_token, hold_seconds)
        return (
            yield from self._call(START_PATH, body, self.settings.total_timeout_seconds, wire.parse_start)
        )

    def cancel(self, user_id: str, process_id: str) -> Steps[None]:
        body = json.dumps({"user_id": user_id, "process_id": process_id})
        yield from self._call(CANCEL_PATH, body, self.settings.cancel_timeout_seconds, lambda _envelope: None)

    def end(self, body: str, key: str) -> Steps[wire.End]:
        """Report an end. With an outbox it is on disk before it is sent, until it is acknowledged."""
        outbox = self.outbox
        if outbox is None:
            return (yield from self._send_end(body, key, self.settings.total_timeout_seconds))
        wait_seconds = min(self.settings.total_timeout_seconds, self.settings.outbox_wait_seconds)
        try:
            yield Disk(lambda: outbox.put(key, body, lease_seconds=wait_seconds + LEASE_SLACK_SECONDS))
        except OutboxError as disk_error:
            # Full, or no disk: the end is still worth every attempt. Only if that fails too is it the
            # caller's.
            try:
                return (yield from self._send_end(body, key, self.settings.total_timeout_seconds))
            except UnavailableError as error:
                raise disk_error from error
        try:
            end = yield from self._send_end(body, key, wait_seconds)
        except TokenProcessError as error:
            yield from self._keep(outbox, [QueuedEnd(0, key, body, 0)], error)
            if isinstance(error, UnavailableError):
                error.queued = True
            raise
        # A removal that fails leaves the row to be sent once more, with the same key: not the caller's
        # trouble.
        with contextlib.suppress(OutboxError):
            yield Disk(lambda: outbox.acknowledge([key]))
        return end

    def end_batch(self, ends: Sequence[tuple[str, str]]) -> Steps[list[BatchItem]]:
        """Send (key, body) pairs, in calls of a size the server takes. Raises when a whole call fails."""
        items: list[BatchItem] = []
        for chunk in _chunks(ends):
            items += yield from self._send_batch(chunk, self.settings.total_timeout_seconds)
        return items

    def flush_once(self, *, early: bool, deadline: float = math.inf) -> Steps[Flushed]:
        """Send one batch from the outbox. `early`: without waiting for back-offs to run out."""
        outbox = self.outbox
        if outbox is None:
            return Flushed()
        lease_seconds = (
            self.settings.total_timeout_seconds + self.settings.timeout_seconds + LEASE_SLACK_SECONDS
        )
        queued: list[QueuedEnd] = yield Disk(
            lambda: outbox.claim(
                limit=BATCH_ENDS_MAX, bytes_max=BATCH_BYTES_MAX, lease_seconds=lease_seconds, early=early
            )
        )
        if not queued:
            return Flushed()
        try:
            items = yield from self._send_queued(queued, deadline)
        except TokenProcessError as error:
            yield from self._keep(outbox, queued, error)
            return Flushed(postponed=len(queued), error=error)
        sent = [end.idempotency_key for end, item in zip(queued, items, strict=True) if item.error is None]
        yield Disk(lambda: outbox.acknowledge(sent))
        failed = [
            (end, item.error) for end, item in zip(queued, items, strict=True) if item.error is not None
        ]
        refused = [(end, error) for end, error in failed if error.refused]
        for end, refusal in refused:
            yield from self._keep(outbox, [end], refusal)
        postponed = [(end, error) for end, error in failed if not error.refused]
        if postponed:
            yield from self._keep(outbox, [end for end, _ in postponed], postponed[0][1])
        return Flushed(len(sent), len(refused), len(postponed), failed[0][1] if failed else None)

    def flush(self, limit_seconds: float) -> Steps[Flushed]:
        """Send all that waits, back-offs or not, for `limit_seconds` at most. `postponed` still waits."""
        outbox = self.outbox
        if outbox is None:
            raise ConfigurationError("There is no outbox: give its path, or set TOKENTILL_OUTBOX")
        deadline = time.monotonic() + limit_seconds
        sent = refused = rounds_failed = 0
        last: TokenProcessError | None = None
        while True:
            done = yield from self.flush_once(early=True, deadline=deadline)
            sent, refused, last = sent + done.sent, refused + done.refused, done.error or last
            pending: int = yield Disk(lambda: outbox.status().pending)
            if pending == 0 or time.monotonic() >= deadline:
                return Flushed(sent, refused, pending, last)
            if not done.sent:
                # Nothing got through, or what is left is in another sender's hands until its lease runs out.
                rounds_failed += 1
                yield Sleep(min(backoff_seconds(rounds_failed), max(deadline - time.monotonic(), 0.0)))

    def _send_queued(self, queued: Sequence[QueuedEnd], deadline: float) -> Steps[list[BatchItem]]:
        def left_seconds() -> float:
            return min(
                self.settings.total_timeout_seconds, max(deadline - time.monotonic(), CALL_SECONDS_MIN)
            )

        pairs = [(end.idempotency_key, end.body) for end in queued]
        if len(pairs) > 1:
            try:
                return (yield from self._send_batch(pairs, left_seconds()))
            except TokenProcessError as error:
                if not error.refused:
                    raise
                # The whole call was refused, though one bad end shouldn't do that: find it by sending each
                # alone.
        items = []
        for key, body in pairs:
            try:
                end = yield from self._send_end(body, key, left_seconds())
                items.append(BatchItem(end, None))
            except TokenProcessError as error:
                if not error.refused:
                    raise
                items.append(BatchItem(None, error))
        return items

    def _send_end(self, body: str, key: str, limit_seconds: float) -> Steps[wire.End]:
        return (
            yield from self._call(END_PATH, body, limit_seconds, wire.parse_end, {"Idempotency-Key": key})
        )

    def _send_batch(self, pairs: Sequence[tuple[str, str]], limit_seconds: float) -> Steps[list[BatchItem]]:
        # Spliced as text: the bodies are JSON already, and stay the very bodies of the single call.
        ends = ", ".join(f'{body[:-1]}, "idempotency_key": {json.dumps(key)}}}' for key, body in pairs)

        def parse(envelope: dict[str, Any]) -> list[BatchItem]:
            results = (envelope.get("data") or {}).get("results")
            if not isinstance(results, list) or len(results) != len(pairs):
                raise UnavailableError("The answer to end/batch doesn't match its ends")
            return [_batch_item(result) for result in results]

        return (yield from self._call(BATCH_PATH, f'{{"ends": [{ends}]}}', limit_seconds, parse))

    def _keep(self, outbox: Outbox, ends: Sequence[QueuedEnd], error: TokenProcessError) -> Steps[None]:
        """Note why these ends are still in the outbox, and when they are due again."""
        # When even this fails, the lease runs out by itself and the ends are due then.
        with contextlib.suppress(OutboxError):
            if error.refused and len(ends) == 1:
                yield Disk(lambda: outbox.refuse(ends[0].idempotency_key, str(error)))
                return
            attempts = max(end.attempts for end in ends) + 1
            delay_seconds = backoff_seconds(attempts, base_seconds=1.0, cap_seconds=POSTPONE_CAP_SECONDS)
            if isinstance(error, UnavailableError) and error.retry_after:
                delay_seconds = max(delay_seconds, min(error.retry_after, 3600.0))
            keys = [end.idempotency_key for end in ends]
            yield Disk(lambda: outbox.postpone(keys, str(error), delay_seconds=delay_seconds))

    def _call(
        self,
        path: str,
        body: str,
        limit_seconds: float,
        parse: Callable[..., T],
        headers: dict[str, str] | None = None,
    ) -> Steps[T]:
        """One call with its retries: no answer, an unusable one and 5xx are tried again until time is up."""
        deadline = time.monotonic() + limit_seconds
        attempt = 0
        while True:
            attempt += 1
            left_seconds = max(deadline - time.monotonic(), 0.001)
            answer = yield Send(path, body, headers or {}, min(self.settings.timeout_seconds, left_seconds))
            try:
                return _read(answer, parse)
            except UnavailableError as error:
                pause_seconds = max(backoff_seconds(attempt), error.retry_after or 0.0)
                if time.monotonic() + pause_seconds >= deadline:
                    raise
            yield Sleep(pause_seconds)


def _read(answer: httpx.Response | httpx.RequestError, parse: Callable[..., T]) -> T:
    if not isinstance(answer, httpx.Response):
        what = "no answer in time" if isinstance(answer, httpx.TimeoutException) else "no connection"
        detail = f": {answer}" if str(answer) else ""
        raise UnavailableError(f"Tokentill is unavailable, {what}{detail}") from answer
    try:
        envelope = wire.parse(answer.status_code, answer.text)
    except UnavailableError as error:
        error.retry_after = _retry_after_seconds(answer)
        raise
    if parse is wire.parse_end:
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


def _batch_item(result: Any) -> BatchItem:
    if isinstance(result, dict) and result.get("success") is True:
        return BatchItem(wire.parse_end(result), None)
    status = result.get("status") if isinstance(result, dict) else None
    return BatchItem(None, wire.error_from(status if isinstance(status, int) else 500, result))


def _chunks(pairs: Sequence[tuple[str, str]]) -> Generator[list[tuple[str, str]], None, None]:
    chunk: list[tuple[str, str]] = []
    size = 0
    for key, body in pairs:
        cost = len(body) + len(key) + 32
        if chunk and (len(chunk) >= BATCH_ENDS_MAX or size + cost > BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append((key, body))
        size += cost
    if chunk:
        yield chunk
