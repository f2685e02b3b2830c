"""Many runs at once, cancelled, left and failing at random, on a server that fails at random.

Whatever happens: what was used is billed exactly once, and nothing else is.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tokentill import (
    AsyncTokenProcess,
    Outbox,
    TokenProcess,
    TokenProcessError,
    Usage,
    current_run,
    with_token_process,
)
from tokentill.testing import MemoryTokentill
from tokentill.testing.memory import API_KEY

RUNS = 150
HOLD = 50
# Enough on a busy machine too: a run that never started tells nothing.
START_SECONDS = 20.0


class FlakyServer(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """The server in memory, behind a bad line; `whole` mends it."""

    def __init__(self, server: MemoryTokentill, chance: random.Random) -> None:
        self._server = server
        self._chance = chance
        self.whole = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fault, pause_seconds = self._fault()
        time.sleep(pause_seconds)
        return self._answer(request, fault)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        fault, pause_seconds = self._fault()
        await asyncio.sleep(pause_seconds)
        response = self._answer(request, fault)
        # The answer takes its time, too.
        await asyncio.sleep(pause_seconds)
        return response

    def _fault(self) -> tuple[str, float]:
        if self.whole:
            return "none", 0.0
        return self._chance.choices(["none", "refused", "busy", "lost"], [80, 5, 5, 10])[
            0
        ], self._chance.uniform(0, 0.01)

    def _answer(self, request: httpx.Request, fault: str) -> httpx.Response:
        if fault == "refused":
            raise httpx.ConnectError("refused")
        if fault == "busy":
            return httpx.Response(503, json={"success": False, "status": 503, "message": "busy"})
        response = self._server.handle_request(request)
        if fault == "lost":
            raise httpx.ReadError("the answer got lost")
        return response


class Books:
    """What the features say they used, by run, and what the server billed."""

    def __init__(self) -> None:
        self.server = MemoryTokentill(features=["f"], wallets={"u": 1_000_000})
        self.used: dict[str, int] = collections.Counter()

    def check(self) -> None:
        billed = collections.Counter(end.model for end in self.server.ends)
        assert {name: times for name, times in billed.items() if times > 1} == {}, "billed twice"
        by_run = {end.model: end.output_token for end in self.server.ends}
        assert len(by_run) > RUNS / 15, "too little was billed to tell anything"
        assert by_run == {name: count for name, count in self.used.items() if count}


def read(chunk: dict[str, Any]) -> Usage:
    return Usage(output_token=chunk["output_token"], model=chunk["model"])


@pytest.mark.parametrize("seed", range(3))
def test_asyncio(seed: int, tmp_path: Path) -> None:
    chance, books = random.Random(seed), Books()
    line = FlakyServer(books.server, chance)

    async def work() -> None:
        client = AsyncTokenProcess(
            "http://tokentill.test",
            API_KEY,
            transport=line,
            outbox=tmp_path / "outbox.db",
            background=False,
            start_timeout_seconds=START_SECONDS,
            total_timeout_seconds=START_SECONDS,
            end_timeout_seconds=0.5,
            cancelled_end_timeout_seconds=0.02,
            breaker_failures=10_000,
        )
        options: dict[str, Any] = {"feature_endpoint_id": "f", "user_id": "u", "client": client}

        @with_token_process(**options, hold_token=HOLD)
        async def function(name: str) -> dict[str, Any]:
            await asyncio.sleep(chance.uniform(0, 0.03))
            if chance.random() < 0.1:
                raise RuntimeError
            books.used[name] += 4
            return {"output_token": 4, "model": name}

        @with_token_process(**options, hold_token=HOLD, usage=read)
        async def stream(name: str) -> AsyncGenerator[dict[str, Any], None]:
            for _ in range(chance.randrange(1, 6)):
                await asyncio.sleep(chance.uniform(0, 0.01))
                if chance.random() < 0.05:
                    raise RuntimeError
                # From here to the reader's hands nothing waits, so nothing can come between.
                books.used[name] += 4
                yield {"output_token": 4, "model": name}

        async def read_some(name: str) -> None:
            number = chance.randrange(1, 8)
            chunks = stream(name)
            async for _ in chunks:
                number -= 1
                if not number:
                    break
                await asyncio.sleep(chance.uniform(0, 0.005))
            if chance.random() < 0.5:
                await chunks.aclose()

        async def one(number: int) -> None:
            name = f"run-{number}"
            task = asyncio.ensure_future(function(name) if chance.random() < 0.5 else read_some(name))
            # Some are never cancelled: on a busy machine no other would come to its end.
            impatience = chance.choice([0.0, 0.3, 0.3])
            while not task.done():
                await asyncio.wait([task], timeout=chance.uniform(0, 0.3))
                if chance.random() < impatience:
                    task.cancel()
            with contextlib.suppress(asyncio.CancelledError, RuntimeError, TokenProcessError):
                task.result()

        await asyncio.gather(*[one(number) for number in range(RUNS)])
        line.whole = True
        await client.aclose()

    asyncio.run(work())
    settle(books, line, tmp_path)


def settle(books: Books, line: FlakyServer, tmp_path: Path) -> None:
    line.whole = True
    options: dict[str, Any] = {"transport": line, "background": False}
    with (
        Outbox(tmp_path / "outbox.db") as outbox,
        TokenProcess("http://tokentill.test", API_KEY, outbox=outbox, **options) as client,
    ):
        client.flush_outbox(timeout_seconds=20)
        assert outbox.status().pending == outbox.status().refused == 0
    books.check()


@pytest.mark.parametrize("seed", range(2))
def test_threads(seed: int, tmp_path: Path) -> None:
    chance, books = random.Random(seed), Books()
    line = FlakyServer(books.server, chance)
    client = TokenProcess(
        "http://tokentill.test",
        API_KEY,
        transport=line,
        outbox=tmp_path / "outbox.db",
        start_timeout_seconds=START_SECONDS,
        total_timeout_seconds=START_SECONDS,
        end_timeout_seconds=0.3,
        breaker_failures=10_000,
    )
    options: dict[str, Any] = {"feature_endpoint_id": "f", "user_id": "u", "client": client}

    @with_token_process(**options)
    def outer(name: str) -> dict[str, Any]:
        with contextlib.suppress(TokenProcessError, RuntimeError):
            inner(f"{name}-inner")
        if chance.random() < 0.1:
            raise RuntimeError
        books.used[name] += 4
        return {"output_token": 4, "model": name}

    @with_token_process(**options)
    def inner(name: str) -> None:
        run: Any = current_run()
        books.used[name] += 3
        run.use(output_token=3, model=name)
        if chance.random() < 0.2:
            raise RuntimeError

    @with_token_process(**options, usage=read)
    def stream(name: str) -> Iterator[dict[str, Any]]:
        for _ in range(chance.randrange(1, 6)):
            if chance.random() < 0.05:
                raise RuntimeError
            books.used[name] += 4
            yield {"output_token": 4, "model": name}

    def work(thread: int) -> None:
        for number in range(15):
            name = f"run-{thread}-{number}"
            with contextlib.suppress(RuntimeError, TokenProcessError):
                if chance.random() < 0.5:
                    outer(name)
                else:
                    for _ in stream(name):
                        if chance.random() < 0.2:
                            break

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    settle(books, line, tmp_path)
