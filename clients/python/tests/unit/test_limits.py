"""Limits of time are of the whole, whatever hangs or drips, and a cancelled task is soon let go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.slow_server import SlowServer, slow_server
from tokentill import (
    AsyncTokenProcess,
    ConfigurationError,
    Hooks,
    RetryEvent,
    TokenProcess,
    UnavailableError,
    with_token_process,
)
from tokentill.settings import Settings
from tokentill.transport import _Network, _Stream

BAD = ["hang", "half", "drip-head", "drip-body"]


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with slow_server() as server:
        yield server


class Stopwatch:
    def __enter__(self) -> Stopwatch:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began


@pytest.mark.parametrize("how", BAD)
def test_total_timeout_is_the_whole_time_in_threads(how: str, server: SlowServer) -> None:
    server.plan = lambda _path: how
    with (
        TokenProcess(server.url, "key", timeout_seconds=0.4, total_timeout_seconds=1.0) as client,
        Stopwatch() as took,
        pytest.raises(UnavailableError, match="no answer in time"),
    ):
        client.end("u", "f", 1, 40)
    assert 0.6 < took.seconds < 5
    assert len(server.asked) > 1, "each attempt has a limit of its own"


@pytest.mark.parametrize("how", BAD)
def test_total_timeout_is_the_whole_time_on_asyncio(how: str, server: SlowServer) -> None:
    server.plan = lambda _path: how

    async def work() -> float:
        async with AsyncTokenProcess(
            server.url, "key", timeout_seconds=0.4, total_timeout_seconds=1.0
        ) as client:
            with Stopwatch() as took, pytest.raises(UnavailableError):
                await client.end("u", "f", 1, 40)
        return took.seconds

    assert 0.6 < asyncio.run(work()) < 5


@pytest.mark.parametrize("how", BAD)
def test_a_start_has_a_short_limit_of_its_own(how: str, server: SlowServer) -> None:
    server.plan = lambda _path: how
    with (
        TokenProcess(server.url, "key", start_timeout_seconds=0.5) as client,
        Stopwatch() as took,
        pytest.raises(UnavailableError),
    ):
        client.start("u", "f")
    assert took.seconds < 2.5


def test_the_limits_unless_set() -> None:
    settings = Settings.resolve("http://t.test", "key")
    assert settings.start_limit_seconds == 3
    assert settings.end_limit_seconds == 30
    assert settings.queued_end_limit_seconds == 5
    assert Settings.resolve("http://t.test", "key", total_timeout_seconds=2).start_limit_seconds == 2
    assert Settings.resolve("http://t.test", "key", end_timeout_seconds=7).queued_end_limit_seconds == 7
    with pytest.raises(ConfigurationError, match="start_timeout_seconds must be above 0"):
        Settings.resolve("http://t.test", "key", start_timeout_seconds=0)
    with pytest.raises(ConfigurationError, match="when_away"):
        Settings.resolve("http://t.test", "key", when_away="maybe")


def test_an_end_has_a_limit_of_its_own(server: SlowServer) -> None:
    server.plan = lambda _path: "hang"
    with (
        TokenProcess(server.url, "key", end_timeout_seconds=0.4) as client,
        Stopwatch() as took,
        pytest.raises(UnavailableError),
    ):
        client.end("u", "f", 1, 40)
    assert took.seconds < 2.5


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: Any, **__: Any) -> list[Any]:
        time.sleep(2)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with (
        TokenProcess("http://tokentill.test", "key", start_timeout_seconds=0.3) as client,
        Stopwatch() as took,
        pytest.raises(UnavailableError, match="No address"),
    ):
        client.start("u", "f")
    assert took.seconds < 2.5


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_the_environment_names(
    name: str, server: SlowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, server.url.replace("http://", "http://user:secret@"))
    # Nobody knows its address but the proxy.
    with TokenProcess("http://tokentill.test", "key") as client:
        assert client.start("u", "f").access_able

    async def work() -> None:
        async with AsyncTokenProcess("http://tokentill.test", "key") as client:
            assert (await client.start("u", "f")).access_able

    asyncio.run(work())
    assert server.asked == ["start", "start"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with slow_server() as near, TokenProcess(near.url, "key") as client:
        client.start("u", "f")
        assert near.asked == ["start"]
    assert len(server.asked) == 2


def test_a_connection_that_the_server_closed_is_opened_again(server: SlowServer) -> None:
    server.plan = lambda _path: "close"
    with TokenProcess(server.url, "key", total_timeout_seconds=2) as client:
        client.start("u", "f")
        for _ in range(3):
            client.end("u", "f", 1, 40)
            time.sleep(0.02)

    async def work() -> None:
        async with AsyncTokenProcess(server.url, "key", total_timeout_seconds=2) as client:
            for _ in range(3):
                await client.end("u", "f", 1, 40)
                await asyncio.sleep(0.02)

    asyncio.run(work())
    assert server.asked == ["start", *["end"] * 6]


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate for 127.0.0.1, which this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokentill.test")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    public, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context


def test_https(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_server(tls) as server:
        with TokenProcess(server.url, "key", start_timeout_seconds=1) as client:
            assert client.start("u", "f").access_able
            server.plan = lambda _path: "drip-head"
            with Stopwatch() as took, pytest.raises(UnavailableError):
                client.start("u", "f")
        assert took.seconds < 2

        async def work() -> None:
            async with AsyncTokenProcess(server.url, "key") as client:
                assert (await client.start("u", "f")).access_able

        server.plan = lambda _path: "answer"
        asyncio.run(work())
        monkeypatch.delenv("SSL_CERT_FILE")
        tried: list[RetryEvent] = []
        with (
            TokenProcess(
                server.url, "key", start_timeout_seconds=2, hooks=Hooks(on_retry=tried.append)
            ) as stranger,
            pytest.raises(UnavailableError),
        ):
            stranger.start("u", "f")
        # The first one: the last may have no time left to look at a certificate.
        assert "certificate verify failed" in str(tried[0].error)


def test_a_connection_that_comes_too_late_for_tls_is_closed(tls: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        plain = httpcore.SyncBackend().connect_tcp(host, port)
        with pytest.raises(httpcore.ConnectTimeout):
            _Stream(plain, _Network()).start_tls(tls)
        assert plain.get_extra_info("socket").fileno() == -1


@contextlib.asynccontextmanager
async def wrapped(
    server: SlowServer, function: Any, **options: Any
) -> AsyncIterator[tuple[AsyncTokenProcess, Any]]:
    async with AsyncTokenProcess(server.url, "key", **options) as client:
        yield client, with_token_process(function, feature_endpoint_id="f", user_id="u", client=client)


async def used() -> dict[str, int]:
    return {"input_token": 1, "output_token": 40}


async def sleeps() -> None:
    await asyncio.sleep(60)


async def cancelled_by_asyncio(work: Any) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(work, 0.3)


async def cancelled_by_anyio(work: Any) -> None:
    with anyio.move_on_after(0.3) as scope:
        await work
    assert scope.cancelled_caught


async def cancelled_again_and_again(work: Any) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.3)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.05)
    assert task.cancelled()


@pytest.mark.parametrize("cancel", [cancelled_by_asyncio, cancelled_by_anyio, cancelled_again_and_again])
@pytest.mark.parametrize("hanging", ["start", "end", "cancel"])
def test_a_cancelled_task_is_let_go_soon(
    cancel: Any, hanging: str, server: SlowServer, tmp_path: Path
) -> None:
    server.plan = lambda path: "hang" if path == hanging else "answer"

    async def work() -> float:
        async with wrapped(
            server,
            sleeps if hanging == "cancel" else used,
            outbox=tmp_path / "outbox.db",
            background=False,
            total_timeout_seconds=2,
        ) as (client, function):
            with Stopwatch() as took:
                await cancel(function())
            if hanging == "end":
                assert client.outbox is not None
                assert client.outbox.status().pending == 1, "it is sent later"
        return took.seconds

    # 0.3 until it is cancelled, and half a second of patience.
    assert asyncio.run(work()) < 1.3


def test_a_cancelled_scope_waits_for_its_end_without_work(server: SlowServer, tmp_path: Path) -> None:
    """anyio cancels again at every await that isn't shielded."""
    server.plan = lambda path: "hang" if path == "end" else "answer"

    async def work() -> float:
        options = {"outbox": tmp_path / "outbox.db", "background": False, "cancelled_end_timeout_seconds": 1}
        async with wrapped(server, used, **options, end_timeout_seconds=2) as (_client, function):
            began = time.process_time()
            await cancelled_by_anyio(function())
            return time.process_time() - began

    assert asyncio.run(work()) < 0.5


