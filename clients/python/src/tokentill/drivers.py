"""Carrying out the steps of `tokentill.steps`: in a thread, or on an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import inspect
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
import httpx

from tokentill import forks
from tokentill.calls import Caller
from tokentill.errors import OutboxError
from tokentill.steps import Disk, Interrupted, Send, Sleep, Step, Steps, Tell
from tokentill.transport import AsyncTransport, ThreadTransport

logger = logging.getLogger("tokentill")

T = TypeVar("T")

# Somebody else's asynchronous callback is waited for so long, and then goes on by itself.
CALLBACK_SECONDS = 5.0
# The same for a disk that hangs, with everybody's ends behind it.
DISK_SECONDS = 5.0


class Driver:
    """For threads, any number of them."""

    def __init__(self, caller: Caller, transport: httpx.BaseTransport | None = None) -> None:
        self._caller = caller
        self._transport = transport
        self._connect()
        forks.register(self)

    def after_fork(self) -> None:
        # A forked child must not talk over its parent's sockets.
        self._connect()

    def run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = self._carry_out(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            answer: T = done.value
            return answer

    def close(self) -> None:
        self._http.close()

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, Disk):
            return step.call()
        if isinstance(step, Tell):
            return _tell(step)
        return time.sleep(step.seconds)

    def _send(self, send: Send) -> httpx.Response | httpx.RequestError:
        if self._http.is_closed:
            return Interrupted("The client is closed")
        try:
            return self._http.post(
                send.path, content=send.body, headers=send.headers, timeout=send.timeout_seconds
            )
        except httpx.RequestError as error:
            return _bare(error)

    def _connect(self) -> None:
        settings = self._caller.settings
        self._http = httpx.Client(
            base_url=settings.base_url,
            headers=self._caller.headers,
            transport=self._transport or ThreadTransport(settings.base_url),
        )


class AsyncDriver:
    """For asyncio. Connections belong to the event loop that opened them, so each loop has its own."""

    def __init__(self, caller: Caller, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._caller = caller
        self._transport = transport
        self._prepare()
        forks.register(self)

    def after_fork(self) -> None:
        self._prepare()

    def _prepare(self) -> None:
        self._https: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        # What goes on by itself: the loop alone would forget it.
        self._unfinished: set[asyncio.Task[Any]] = set()
        # Of its own: the loop's threads may all be busy with the service's work for long.
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "tokentill-disk")

    async def run(self, steps: Steps[T]) -> T:
        return await self._run(steps, self._carry_out)

    async def run_to_the_end(self, steps: Steps[T]) -> T:
        """Carry the steps out even if the caller is cancelled meanwhile: a cancelled run has used its tokens.

        The cancellation is raised afterwards, or after `cancelled_end_timeout_seconds`: the steps go on
        without the caller then, until their own limits.
        """
        task = self.detach(self._run(steps, self._carry_out_to_the_end_of_the_loop()))
        await self._join(task, give_up_at=None)
        return task.result()

    async def run_cancelled(self, steps: Steps[None]) -> None:
        """The same for a caller that is cancelled already, and isn't kept for longer than that."""
        task = self.detach(self._run(steps, self._carry_out_to_the_end_of_the_loop()))
        await self._join(task, give_up_at=asyncio.get_running_loop().time() + self._patience_seconds)

    def detach(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    def thread_driver(self) -> Driver:
        """For what is left after the loop. A transport that knows no threads doesn't come along."""
        transport = self._transport if isinstance(self._transport, httpx.BaseTransport) else None
        return Driver(self._caller, transport)

    async def wait_for_unfinished(self) -> None:
        """Ends that go on by themselves, and runs that were left behind: they need the connections."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._caller.settings.total_timeout_seconds
        # What was left behind comes by the loop first.
        await asyncio.sleep(0)
        while mine := [task for task in self._unfinished if task.get_loop() is loop and not task.done()]:
            left = deadline - loop.time()
            if left <= 0:
                break
            await asyncio.wait(mine, timeout=left)

    async def close(self) -> None:
        http = self._https.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()

    async def _join(self, task: asyncio.Task[Any], give_up_at: float | None) -> None:
        """Wait for the task; once cancelled, for a short while only. Raises the cancellation, if any."""
        loop = asyncio.get_running_loop()
        cancellation: asyncio.CancelledError | None = None
        while not task.done():
            left = None if give_up_at is None else give_up_at - loop.time()
            if left is not None and left <= 0:
                break
            # Two kinds of cancelling: a task's comes once each time, and a scope's (anyio, so also
            # Starlette's) again at every await, unless that is shielded. A shield from the start would hide
            # it from us.
            with anyio.CancelScope(shield=give_up_at is not None):
                try:
                    await asyncio.wait([task], timeout=left)
                except asyncio.CancelledError as error:
                    cancellation = error
                    give_up_at = give_up_at or loop.time() + self._patience_seconds
        if cancellation is not None:
            if task.done() and not task.cancelled():
                task.exception()  # Looked at, or asyncio complains that nobody did.
            raise cancellation

    @property
    def _patience_seconds(self) -> float:
        return self._caller.settings.cancelled_end_timeout_seconds

    async def _run(self, steps: Steps[T], carry_out: Callable[[Step], Awaitable[Any]]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = await carry_out(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            answer: T = done.value
            return answer

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, Disk):
            return await self._write(step)
        if isinstance(step, Tell):
            return await self._tell(step)
        return await asyncio.sleep(step.seconds)

    def _carry_out_to_the_end_of_the_loop(self) -> Callable[[Step], Awaitable[Any]]:
        """Nobody cancels a task that nobody knows but the end of its loop, which then waits for it.

        One last attempt is made, as the call may be repeated, and no pauses. What the outbox has by then is
        sent later.
        """
        hurried = False

        async def carry_out(step: Step) -> Any:
            nonlocal hurried
            if not hurried:
                try:
                    return await self._carry_out(step)
                except asyncio.CancelledError:
                    hurried = True
            if isinstance(step, Sleep):
                return None
            if isinstance(step, Send):
                answer = await self._send(dataclasses.replace(step, timeout_seconds=self._patience_seconds))
                return answer if isinstance(answer, httpx.Response) else Interrupted("The program is ending")
            return await self._carry_out(step)

        return carry_out

    async def _send(self, send: Send) -> httpx.Response | httpx.RequestError:
        loop = asyncio.get_running_loop()
        http = self._https.get(loop)
        if http is None:
            settings = self._caller.settings
            http = self._https[loop] = httpx.AsyncClient(
                base_url=settings.base_url,
                headers=self._caller.headers,
                transport=self._transport or AsyncTransport(settings.base_url),
            )
        if http.is_closed:
            return Interrupted("The client is closed")
        try:
            with anyio.fail_after(send.timeout_seconds):
                return await http.post(
                    send.path, content=send.body, headers=send.headers, timeout=send.timeout_seconds
                )
        except TimeoutError:
            return httpx.ReadTimeout(f"The call took longer than {send.timeout_seconds:g} seconds")
        except httpx.RequestError as error:
            return _bare(error)

    async def _write(self, disk: Disk) -> Any:
        written = asyncio.get_running_loop().run_in_executor(self._disk, disk.call)
        try:
            return await asyncio.wait_for(written, DISK_SECONDS)
        except asyncio.TimeoutError:
            # Done later after all, it does no harm: an end is sent once more, with the same key.
            raise OutboxError("The outbox can't be used: its disk doesn't answer") from None

    async def _tell(self, tell: Tell) -> None:
        answer = _called(tell)
        if inspect.isawaitable(answer):
            # A task of its own, so that a cancellation in there is not mistaken for ours.
            task = self.detach(_awaited(answer))
            await asyncio.wait([task], timeout=CALLBACK_SECONDS)
            if not task.done():
                logger.warning("%s takes longer than %g seconds", tell.name, CALLBACK_SECONDS)
                task.add_done_callback(functools.partial(_look_at, tell.name))
            else:
                _look_at(tell.name, task)


def _bare(error: httpx.RequestError) -> httpx.RequestError:
    """Without its traceback: that holds on to every frame up to the caller's, and so to forgotten streams."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _tell(tell: Tell) -> None:
    answer = _called(tell)
    if inspect.isawaitable(answer):
        # In a thread of its own, as this one may have a running loop.
        thread = threading.Thread(
            target=_await_in_thread, args=(tell.name, answer), name="tokentill-callback", daemon=True
        )
        thread.start()
        thread.join(CALLBACK_SECONDS)
        if thread.is_alive():
            logger.warning("%s takes longer than %g seconds", tell.name, CALLBACK_SECONDS)


def _await_in_thread(name: str, answer: Awaitable[Any]) -> None:
    try:
        asyncio.run(_awaited(answer))
    except (Exception, asyncio.CancelledError):
        logger.exception("%s failed", name)


async def _awaited(answer: Awaitable[Any]) -> None:
    await answer


def _look_at(name: str, task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        logger.error("%s was cancelled", name)
    elif (error := task.exception()) is not None:
        logger.error("%s failed", name, exc_info=error)


def _called(tell: Tell) -> Any:
    try:
        return tell.call()
    except (Exception, asyncio.CancelledError):
        logger.exception("%s failed", tell.name)
        return None
