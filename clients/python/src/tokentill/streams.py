"""A provider's stream or a generator, passed on chunk by chunk while its usage is read.

It is settled once: when it is exhausted, closed, cancelled, fails, or is forgotten. Whichever it is, the
source is closed first, at once, so that the provider stops; then what flowed until then is billed, and where
nothing flowed the hold is given back.

What is handed on is still what it was: it has the source's attributes, is a context manager where that is
one, and `isinstance` takes it for the source's type.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from tokentill.current import inside, stream_around
from tokentill.leftovers import leftovers
from tokentill.upstream import Upstream, is_native

if TYPE_CHECKING:
    from tokentill.run import AsyncRun, Run

logger = logging.getLogger("tokentill")

T = TypeVar("T")

# A provider that doesn't answer even to a hang-up is left to itself.
CLOSE_SECONDS = 5.0
# A generator that passes on what another stream of its run has counted does so soon.
COUNTED_MAX = 100

_lanes = itertools.count(1)


class _LikeItsSource:
    """Answers for the source wherever it isn't asked about chunks. Our own names begin with `tokentill`."""

    _tokentill_source: Any
    _tokentill_run: Any

    @property
    def tokentill_run(self) -> Any:
        """The Run or AsyncRun that this stream belongs to."""
        return self._tokentill_run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_tokentill_"):
            raise AttributeError(name)
        return getattr(self._tokentill_source, name)

    if not TYPE_CHECKING:

        @property
        def __class__(self) -> type:
            source = self.__dict__.get("_tokentill_source")
            # A generator is a type that C code looks into.
            return type(self) if source is None or is_native(source) else source.__class__


class _Passing(_LikeItsSource):
    """What both kinds of stream are made of."""

    def __init__(self, run: Any, source: Any) -> None:
        self._tokentill_run = run
        self._tokentill_source = source
        self._tokentill_chunks: Any = None
        self._tokentill_upstream = Upstream(source)
        self._tokentill_over = False
        self._tokentill_working = False
        # By which the run's meter tells its streams apart.
        self.tokentill_lane = next(_lanes)
        # What another stream of this run, which this one reads, has counted already.
        self._tokentill_counted: deque[Any] = deque(maxlen=COUNTED_MAX)
        run.stream_begins(self)

    @property
    def tokentill_begun(self) -> bool:
        """A chunk was asked for."""
        return self._tokentill_chunks is not None

    def _tokentill_take(self, chunk: Any) -> None:
        """Counted before it is handed out: the consumer may never come back."""
        run, counted = self._tokentill_run, self._tokentill_counted
        # Text that is made of counted chunks is counted with them.
        text = isinstance(chunk, (str, bytes)) and len(counted) > 0
        models = self._tokentill_upstream.look()
        if not text and not any(chunk is each for each in counted):
            run.read_chunk(chunk, models, self.tokentill_lane)
        around = stream_around()
        if around is not None and around.tokentill_run is run:
            around._tokentill_counted.append(chunk)
        run.raise_if_stopped()

    def _tokentill_closables(self, *, failed: bool) -> list[Any]:
        """From the inside out: an iterator may be in the middle of its source."""
        chunks, source = self._tokentill_chunks, self._tokentill_source
        own = [source] if chunks is None or chunks is source else [chunks, source]
        # A generator that came to its end has done with its streams as it meant to.
        return [*own, *self._tokentill_upstream.found()] if failed else own