def test_a_stream_under_a_timeout_is_let_go_soon(server: SlowServer, tmp_path: Path) -> None:
    server.plan = lambda path: "hang" if path == "end" else "answer"
    closed: list[float] = []

    class Provider:
        """Hangs in the middle of its answer, and when it is closed."""

        def __aiter__(self) -> AsyncIterator[dict[str, int]]:
            return self

        async def __anext__(self) -> dict[str, int]:
            if closed:
                await asyncio.sleep(60)
            closed.append(1)
            return {"output_token": 4}

        async def close(self) -> None:
            await asyncio.sleep(60)

    async def chat() -> Any:
        return Provider()

    async def work() -> None:
        async with wrapped(
            server, chat, outbox=tmp_path / "outbox.db", background=False, end_timeout_seconds=2
        ) as (client, function):

            async def read() -> None:
                async for _ in await function():
                    pass

            with Stopwatch() as took, pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(read(), 0.5)
            assert took.seconds < 2
            assert client.outbox is not None
            assert client.outbox.status().pending == 1

    asyncio.run(work())


def test_an_end_goes_on_by_itself_after_its_task_was_let_go(server: SlowServer) -> None:
    """Without an outbox nothing else would bill it."""
    answers = iter(["hang", "answer"])
    server.plan = lambda path: next(answers) if path == "end" else "answer"

    async def work() -> None:
        limits = {"timeout_seconds": 0.8, "cancelled_end_timeout_seconds": 0.1}
        async with wrapped(server, used, **limits) as (_client, function):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(function(), 0.2)
            assert server.asked == ["start", "end"]

    asyncio.run(work())
    assert server.asked == ["start", "end", "end"]


