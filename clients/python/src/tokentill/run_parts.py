"""What both runs are made of: what a run was told, and the steps of its start, its hold and its end."""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from tokentill.core import Core, new_key
from tokentill.current import stream_around
from tokentill.errors import (
    HoldNotFoundError,
    HoldRefusedError,
    InsufficientTokensError,
    TokenProcessError,
    UnavailableError,
    UsageError,
    UsageMissingError,
)
from tokentill.holds import HoldLife
from tokentill.steps import Steps, Tell
from tokentill.usage import Extractor, Meter, Settled, Usage, Used, answer_of_error, is_out_of_sight
from tokentill.wire import Amount, End, Hold, Start, end_body, start_body

logger = logging.getLogger("tokentill")

OnEndError: TypeAlias = Callable[[Exception, "dict[str, Any]"], "Awaitable[None] | None"]


class RunParts(abc.ABC):
    """What both runs are made of. `started`, `ended` and `end_error` are filled as the run goes on."""

    def __init__(
        self,
        core: Core,
        user_id: str,
        feature_endpoint_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        keep_hold: bool = False,
        model: str | None = None,
        usage: Extractor | None = None,
        on_end_error: OnEndError | None = None,
        require_usage: bool = False,
        free: bool = False,
    ) -> None:
        self._core = core
        self._meter = Meter(usage)
        self._used = Used()
        # The same, and what came too late.
        self._counted = Used()
        self._require_usage = require_usage
        self._free = free
        self._hold_token = hold_token
        self._hold_seconds = hold_seconds
        self._keep_hold = keep_hold
        self._model = model
        self._on_end_error = on_end_error
        self._finished = False
        self._failed = False
        self._start_key = new_key()
        self._refusal: HoldRefusedError | None = None
        # The way into them leads through this run, so strong ones would keep forgotten streams alive.
        self._streams: dict[int, weakref.ref[Any]] = {}
        # A function or block this run is for has not come to its end yet.
        self._scoped = False
        self._inside: contextlib.AbstractContextManager[None] | None = None
        self.user_id = user_id
        self.feature_endpoint_id = feature_endpoint_id
        self.idempotency_key = new_key()
        self.hold: HoldLife | None = None
        self.started: Start | None = None
        self.ended: End | None = None
        self.end_error: Exception | None = None
        self.usage_error: UsageError | None = None
        self._raise_usage_error = False

    def use(
        self,
        input_token: int = 0,
        output_token: int = 0,
        model: str | None = None,
        *,
        cached_input_token: int | None = None,
        cache_write_token: int | None = None,
        reasoning_token: int | None = None,
    ) -> None:
        """Add tokens that this run used, beside what is read. Raises ValidationError for what is no count.

        Nothing is billed for a run that is over: `on_end_error` is told of what comes later.
        """
        self._meter.use(
            Usage(
                input_token,
                output_token,
                cached_input_token=cached_input_token,
                cache_write_token=cache_write_token,
                reasoning_token=reasoning_token,
                model=model,
            ),
            self._lane(),
        )
        self._see_late_usage()

    def read(self, result: Any) -> None:
        """Add the usage that a result reports, or a list of them, or a chunk of a stream (see
        `tokentill.usage`).

        Results are told apart by their ids; one without an id is an answer of its own. Raises nothing: what
        can't be read comes out when the run is over.
        """
        self._meter.read(result, self._lane())
        self._see_late_usage()

    def returned(self, result: Any) -> None:
        """Add the usage of what the feature returned. One that it has handed to `read` itself counts once."""
        # Streams of this run, in whatever they were handed on, count themselves.
        if not self._open_streams() or not is_out_of_sight(result):
            self._meter.read_result(result)

    def read_error(self, error: BaseException | None) -> None:
        """Add the answer that the feature failed with: the error of a provider's package may carry one."""
        answer = answer_of_error(error)
        if answer is not None:
            self._meter.read_result(answer)

    def next_answer(self) -> None:
        """What is read from now on belongs to another answer: for chunks that carry no id of theirs."""
        self._meter.next_answer(self._lane())

    def free(self) -> None:
        """This run costs nothing, whatever was or will be read: no end, and its hold is given back."""
        self._free = True

    def _lane(self) -> int:
        """The stream of this run that the calling code feeds: what it reads by hand is that stream's."""
        around = stream_around()
        return around.tokentill_lane if around is not None and around.tokentill_run is self else 0

    def read_chunk(self, chunk: Any, models: Sequence[Any] = (), lane: int = 0) -> None:
        """Take in a chunk of a stream of this run, and the providers' streams that it was made from."""
        self._meter.read_chunk(chunk, models, lane)

    def read_return(self, value: Any, lane: int) -> None:
        """Take in what a generator returned at its end."""
        self._meter.read_return(value, lane)

    def read_past(self, source: Any, lane: int) -> None:
        """Its chunks didn't come by here: see what the stream has put together by itself."""
        self._meter.read_past(source, lane)

    def hand_on(self) -> None:
        """The function is over, and what it returned settles this run."""
        self._scoped = False

    def stream_begins(self, stream: Any) -> None:
        """It keeps this run open."""
        self._streams[id(stream)] = weakref.ref(stream)

    def stream_forgotten(self, stream: Any) -> None:
        """It is closed by whoever settles what is left behind; what it has reported is all there will be."""
        self._streams.pop(id(stream), None)
        if stream.tokentill_begun:
            self._meter.stream_over(left=True, lane=stream.tokentill_lane)

    def _stream_over(self, stream: Any, *, failed: bool) -> bool:
        """Whether the run is over with it."""
        self._streams.pop(id(stream), None)
        self._meter.stream_over(left=failed, lane=stream.tokentill_lane)
        # Of a run that was over before this stream began.
        self._see_late_usage()
        return not self._scoped and not self._open_streams()

    def _open_streams(self) -> list[Any]:
        return [stream for reference in list(self._streams.values()) if (stream := reference()) is not None]

    def _settle(self, *, failed: bool) -> Settled:
        if self._free:
            return Settled(Used())
        return self._meter.settle(left_early=failed, required=self._require_usage)

    def raise_if_stopped(self) -> None:
        """A stream asks after every chunk: a hold that could not be extended ends it."""
        if self._refusal is not None:
            raise self._refusal

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def open(self) -> bool:
        """Started, and not settled yet."""
        return self.started is not None and not self._finished

    def _start_steps(self) -> Steps[Start]:
        if self.started is None:
            started = yield from self._core.start(
                self.user_id,
                self.feature_endpoint_id,
                self._hold_token,
                self._hold_seconds,
                self._start_key,
                model=self._model,
            )
            if not started.access_able:
                error = InsufficientTokensError(
                    f"Insufficient tokens. Available: {started.token}",
                    status=200,
                    code="insufficient_tokens",
                    data={"user_id": started.user_id, "token": started.token, "status": started.status},
                )
                error.operation, error.idempotency_key = "start", self._start_key
                # Without the key: that one's answer is given.
                error.repeat = {"user_id": self.user_id, "feature_endpoint_id": self.feature_endpoint_id}
                raise error
            self.started = started
            if started.hold_token is not None and started.expires_at is not None:
                self.hold = HoldLife(self._hold_seconds, started.expires_at)
        return self.started

    def _extend_steps(self, token: Amount | None, seconds: int | None) -> Steps[Hold]:
        if self.started is None or self.started.process_id is None:
            if self.started is not None and self.started.away:
                raise UnavailableError("This run went on without Tokentill, so it has no hold to extend")
            raise HoldNotFoundError("This run has no hold to extend")
        try:
            hold = yield from self._core.extend_hold(self.user_id, self.started.process_id, token, seconds)
        except HoldRefusedError as error:
            if token is not None:
                self._refusal = error
            raise
        if self.hold is not None:
            self.hold.extended(seconds or 0)
        return hold

    def keep_hold_steps(self) -> Steps[None]:
        """Have the hold live on for as long as it already has. Raises what it fails with."""
        if self.hold is not None and not self._finished:
            yield from self._extend_steps(None, self.hold.half_life_seconds)

    def _undo_start_steps(self) -> Steps[None]:
        """A start that got no answer may have made a hold all the same."""
        body = start_body(
            self.user_id, self.feature_endpoint_id, self._hold_token, self._hold_seconds, self._model
        )
        yield from self._core.undo_start(body, self._start_key)

    def _finish_steps(self, *, failed: bool) -> Steps[None]:
        """Settle this run, once. Raises nothing but what the program itself is interrupted by."""
        if self._finished or self.started is None:
            return
        self._finished = True
        process_id = self.started.process_id
        settled = self._settle(failed=failed)
        self._failed = failed
        self._used = self._counted = settled.used
        if settled.error is not None:
            yield from self._not_counted(settled.error, failed=failed)
        if self._used.any:
            try:
                body = end_body(
                    user_id=self.user_id,
                    feature_endpoint_id=self.feature_endpoint_id,
                    process_id=process_id,
                    **self._used.as_end(),
                )
                self.ended = yield from self._core.end(body, self.idempotency_key)
            except Exception as error:
                yield from self._report(error)
        elif process_id and (failed or self._hold_token is not None):
            try:
                yield from self._core.cancel(self.user_id, process_id)
            except TokenProcessError as error:
                logger.warning("The hold %s was not given back and will expire: %s", process_id, error)

    def _not_counted(self, error: UsageError, *, failed: bool) -> Steps[None]:
        """Usage is missing or unreadable: to be raised when the run is over, where that is wanted."""
        self.usage_error = error
        # A feature that failed has an error of its own, and a stream that was left nobody to raise it to.
        self._raise_usage_error = self._require_usage and not failed
        if not self._raise_usage_error:
            yield from self._report(error)

    def _strictly(self, result: Any = None) -> None:
        if self._raise_usage_error and self.usage_error is not None:
            self._raise_usage_error = False
            self.usage_error.result = result
            raise self.usage_error

    def _see_late_usage(self) -> None:
        """What is said after the end is billed to nobody, so it must not get lost in silence.

        The error's `repeat` bills it, where the service wants that.
        """
        if not self._finished or self._free:
            return
        settled = self._settle(failed=self._failed)
        late = settled.used.since(self._counted)
        self._counted = settled.used
        if not late:
            return
        error = UsageMissingError("This run was over already: what was used after it was not billed")
        error.seen = [late]
        error.operation, error.idempotency_key = "end", new_key()
        error.repeat = {
            "user_id": self.user_id,
            "feature_endpoint_id": self.feature_endpoint_id,
            "input_token": 0,
            "output_token": 0,
            **late,
            "model": self._counted.model,
            "idempotency_key": error.idempotency_key,
        }
        self._tell_late(error)

    @abc.abstractmethod
    def _tell_late(self, error: UsageError) -> None:
        """Report it behind, as whoever has said it is kept waiting for nothing."""

    def _report(self, error: Exception) -> Steps[None]:
        self.end_error = error
        end: dict[str, Any] = {
            "user_id": self.user_id,
            "feature_endpoint_id": self.feature_endpoint_id,
            **self._used.as_end(),
            "process_id": self.started.process_id if self.started else None,
            "idempotency_key": self.idempotency_key,
        }
        if isinstance(error, UsageError):
            end["seen"] = error.seen
            logger.error("The usage was not counted: %s: %s", error, json.dumps(end))
        elif isinstance(error, TokenProcessError) and error.queued:
            logger.warning("The end waits in the outbox: %s: %s", error, json.dumps(end))
        else:
            # Everything needed to bill it by hand, with the same key.
            logger.error("The end was not billed: %s: %s", error, json.dumps(end), exc_info=error)
        told = self._on_end_error
        if told is not None:
            yield Tell("on_end_error", lambda: told(error, end))
