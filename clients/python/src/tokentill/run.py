"""One run of a feature: start, meter, and exactly one of end, cancel or nothing.

When a run is over: usage was reported, it is billed, also when the code failed half-way (the tokens are
used). No usage: the hold, if any, is given back. A failing end never reaches the caller: it is logged, handed
to `on_end_error`, and stands in the outbox where there is one. Usage that is missing or can't be read is
logged and handed over likewise, as a UsageError; with `require_usage` the run raises it when it is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from tokentill.core import Core
from tokentill.current import inside
from tokentill.drivers import AsyncDriver, Driver
from tokentill.errors import HoldRefusedError, UnavailableError, UsageError
from tokentill.holds import keeper
from tokentill.leftovers import leftovers
from tokentill.run_parts import RunParts
from tokentill.streams import AsyncStream, Stream
from tokentill.wire import Amount, Hold, Start

logger = logging.getLogger("tokentill")

T = TypeVar("T")


class Run(RunParts):
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
        if self.started is not None:
            return self.started
        leftovers.expect()
        try:
            started = self._driver.run(self._start_steps())
        except UnavailableError:
            self._undo_start()
            raise
        if started.away:
            self._undo_start()
        if self._keep_hold and self.hold is not None:
            keeper.keep(self)
        return started

    def _undo_start(self) -> None:
        if self._hold_token is not None:
            leftovers.put(lambda: self._driver.run(self._undo_start_steps()))

    def __del__(self) -> None:
        if self.__dict__.get("started") is not None and self.open:
            leftovers.put(lambda: self.finish(failed=True))

    def finish(self, *, failed: bool = False, result: Any = None) -> None:
        """Settle now. `failed`: the feature came to no end. Raises UsageError if usage is required."""
        self._driver.run(self._finish_steps(failed=failed))
        self._strictly(result)

    def _tell_late(self, error: UsageError) -> None:
        leftovers.put(lambda: self._driver.run(self._report(error)))

    def enter(self) -> None:
        """A function or block begins that this run is for: its streams alone don't end it."""
        self.start()
        self._scoped = True

    def leave(self, *, failed: bool = False, result: Any = None, block: bool = False) -> None:
        """It is over, and so is the run, unless streams of it were handed on.

        When it failed they were not; and a `with` block closes those that it began to read.
        """
        try:
            for stream in self._open_streams():
                if failed or (block and stream.tokentill_begun):
                    # One that another thread reads settles the run when it is over.
                    with contextlib.suppress(ValueError):
                        stream.close()
        finally:
            self._scoped = False
            if not self._open_streams():
                self.finish(failed=failed, result=result)

    def stream_over(self, stream: Stream[Any], *, failed: bool) -> None:
        """The last one settles, if nobody else will."""
        if self._stream_over(stream, failed=failed):
            self.finish(failed=failed)

    def keep_hold(self) -> None:
        """The keeper's turn, in a thread of its own."""
        self._driver.run(self.keep_hold_steps())

    def extend_hold(self, *, token: Amount | None = None, seconds: int | None = None) -> Hold:
        """Reserve `token` more and/or keep the hold for `seconds` longer, in the middle of the run.

        HoldRefusedError: the user hasn't so many. The hold is as it was, and this run's stream is stopped:
        its provider is hung up on, and what flowed is billed.
        """
        try:
            return self._driver.run(self._extend_steps(token, seconds))
        except HoldRefusedError:
            for stream in self._open_streams() if self._refusal is not None else ():
                # Being read, it is our caller: it stops with this error, or with the next chunk.
                with contextlib.suppress(ValueError):
                    stream.close()
            raise

    def __enter__(self) -> Run:
        self.enter()
        self._inside = inside(self)
        self._inside.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._inside is not None:
            self._inside.__exit__(None, None, None)
        self.read_error(error)
        self.leave(failed=error is not None, block=True)

    def stream(self, source: Iterable[T]) -> Stream[T]:
        """Pass the chunks on and read their usage. The run is settled when its streams are exhausted, closed,
        failed or forgotten, and the function or block that it is for is over.
        """
        if type(source) is Stream and source.tokentill_run is self:
            return source
        return Stream(self, source)