def test_the_end_of_the_loop_allows_one_last_attempt(server: SlowServer) -> None:
    """Say Ctrl-C: asyncio cancels every task there is, also those that nobody waits for."""
    answers = iter(["hang", "answer"])
    server.plan = lambda path: next(answers) if path == "end" else "answer"

    async def work() -> None:
        client = AsyncTokenProcess(server.url, "key")
        function = with_token_process(used, feature_endpoint_id="f", user_id="u", client=client)
        task = asyncio.create_task(function())
        while "end" not in server.asked:
            await asyncio.sleep(0.01)
        assert not task.done()

    with warnings.catch_warnings():
        # Nobody closed the client.
        warnings.simplefilter("ignore", ResourceWarning)
        with Stopwatch() as took:
            asyncio.run(work())
        gc.collect()
    assert server.asked == ["start", "end", "end"]
    assert took.seconds < 2


def test_a_start_that_is_cancelled_gives_its_hold_back(server: SlowServer) -> None:
    """The server may have made the hold already: the start's key finds it again."""
    answers = iter(["hang", "answer"])
    server.plan = lambda path: next(answers) if path == "start" else "answer"

    async def work() -> None:
        client = AsyncTokenProcess(server.url, "key")
        run = client.run(user_id="u", feature_endpoint_id="f", hold_token=10)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run.start(), 0.2)
        await client.aclose()

    asyncio.run(work())
    assert server.asked == ["start", "start", "cancel"]


def test_a_callers_own_time_limit_is_not_taken_for_ours(server: SlowServer) -> None:
    server.plan = lambda _path: "hang"

    async def work() -> None:
        client = AsyncTokenProcess(server.url, "key")
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await client.start("u", "f")
        await client.aclose()

    asyncio.run(work())


def test_two_hundred_at_once_cost_no_more_than_one_by_one(server: SlowServer) -> None:
    """In time of the processor, as the wait depends on who else is at work here."""
    server.delay_seconds = 0.02

    async def work() -> tuple[float, float]:
        async with wrapped(server, used) as (_client, function):
            began = time.process_time()
            for _ in range(100):
                await function()
            one_by_one = 2 * (time.process_time() - began)
            began = time.process_time()
            await asyncio.gather(*[function() for _ in range(200)])
            return one_by_one, time.process_time() - began

    one_by_one, at_once = asyncio.run(work())
    assert len(server.asked) == 600
    assert at_once < 1.1 * one_by_one
