"""One run of a feature: start, meter, and exactly one of end, cancel or nothing.

When a run is over: usage was reported, it is billed, also when the code failed half-way (the tokens are
used). No usage: the hold, if any, is given back. A failing end never reaches the caller: it is logged, handed
to `on_end_error`, and stands in the outbox where there is one. Usage that is missing or can't be read is
logged and handed over likewise, as a UsageError; with `require_usage` the run raises it when it is over.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from tokentill.core import Core, Steps, new_key
from tokentill.drivers import AsyncDriver, Driver
from tokentill.errors import InsufficientTokensError, TokenProcessError, UnavailableError, UsageError
from tokentill.usage import Extractor, Meter, Settled, Usage, Used
from tokentill.wire import Amount, End, Start, end_body

logger = logging.getLogger("tokentill")

T = TypeVar("T")
OnEndError: TypeAlias = Callable[[Exception, "dict[str, Any]"], None]


class _Run:
    """What both runs are made of. `started`, `ended` and `end_error` are filled as the run goes on."""

    def __init__(
        self,
        core: Core,
        user_id: str,
        feature_endpoint_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        usage: Extractor | None = None,
        on_end_error: OnEndError | None = None,
        require_usage: bool = False,
        free: bool = False,
    ) -> None:
        self._core = core
        self._meter = Meter(usage)
        self._used = Used()
        self._require_usage = require_usage
        self._free = free
        self._hold_token = hold_token
        self._hold_seconds = hold_seconds
        self._on_end_error = on_end_error
        self._finished = False
        self.user_id = user_id
        self.feature_endpoint_id = feature_endpoint_id
        self.idempotency_key = new_key()
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
        """Add tokens that this run used, beside what is read. Raises ValidationError for what is no count."""
        self._meter.use(
            Usage(
                input_token,
                output_token,
                cached_input_token=cached_input_token,
                cache_write_token=cache_write_token,
                reasoning_token=reasoning_token,
                model=model,
            )
        )

    def read(self, result: Any) -> None:
        """Add the usage that a result reports, or a list of them, or a chunk of a stream (see
        `tokentill.usage`).

        Results are told apart by their ids; one without an id is an answer of its own. Raises nothing: what
        can't be read comes out when the run is over.
        """
        self._meter.read(result)

    def next_answer(self) -> None:
        """What is read from now on belongs to another answer: for chunks that carry no id of theirs."""
        self._meter.next_answer()

    def free(self) -> None:
        """This run costs nothing, whatever was or will be read: no end, and its hold is given back."""
        self._free = True

    def _settle(self, *, failed: bool) -> Settled:
        if self._free:
            return Settled(Used())
        return self._meter.settle(left_early=failed, required=self._require_usage)

    def _start_steps(self) -> Steps[Start]:
        if self.started is None:
            started = yield from self._core.start(
                self.user_id, self.feature_endpoint_id, self._hold_token, self._hold_seconds
            )
            if not started.access_able:
                raise InsufficientTokensError(
                    f"Insufficient tokens. Available: {started.token}",
                    status=200,
                    code="insufficient_tokens",
                    data={"user_id": started.user_id, "token": started.token, "status": started.status},
                )
            self.started = started
        return self.started

    def _finish_steps(self, *, failed: bool) -> Steps[None]:
        """Settle this run, once. Raises nothing but what the program itself is interrupted by."""
        if self._finished or self.started is None:
            return
        self._finished = True
        process_id = self.started.process_id
        settled = self._settle(failed=failed)
        self._used = settled.used
        if settled.error is not None:
            self._not_counted(settled.error, failed=failed)
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
                self._report(error)
        elif process_id and (failed or self._hold_token is not None):
            try:
                yield from self._core.cancel(self.user_id, process_id)
            except TokenProcessError as error:
                logger.warning("The hold %s was not given back and will expire: %s", process_id, error)

    def _not_counted(self, error: UsageError, *, failed: bool) -> None:
        """Usage is missing or unreadable: to be raised when the run is over, where that is wanted."""
        self.usage_error = error
        # A feature that failed has an error of its own, and a stream that was left nobody to raise it to.
        self._raise_usage_error = self._require_usage and not failed
        if not self._raise_usage_error:
            self._report(error)

    def _strictly(self, result: Any = None) -> None:
        if self._raise_usage_error and self.usage_error is not None:
            self._raise_usage_error = False
            self.usage_error.result = result
            raise self.usage_error

    def _report(self, error: Exception) -> None:
        self.end_error = error
        end = {
            "user_id": self.user_id,
            "feature_endpoint_id": self.feature_endpoint_id,
            **self._used.as_end(),
            "process_id": self.started.process_id if self.started else None,
            "idempotency_key": self.idempotency_key,
        }
        if isinstance(error, UsageError):
            end["seen"] = error.seen
            logger.error("The usage was not counted: %s: %s", error, json.dumps(end))
        elif isinstance(error, UnavailableError) and error.queued:
            logger.warning("The end waits in the outbox: %s: %s", error, json.dumps(end))
        else:
            # Everything needed to bill it by hand, with the same key.
            logger.error("The end was not billed: %s: %s", error, json.dumps(end), exc_info=error)
        if self._on_end_error is not None:
            try:
                self._on_end_error(error, end)
            except Exception:
                logger.exception("on_end_error failed")


class Run(_Run):
    """A run in plain code: a context manager, or `start()` and then `stream()`."""

    def __init__(
        self, core: Core, driver: Driver, user_id: str, feature_endpoint_id: str, **options: Any
    ) -> None:
        super().__init__(core, user_id, feature_endpoint_id, **options)
        self._driver = driver

    def start(self) -> Start:
        """Start now, before the `with` block or the stream does: to refuse before an answer has begun.

        Raises InsufficientTokensError, or whatever else of the error tree keeps the run from starting.
        """
        return self._driver.run(self._start_steps())

    def finish(self, *, failed: bool = False, result: Any = None) -> None:
        """Settle now. `failed`: the feature came to no end. Raises UsageError if usage is required."""
        self._driver.run(self._finish_steps(failed=failed))
        self._strictly(result)

    def __enter__(self) -> Run:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.finish(failed=error is not None)

    def stream(self, source: Iterable[T]) -> Generator[T, Any, Any]:
        """Pass the chunks on and read their usage; settle when exhausted, closed early or failed."""
        self._meter.watch(source)
        with self:
            chunks = _closing(source)
            try:
                chunk = next(chunks)
                while True:
                    # Counted before it is handed out: the consumer may never come back.
                    self._meter.read_chunk(chunk)
                    try:
                        sent = yield chunk
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        chunk = chunks.throw(error)
                    else:
                        chunk = next(chunks) if sent is None else chunks.send(sent)
            except StopIteration as stop:
                # What a generator returns at its end is about all of it.
                self._meter.read_return(stop.value)
                return stop.value
            finally:
                chunks.close()


class AsyncRun(_Run):
    """A run in asyncio code: an asynchronous context manager, or `await start()` and then `stream()`."""

    def __init__(
        self, core: Core, driver: AsyncDriver, user_id: str, feature_endpoint_id: str, **options: Any
    ) -> None:
        super().__init__(core, user_id, feature_endpoint_id, **options)
        self._driver = driver

    async def start(self) -> Start:
        """See `Run.start`."""
        return await self._driver.run(self._start_steps())

    async def finish(self, *, failed: bool = False, result: Any = None) -> None:
        """See `Run.finish`."""
        await self._driver.run_to_the_end(self._finish_steps(failed=failed))
        self._strictly(result)

    async def __aenter__(self) -> AsyncRun:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.finish(failed=error is not None)

    async def stream(self, source: AsyncIterable[T]) -> AsyncGenerator[T, Any]:
        """See `Run.stream`; a cancelled consumer is one that closed early."""
        self._meter.watch(source)
        async with self:
            chunks = source.__aiter__()
            try:
                chunk = await anext(chunks)
                while True:
                    self._meter.read_chunk(chunk)
                    try:
                        sent = yield chunk
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        if not isinstance(chunks, AsyncGenerator):
                            raise
                        chunk = await chunks.athrow(error)
                    else:
                        if sent is not None and isinstance(chunks, AsyncGenerator):
                            chunk = await chunks.asend(sent)
                        else:
                            chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            finally:
                await _aclose(chunks)


def _closing(source: Iterable[T]) -> Generator[T, Any, Any]:
    """Any iterable as a generator: sends, throws and closing reach it where it knows them."""
    try:
        return (yield from source)
    finally:
        close = getattr(source, "close", None)
        if callable(close):
            close()


async def _aclose(chunks: AsyncIterator[Any]) -> None:
    close = getattr(chunks, "aclose", None) or getattr(chunks, "close", None)
    if callable(close):
        closing = close()
        if asyncio.iscoroutine(closing):
            await closing