class AsyncRun(RunParts):
    """A run in asyncio code: an asynchronous context manager, or `await start()` and then `stream()`."""

    def __init__(
        self, core: Core, driver: AsyncDriver, user_id: str, feature_endpoint_id: str, **options: Any
    ) -> None:
        super().__init__(core, user_id, feature_endpoint_id, **options)
        self._driver = driver
        self._keeping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._settings: Callable[[], Awaitable[Mapping[str, Any]]] | None = None

    def settings_at_start(self, settings: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Ask for `user_id` and `hold_token` only when the run starts."""
        self._settings = settings

    async def start(self) -> Start:
        """See `Run.start`."""
        if self.started is not None:
            return self.started
        if self._settings is not None:
            ask, self._settings = self._settings, None
            settings = await ask()
            self.user_id, self._hold_token = settings["user_id"], settings["hold_token"]
        try:
            started = await self._driver.run(self._start_steps())
        except (asyncio.CancelledError, UnavailableError):
            self._undo_start()
            raise
        if started.away:
            self._undo_start()
        self._loop = asyncio.get_running_loop()
        leftovers.expect()
        if self._keep_hold and self.hold is not None:
            self._keeping = asyncio.ensure_future(self.hold.keep(self._driver, weakref.ref(self)))
        return started

    def _undo_start(self) -> None:
        if self._hold_token is not None:
            self._driver.detach(self._driver.run(self._undo_start_steps()))

    async def finish(self, *, failed: bool = False, cancelled: bool = False, result: Any = None) -> None:
        """See `Run.finish`.

        `cancelled`: the task is, so it isn't kept for longer than `cancelled_end_timeout_seconds`.
        """
        if self._keeping is not None:
            self._keeping.cancel()
        steps = self._finish_steps(failed=failed)
        if cancelled:
            await self._driver.run_cancelled(steps)
        else:
            await self._driver.run_to_the_end(steps)
            self._strictly(result)

    def _tell_late(self, error: UsageError) -> None:
        def in_thread() -> None:
            driver = self._driver.thread_driver()
            try:
                driver.run(self._report(error))
            finally:
                driver.close()

        def on_loop() -> None:
            self._driver.detach(self._driver.run(self._report(error)))

        leftovers.put_on(self._loop, on_loop, in_thread)

    async def enter(self) -> None:
        """See `Run.enter`."""
        await self.start()
        self._scoped = True

    async def leave(
        self, *, failed: bool = False, cancelled: bool = False, result: Any = None, block: bool = False
    ) -> None:
        """See `Run.leave`."""
        try:
            for stream in self._open_streams():
                if failed or (block and stream.tokentill_begun):
                    with contextlib.suppress(RuntimeError):
                        await stream.tokentill_close(cancelled=cancelled)
        finally:
            self._scoped = False
            if not self._open_streams():
                await self.finish(failed=failed, cancelled=cancelled, result=result)

    async def stream_over(self, stream: AsyncStream[Any], *, failed: bool, cancelled: bool) -> None:
        """See `Run.stream_over`."""
        if self._stream_over(stream, failed=failed):
            await self.finish(failed=failed, cancelled=cancelled)

    def __del__(self) -> None:
        if self.__dict__.get("started") is not None and self.open:
            self.left_behind(lambda: self.finish(failed=True))

    def left_behind(self, settle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have it settled on the loop it was started on, or in a thread where that isn't running any more."""
        leftovers.put_on(self._loop, lambda: self._settle_on_loop(settle), self._finish_in_thread)

    def _settle_on_loop(self, settle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._driver.detach(settle())

    def _finish_in_thread(self) -> None:
        driver = self._driver.thread_driver()
        try:
            driver.run(self._finish_steps(failed=True))
        finally:
            driver.close()

    @property
    def patience_seconds(self) -> float:
        """How long a cancelled task is kept."""
        return self._core.settings.cancelled_end_timeout_seconds

    async def extend_hold(self, *, token: Amount | None = None, seconds: int | None = None) -> Hold:
        """See `Run.extend_hold`."""
        try:
            return await self._driver.run(self._extend_steps(token, seconds))
        except HoldRefusedError:
            for stream in self._open_streams() if self._refusal is not None else ():
                with contextlib.suppress(RuntimeError):
                    await stream.aclose()
            raise

    async def __aenter__(self) -> AsyncRun:
        await self.enter()
        self._inside = inside(self)
        self._inside.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._inside is not None:
            self._inside.__exit__(None, None, None)
        cancelled = isinstance(error, asyncio.CancelledError)
        self.read_error(error)
        await self.leave(failed=error is not None, cancelled=cancelled, block=True)

    def stream(self, source: AsyncIterable[T]) -> AsyncStream[T]:
        """See `Run.stream`; a cancelled consumer is one that closed early."""
        if type(source) is AsyncStream and source.tokentill_run is self:
            return source
        return AsyncStream(self, source)