class Stream(_Passing, Generator[T, Any, Any]):
    """In plain code. Also what `Run.stream` gives: an iterator, a generator, a context manager."""

    def __init__(self, run: Run, source: Iterable[T]) -> None:
        super().__init__(run, source)

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        return self._tokentill_advance(next)

    def send(self, value: Any) -> T:
        return self._tokentill_advance(next if value is None else lambda chunks: chunks.send(value))

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> T:
        if self._tokentill_chunks is None and not self._tokentill_over:
            # As a generator does that has not begun.
            self._tokentill_settle(failed=True)
            raise value if value is not None else kind

        def throw(chunks: Any) -> T:
            if hasattr(chunks, "throw"):
                thrown: T = chunks.throw(kind) if value is None else chunks.throw(kind, value, traceback)
                return thrown
            raise value if value is not None else kind

        return self._tokentill_advance(throw)

    def close(self) -> None:
        """Close the source and settle. May be repeated.

        While another thread reads it, a provider's stream is hung up on, and the reader settles.
        """
        if self._tokentill_over:
            return
        if not self._tokentill_working:
            self._tokentill_settle(failed=True)
        elif is_native(self._tokentill_source):
            raise ValueError("The generator is being read")
        else:
            _close(self._tokentill_source)

    def __enter__(self) -> Stream[T]:
        enter = getattr(self._tokentill_source, "__enter__", None)
        if enter is not None:
            enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Any:
        self.close()
        leave = getattr(self._tokentill_source, "__exit__", None)
        return None if leave is None else leave(kind, error, where)

    def __del__(self) -> None:
        if not self.__dict__.get("_tokentill_over", True) and self._tokentill_run.started is not None:
            self._tokentill_run.stream_forgotten(self)
            leftovers.put(self.close)

    def _tokentill_advance(self, step: Callable[[Any], T]) -> T:
        if self._tokentill_over:
            raise StopIteration
        if self._tokentill_working:
            raise ValueError("The stream is being read already")
        run = self._tokentill_run
        self._tokentill_working = True
        try:
            run.start()
            with inside(run, self):
                if self._tokentill_chunks is None:
                    self._tokentill_chunks = iter(self._tokentill_source)
                chunk = step(self._tokentill_chunks)
            self._tokentill_take(chunk)
        except StopIteration as stop:
            # What a generator returns at its end is about all of it; most return nothing.
            if stop.value is not None:
                run.read_return(stop.value, self.tokentill_lane)
            self._tokentill_settle(failed=False)
            raise
        except BaseException as error:
            run.read_error(error)
            self._tokentill_settle(failed=True)
            raise
        finally:
            self._tokentill_working = False
        return chunk

    def _tokentill_settle(self, *, failed: bool) -> None:
        self._tokentill_over = True
        source, run = self._tokentill_source, self._tokentill_run
        try:
            with inside(run):
                for closable in self._tokentill_closables(failed=failed):
                    _close(closable)
            if self._tokentill_chunks is None:
                run.read_past(source, self.tokentill_lane)
        finally:
            run.stream_over(self, failed=failed)


