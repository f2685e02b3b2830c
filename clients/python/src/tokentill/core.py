"""The protocol once, for the plain and the asyncio client alike: each call is a generator of steps.

So the idempotency keys, what happens while the server is away, and the order "disk first, then network" exist
in one place.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentill import wire
from tokentill.calls import Caller
from tokentill.errors import (
    ConfigurationError,
    HoldRefusedError,
    OutboxError,
    TokenProcessError,
    UnavailableError,
)
from tokentill.hooks import Hooks, OutboxEvent
from tokentill.outbox import Outbox, QueuedEnd
from tokentill.settings import Settings, backoff_seconds
from tokentill.steps import Disk, Sleep, Steps

START_PATH = "/api/token-process/start"
END_PATH = "/api/token-process/end"
BATCH_PATH = "/api/token-process/end/batch"
CANCEL_PATH = "/api/token-process/cancel"
REVERSE_PATH = "/api/token-process/end/reverse"
ESTIMATE_PATH = "/api/token-process/estimate"
EXTEND_PATH = "/api/token-process/hold/extend"

# Half of what the server takes in one call: a batch that has to be sent again is not lost time for long.
BATCH_ENDS_MAX = 500
BATCH_BYTES_MAX = 900_000
LEASE_SLACK_SECONDS = 5.0
POSTPONE_CAP_SECONDS = 60.0
# However little time is left for a flush, a call that it makes has a fair chance to be answered.
CALL_SECONDS_MIN = 1.0


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


class Core(Caller):
    def __init__(self, settings: Settings, outbox: Outbox | None, hooks: Hooks | None = None) -> None:
        super().__init__(settings, hooks)
        self.outbox = outbox

    def start(
        self,
        user_id: str,
        feature_endpoint_id: str,
        hold_token: wire.Amount | None = None,
        hold_seconds: int | None = None,
        key: str | None = None,
        *,
        model: str | None = None,
    ) -> Steps[wire.Start]:
        """Ask whether a run may start; while the server is away, do as `when_away` says."""
        key = key or new_key()
        arguments = {
            "user_id": user_id,
            "feature_endpoint_id": feature_endpoint_id,
            "hold_token": hold_token,
            "hold_seconds": hold_seconds,
            "idempotency_key": key,
            "model": model,
        }
        with repeatable("start", key, arguments):
            body = wire.start_body(user_id, feature_endpoint_id, hold_token, hold_seconds, model)
            try:
                self.ask_breaker()
                # The key keeps an attempt whose answer got lost from leaving a second hold behind.
                return (
                    yield from self.call(
                        "start",
                        START_PATH,
                        body,
                        limit_seconds=self.settings.start_limit_seconds,
                        parse=wire.parse_start,
                        key=key,
                    )
                )
            except UnavailableError:
                if not (yield from self._can_go_on_without_start()):
                    raise
                return wire.Start(user_id, 0, wire.ACCESS_ABLE, away=True)

    def undo_start(self, body: str, key: str) -> Steps[None]:
        """Give back the hold of a start whose answer nobody got: its key finds it again."""
        with contextlib.suppress(TokenProcessError):
            self.ask_breaker()
            started: wire.Start = yield from self.call(
                "start",
                START_PATH,
                body,
                limit_seconds=self.settings.start_limit_seconds,
                parse=wire.parse_start,
                key=key,
            )
            if started.process_id is not None:
                yield from self.cancel(started.user_id, started.process_id)

    def _can_go_on_without_start(self) -> Steps[bool]:
        """Ask the policy. What goes on without the server must be sure of a place for its end."""
        outbox = self.outbox
        room = False
        if outbox is not None and self.settings.when_away == "open":
            with contextlib.suppress(OutboxError):
                status = yield Disk(outbox.status)
                room = status.pending + status.refused < outbox.ends_max
        return self.away.let_through(room_for_its_end=room)

    def cancel(self, user_id: str, process_id: str) -> Steps[None]:
        arguments = {"user_id": user_id, "process_id": process_id}
        with repeatable("cancel", None, arguments):
            self.ask_breaker()
            yield from self.call(
                "cancel",
                CANCEL_PATH,
                json.dumps(arguments),
                limit_seconds=self.settings.cancel_limit_seconds,
                parse=lambda _envelope: None,
            )

    def reverse(
        self, user_id: str, reference: str, reason: str, process_id: str | None, idempotency_key: str | None
    ) -> Steps[wire.Reversal]:
        arguments = {
            "user_id": user_id,
            "reference": reference,
            "reason": reason,
            "process_id": process_id,
            "idempotency_key": idempotency_key,
        }
        with repeatable("reverse", None, arguments):
            body = wire.reverse_body(user_id, reference, reason, process_id, idempotency_key)
            self.ask_breaker()
            return (
                yield from self.call(
                    "reverse",
                    REVERSE_PATH,
                    body,
                    limit_seconds=self.settings.end_limit_seconds,
                    parse=wire.parse_reversal,
                )
            )

    def estimate(self, body: str) -> Steps[wire.Estimate]:
        """Ask what an end would answer. `body` is an end's."""
        with repeatable("estimate", None, lambda: json.loads(body)):
            self.ask_breaker()
            return (
                yield from self.call(
                    "estimate",
                    ESTIMATE_PATH,
                    body,
                    limit_seconds=self.settings.start_limit_seconds,
                    parse=wire.parse_estimate,
                )
            )

    def extend_hold(
        self,
        user_id: str,
        process_id: str,
        hold_token: wire.Amount | None,
        hold_seconds: int | None,
        key: str | None = None,
    ) -> Steps[wire.Hold]:
        """Add to an open hold. HoldRefusedError leaves it as it was."""
        key = key or new_key()
        arguments = {
            "user_id": user_id,
            "process_id": process_id,
            "hold_token": hold_token,
            "hold_seconds": hold_seconds,
            "idempotency_key": key,
        }
        with repeatable("extend_hold", key, arguments):
            body = wire.extend_body(user_id, process_id, hold_token, hold_seconds)
            self.ask_breaker()
            hold: wire.Hold = yield from self.call(
                "extend_hold",
                EXTEND_PATH,
                body,
                limit_seconds=self.settings.start_limit_seconds,
                parse=wire.parse_hold,
                key=key,
            )
            if hold.status != wire.ACCESS_ABLE:
                raise HoldRefusedError(
                    f"Insufficient tokens for a larger hold. Available: {hold.token}",
                    status=200,
                    code="hold_refused",
                    data={"user_id": user_id, "token": hold.token, "status": hold.status},
                )
            return hold

    def end(self, body: str, key: str) -> Steps[wire.End]:
        """Report an end. With an outbox it is on disk before it is sent, until it is acknowledged."""
        with repeatable("end", key, lambda: _end_arguments(key, body)):
            outbox = self.outbox
            if outbox is None:
                return (yield from self._send_end(body, key, self.settings.end_limit_seconds))
            wait_seconds = self.settings.queued_end_limit_seconds
            try:
                yield Disk(lambda: outbox.put(key, body, lease_seconds=wait_seconds + LEASE_SLACK_SECONDS))
            except OutboxError as disk_error:
                # Full, or no disk: the end is still worth every attempt. Only if that fails too is it the
                # caller's.
                try:
                    return (yield from self._send_end(body, key, self.settings.end_limit_seconds))
                except UnavailableError as error:
                    raise disk_error from error
            try:
                self.ask_breaker()
                end = yield from self._send_end(body, key, wait_seconds)
            except TokenProcessError as error:
                yield from self._left_in_outbox(outbox, body, key, error)
                raise
            # A removal that fails leaves the row to be sent once more, with the same key: not the caller's
            # trouble.
            with contextlib.suppress(OutboxError):
                yield Disk(lambda: outbox.acknowledge([key]))
            return end

    def _left_in_outbox(self, outbox: Outbox, body: str, key: str, error: TokenProcessError) -> Steps[None]:
        yield from self._keep(outbox, [QueuedEnd(0, key, body, 0)], error)
        if error.refused:
            return
        error.queued = True
        if isinstance(error, UnavailableError):
            end = json.loads(body)
            self.away.used(end["input_token"] + end["output_token"])
        yield from self._tell_outbox(outbox, queued=1)

    def end_batch(self, ends: Sequence[tuple[str, str]]) -> Steps[list[BatchItem]]:
        """Send (key, body) pairs, in calls of a size the server takes. Raises when a whole call fails."""
        items: list[BatchItem] = []
        with repeatable("end_batch", None, lambda: {"ends": [_end_arguments(*pair) for pair in ends]}):
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
        flushed = yield from self._flush_claimed(outbox, queued, deadline)
        yield from self._tell_outbox(outbox, sent=flushed.sent, postponed=flushed.postponed)
        return flushed

    def _flush_claimed(self, outbox: Outbox, queued: Sequence[QueuedEnd], deadline: float) -> Steps[Flushed]:
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
        if self.settings.disabled:
            return Flushed()
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
                return (yield from self._send_batch(pairs, left_seconds(), looking=True))
            except TokenProcessError as error:
                if not error.refused:
                    raise
                # The whole call was refused, though one bad end shouldn't do that: find it by sending each
                # alone.
        items = []
        for key, body in pairs:
            try:
                end = yield from self._send_end(body, key, left_seconds(), looking=True)
                items.append(BatchItem(end, None))
            except TokenProcessError as error:
                if not error.refused:
                    raise
                items.append(BatchItem(None, error))
        return items

    def _send_end(
        self, body: str, key: str, limit_seconds: float, *, looking: bool = False
    ) -> Steps[wire.End]:
        return (
            yield from self.call(
                "end",
                END_PATH,
                body,
                limit_seconds=limit_seconds,
                parse=wire.parse_end,
                key=key,
                looking=looking,
            )
        )

    def _send_batch(
        self, pairs: Sequence[tuple[str, str]], limit_seconds: float, *, looking: bool = False
    ) -> Steps[list[BatchItem]]:
        # Spliced as text: the bodies are JSON already, and stay the very bodies of the single call.
        ends = ", ".join(f'{body[:-1]}, "idempotency_key": {json.dumps(key)}}}' for key, body in pairs)

        def parse(envelope: dict[str, Any]) -> list[BatchItem]:
            results = (envelope.get("data") or {}).get("results")
            if not isinstance(results, list) or len(results) != len(pairs):
                raise UnavailableError("The answer to end/batch doesn't match its ends")
            return [_batch_item(result, *pair) for result, pair in zip(results, pairs, strict=True)]

        text = f'{{"ends": [{ends}]}}'
        return (
            yield from self.call(
                "end_batch", BATCH_PATH, text, limit_seconds=limit_seconds, parse=parse, looking=looking
            )
        )

    def _keep(self, outbox: Outbox, ends: Sequence[QueuedEnd], error: TokenProcessError) -> Steps[None]:
        """Note why these ends are still in the outbox, and when they are due again."""
        # When even this fails, the lease runs out by itself and the ends are due then.
        with contextlib.suppress(OutboxError):
            if error.refused and len(ends) == 1:
                yield Disk(lambda: outbox.refuse(ends[0].idempotency_key, str(error)))
                return
            attempts = max(end.attempts for end in ends) + 1
            delay_seconds = backoff_seconds(attempts, base_seconds=1.0, cap_seconds=POSTPONE_CAP_SECONDS)
            if isinstance(error, UnavailableError) and error.retry_after_seconds:
                delay_seconds = max(delay_seconds, min(error.retry_after_seconds, 3600.0))
            keys = [end.idempotency_key for end in ends]
            yield Disk(lambda: outbox.postpone(keys, str(error), delay_seconds=delay_seconds))

    def _tell_outbox(self, outbox: Outbox, **counts: int) -> Steps[None]:
        if self._hooks.on_outbox is None:
            return
        with contextlib.suppress(OutboxError):
            status = yield Disk(outbox.status)
            yield from self.tell(self._hooks.on_outbox, OutboxEvent(status.pending, status.refused, **counts))


@contextlib.contextmanager
def repeatable(
    operation: str, key: str | None, arguments: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
) -> Iterator[None]:
    """Have every error say which call of the client repeats it; one whose end is in the outbox needs none."""
    try:
        yield
    except TokenProcessError as error:
        error.operation = operation
        error.idempotency_key = key
        if not error.queued:
            found = arguments() if callable(arguments) else arguments
            error.repeat = {name: value for name, value in found.items() if value is not None}
        raise


def _end_arguments(key: str, body: str) -> dict[str, Any]:
    return {**json.loads(body), "idempotency_key": key}


def _batch_item(result: Any, key: str, body: str) -> BatchItem:
    if isinstance(result, dict) and result.get("success") is True:
        return BatchItem(wire.parse_end(result), None)
    status = result.get("status") if isinstance(result, dict) else None
    error = wire.error_from(status if isinstance(status, int) else 500, result)
    error.operation, error.idempotency_key, error.repeat = "end", key, _end_arguments(key, body)
    return BatchItem(None, error)


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
