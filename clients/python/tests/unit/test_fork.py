"""After a fork: the child has connections, locks and threads of its own, and sends what its parent left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake import wait_until
from tests.unit.slow_server import SlowServer, slow_server
from tokentill import Outbox


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with slow_server() as server:
        yield server


def run(server: SlowServer, path: Path, program: str) -> subprocess.Popen[bytes]:
    """The program in a process of its own, whose children outlive it if they want."""
    head = f"""
        import os, sys, time
        from tokentill import *
        path, url = {str(path)!r}, {server.url!r}
        def queue(client):
            try:
                client.end("u", "f", 1, 40)
            except UnavailableError as error:
                assert error.queued
    """
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(program)], env=env)


def test_a_daemon_sends_what_its_parent_queued(server: SlowServer, tmp_path: Path) -> None:
    """The parent forks and exits. The child doesn't even touch the client again."""
    server.plan = lambda _path: "hang"
    path, go = tmp_path / "outbox.db", tmp_path / "go"
    parent = run(
        server,
        path,
        f"""
        client = TokenProcess(url, "key", outbox=path, timeout_seconds=0.2, total_timeout_seconds=0.2)
        queue(client)
        if os.fork():
            os._exit(0)
        deadline = time.monotonic() + 30
        while not os.path.exists({str(go)!r}) and time.monotonic() < deadline:
            time.sleep(0.02)
        """,
    )
    assert parent.wait(30) == 0
    server.plan = lambda _path: "answer"
    try:
        with Outbox(path) as outbox:
            wait_until(lambda: outbox.status().pending == 0, 20)
    finally:
        go.touch()


def test_a_child_queues_and_sends_by_itself(server: SlowServer, tmp_path: Path) -> None:
    """As gunicorn with --preload does: the client is the parent's, the work its children's."""
    server.plan = lambda path: "hang" if path == "end" else "answer"
    path, go = tmp_path / "outbox.db", tmp_path / "go"
    parent = run(
        server,
        path,
        f"""
        client = TokenProcess(url, "key", outbox=path, timeout_seconds=1.0, total_timeout_seconds=1.0)
        @with_token_process(feature_endpoint_id="f", user_id="u", client=client)
        def work():
            return {{"output_token": 4}}
        work()
        if os.fork():
            os._exit(0)
        work()
        deadline = time.monotonic() + 90
        while not os.path.exists({str(go)!r}) and time.monotonic() < deadline:
            time.sleep(0.02)
        """,
    )
    assert parent.wait(30) == 0
    with Outbox(path) as outbox:
        wait_until(lambda: outbox.status().pending == 2, 20)
        server.plan = lambda _path: "answer"
        try:
            wait_until(lambda: outbox.status().pending == 0, 60)
        finally:
            go.touch()


def test_a_child_forked_with_every_lock_held_still_works(server: SlowServer, tmp_path: Path) -> None:
    program = run(
        server,
        tmp_path / "outbox.db",
        """
        import tokentill.functions, tokentill.holds, tokentill.leftovers
        os.environ.update(TOKEN_SERVER_URL=url, SERVER_API_KEY="key", TOKENTILL_OUTBOX=path)
        client = TokenProcess(url, "key", outbox=path)
        client.start("u", "f")
        run = client.run(user_id="u", feature_endpoint_id="f")
        run.start()
        list(run.stream([{"output_token": 1}]))
        locks = [tokentill.functions._lock.held, client._core.away._lock, client.outbox._lock,
                 tokentill.holds.keeper._changed, tokentill.leftovers.leftovers._lock]
        for lock in locks:
            lock.acquire()
        child = os.fork()
        if child == 0:
            client.start("u", "f")
            client.end("u", "f", 1, 40)
            token_process_end(user_id="u", feature_endpoint_id="f", output_token=4)
            run = client.run(user_id="u", feature_endpoint_id="f")
            next(run.stream(iter([{"output_token": 1}, {"output_token": 1}])))
            deadline = time.monotonic() + 10
            while run.ended is None and time.monotonic() < deadline:
                time.sleep(0.01)
            os._exit(0 if run.ended else 1)
        os._exit(os.waitpid(child, 0)[1] >> 8)
        """,
    )
    assert program.wait(30) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_copies_no_connections(server: SlowServer) -> None:
    from tokentill import TokenProcess

    with TokenProcess(server.url, "key") as client:
        client.start("u", "f")
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    status = 0 if all(client.start("u", "f").access_able for _ in range(20)) else 1
                finally:
                    os._exit(status)
            children.append(child)
        assert all(client.start("u", "f").access_able for _ in range(20))
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_a_child_uses_an_asyncio_client_of_its_parent(server: SlowServer, tmp_path: Path) -> None:
    program = run(
        server,
        tmp_path / "outbox.db",
        """
        import asyncio
        client = AsyncTokenProcess(url, "key", outbox=path)
        asyncio.run(client.start("u", "f"))
        child = os.fork()
        if child == 0:
            async def work():
                assert (await client.start("u", "f")).access_able
                assert (await client.end("u", "f", 1, 40)).cost == 11
                await client.aclose()
            asyncio.run(work())
            os._exit(0)
        os._exit(os.waitpid(child, 0)[1] >> 8)
        """,
    )
    assert program.wait(30) == 0


def test_what_a_child_puts_into_the_outbox_stays_there(server: SlowServer, tmp_path: Path) -> None:
    """SQLite holds its files by locks, which a child that was forked with an open file doesn't have."""
    path = tmp_path / "outbox.db"
    parent = run(
        server,
        path,
        """
        outbox = Outbox(path)
        outbox.put("parent", "{}", lease_seconds=60)
        if os.fork():
            os._exit(0)
        for number in range(4):
            outbox.put(f"child {number}", "{}", lease_seconds=60)
            open(f"{path}.{number}", "w").close()
            deadline = time.monotonic() + 30
            while os.path.exists(f"{path}.{number}") and time.monotonic() < deadline:
                time.sleep(0.005)
        """,
    )
    assert parent.wait(30) == 0
    for number in range(4):
        written = tmp_path / f"outbox.db.{number}"
        wait_until(written.exists, 20)
        # Somebody else comes by, and is the last to leave as far as the locks say.
        with Outbox(path) as outbox:
            assert outbox.status().pending == number + 2
        written.unlink()
