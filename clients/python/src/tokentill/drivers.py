"""Carrying out the steps of `tokentill.core`: in a thread, or on an event loop."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
import httpx

from tokentill.core import Core, Send, Sleep, Steps

T = TypeVar("T")

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)


class Driver:
    """For threads, any number of them."""

    def __init__(self, core: Core, transport: httpx.BaseTransport | None = None) -> None:
        self._core = core
        self._transport = transport
        self._connect()

    def run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Send):
                        result: Any = self._send(step)
                    elif isinstance(step, Sleep):
                        time.sleep(step.seconds)
                        result = None
                    else:
                        result = step.call()
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            answer: T = done.value
            return answer

    def close(self) -> None:
        self._http.close()

    def _send(self, send: Send) -> httpx.Response | httpx.RequestError:
        # A forked child must not talk over its parent's sockets.
        if self._pid != os.getpid():
            self._connect()
        try:
            return self._http.post(
                send.path, content=send.body, headers=send.headers, timeout=send.timeout_seconds
            )
        except httpx.RequestError as error:
            return error

    def _connect(self) -> None:
        self._http = httpx.Client(
            base_url=self._core.settings.base_url,
            headers=self._core.headers,
            limits=_LIMITS,
            transport=self._transport,
        )
        self._pid = os.getpid()


class AsyncDriver:
    """For asyncio. Connections belong to the event loop that opened them, so each loop has its own."""

    def __init__(self, core: Core, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._core = core
        self._transport = transport
        self._https: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    async def run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Send):
                        result: Any = await self._send(step)
                    elif isinstance(step, Sleep):
                        await asyncio.sleep(step.seconds)
                        result = None
                    else:
                        result = await asyncio.to_thread(step.call)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            answer: T = done.value
            return answer

    async def run_to_the_end(self, steps: Steps[T]) -> T:
        """Carry the steps out even if the caller is cancelled meanwhile: a cancelled run has used its tokens.

        The cancellation is raised afterwards; the steps' own time limit bounds the wait.
        """
        return await _uninterrupted(self.run(steps))

    async def close(self) -> None:
        http = self._https.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()

    async def _send(self, send: Send) -> httpx.Response | httpx.RequestError:
        loop = asyncio.get_running_loop()
        http = self._https.get(loop)
        if http is None:
            http = self._https[loop] = httpx.AsyncClient(
                base_url=self._core.settings.base_url,
                headers=self._core.headers,
                limits=_LIMITS,
                transport=self._transport,
            )
        try:
            return await http.post(
                send.path, content=send.body, headers=send.headers, timeout=send.timeout_seconds
            )
        except httpx.RequestError as error:
            return error


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    # Two kinds of cancelling: a scope's (anyio, so also Starlette's), which comes again at every await, and a
    # task's.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Looked at, or asyncio complains that nobody did.
    raise cancelled