class AsyncStream(_Passing, AsyncGenerator[T, Any]):
    """In asyncio code. See `Stream`."""

    def __init__(self, run: AsyncRun, source: AsyncIterable[T]) -> None:
        super().__init__(run, source)

    def __aiter__(self) -> AsyncStream[T]:
        return self

    async def __anext__(self) -> T:
        return await self._tokentill_advance(anext)

    async def asend(self, value: Any) -> T:
        if value is None:
            return await self.__anext__()
        return await self._tokentill_advance(lambda chunks: chunks.asend(value))

    async def athrow(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> T:
        if self._tokentill_chunks is None and not self._tokentill_over:
            await self._tokentill_settle(failed=True, cancelled=False)
            raise value if value is not None else kind

        def throw(chunks: Any) -> Awaitable[T]:
            if hasattr(chunks, "athrow"):
                thrown: Awaitable[T] = (
                    chunks.athrow(kind) if value is None else chunks.athrow(kind, value, traceback)
                )
                return thrown
            raise value if value is not None else kind

        return await self._tokentill_advance(throw)

    async def aclose(self) -> None:
        """Close the source and settle. May be repeated.

        While another task reads it, a provider's stream is hung up on, and the reader settles.
        """
        await self.tokentill_close(cancelled=False)

    async def tokentill_close(self, *, cancelled: bool) -> None:
        """`cancelled`: its task is, so it isn't kept for long."""
        if self._tokentill_over:
            return
        if not self._tokentill_working:
            await self._tokentill_settle(failed=True, cancelled=cancelled)
        elif is_native(self._tokentill_source):
            raise RuntimeError("The generator is being read")
        else:
            await _aclose(self._tokentill_source, CLOSE_SECONDS)

    async def close(self) -> None:
        """As providers' own streams name it."""
        await self.aclose()

    async def __aenter__(self) -> AsyncStream[T]:
        enter = getattr(self._tokentill_source, "__aenter__", None)
        if enter is not None:
            await enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Any:
        if not self._tokentill_over:
            await self._tokentill_settle(failed=True, cancelled=isinstance(error, asyncio.CancelledError))
        leave = getattr(self._tokentill_source, "__aexit__", None)
        return None if leave is None else await leave(kind, error, where)

    def __del__(self) -> None:
        if self.__dict__.get("_tokentill_over", True) or self._tokentill_run.started is None:
            return
        self._tokentill_run.stream_forgotten(self)
        self._tokentill_run.left_behind(self.aclose)

    async def _tokentill_advance(self, step: Callable[[Any], Awaitable[T]]) -> T:
        if self._tokentill_over:
            raise StopAsyncIteration
        if self._tokentill_working:
            raise RuntimeError("The stream is being read already")
        run = self._tokentill_run
        self._tokentill_working = True
        try:
            await run.start()
            with inside(run, self):
                if self._tokentill_chunks is None:
                    self._tokentill_chunks = aiter(self._tokentill_source)
                chunk = await step(self._tokentill_chunks)
            self._tokentill_take(chunk)
        except GeneratorExit:
            # This very coroutine is thrown away, so nothing can be awaited: `__del__` sees to it.
            raise
        except StopAsyncIteration:
            await self._tokentill_settle(failed=False, cancelled=False)
            raise
        except BaseException as error:
            run.read_error(error)
            await self._tokentill_settle(failed=True, cancelled=isinstance(error, asyncio.CancelledError))
            raise
        finally:
            self._tokentill_working = False
        return chunk

    async def _tokentill_settle(self, *, failed: bool, cancelled: bool) -> None:
        self._tokentill_over = True
        source, run = self._tokentill_source, self._tokentill_run
        try:
            with inside(run):
                for closable in self._tokentill_closables(failed=failed):
                    await _aclose(closable, run.patience_seconds if cancelled else None)
            if self._tokentill_chunks is None:
                run.read_past(source, self.tokentill_lane)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            await run.stream_over(self, failed=failed, cancelled=cancelled)


class StreamManager(_LikeItsSource):
    """What OpenAI's and Anthropic's `stream()` answer: a context manager that gives the stream."""

    def __init__(self, run: Run, source: Any) -> None:
        self._tokentill_run = run
        self._tokentill_source = source
        self._tokentill_stream: Stream[Any] | None = None

    def __enter__(self) -> Stream[Any]:
        try:
            self._tokentill_stream = Stream(self._tokentill_run, self._tokentill_source.__enter__())
        except BaseException:
            self._tokentill_run.finish(failed=True)
            raise
        return self._tokentill_stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Any:
        if self._tokentill_stream is not None:
            self._tokentill_stream.close()
        return self._tokentill_source.__exit__(kind, error, where)


class AsyncStreamManager(_LikeItsSource):
    """In asyncio code. See `StreamManager`."""

    def __init__(self, run: AsyncRun, source: Any) -> None:
        self._tokentill_run = run
        self._tokentill_source = source
        self._tokentill_stream: AsyncStream[Any] | None = None

    async def __aenter__(self) -> AsyncStream[Any]:
        try:
            self._tokentill_stream = AsyncStream(
                self._tokentill_run, await self._tokentill_source.__aenter__()
            )
        except BaseException as error:
            await self._tokentill_run.finish(failed=True, cancelled=isinstance(error, asyncio.CancelledError))
            raise
        return self._tokentill_stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> Any:
        if self._tokentill_stream is not None:
            await self._tokentill_stream.aclose()
        return await self._tokentill_source.__aexit__(kind, error, where)


def is_manager(result: Any, enter: str) -> bool:
    """OpenAI and Anthropic name theirs alike, and each has a connection to a model behind it."""
    return type(result).__name__.endswith("StreamManager") and hasattr(result, enter)


def _close(closable: Any) -> None:
    close = getattr(closable, "close", None)
    if not callable(close):
        return
    try:
        close()
    except Exception as error:
        # A generator's error is the service's own; a connection that breaks while it is closed is closed.
        if is_native(closable):
            raise
        logger.warning("A provider's stream could not be closed: %s", error)


async def _aclose(closable: Any, limit_seconds: float | None) -> None:
    close = getattr(closable, "aclose", None) or getattr(closable, "close", None)
    if not callable(close):
        return
    if limit_seconds is None:
        # What a generator does at its end is the service's business, however long.
        limit_seconds = float("inf") if is_native(closable) else CLOSE_SECONDS
    try:
        # In this very task, as generators must be; shielded, as a cancelled scope would stop it at once.
        with anyio.move_on_after(limit_seconds, shield=True):
            closing = close()
            if inspect.isawaitable(closing):
                await closing
    except Exception as error:
        if is_native(closable):
            raise
        logger.warning("A provider's stream could not be closed: %s", error)
