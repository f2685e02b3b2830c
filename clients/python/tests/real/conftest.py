"""Fixtures on a real server: see `server.py` for where it comes from."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.bank import Bank
from tests.real.faults import FaultProxy, fault_proxy
from tests.real.server import Server, WebProcess, from_environment, whole_stack
from tokentill import TokenProcess


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    named = from_environment()
    if named is not None:
        yield named
        return
    with _new_stack() as started:
        yield started


@pytest.fixture(scope="session")
def own_server(server: Server) -> Iterator[Server]:
    """A server that we may kill processes of: `server`, unless that is somebody else's."""
    if server.settings is not None:
        yield server
        return
    with _new_stack() as started:
        yield started


@pytest.fixture(scope="session")
def own_bank(own_server: Server) -> Iterator[Bank]:
    bank = Bank(own_server.url, own_server.admin_key)
    yield bank
    bank.close()


@contextlib.contextmanager
def _new_stack() -> Iterator[Server]:
    # Not pytest's own folder: its long path leaves no room for the stores' sockets.
    with (
        tempfile.TemporaryDirectory(prefix="tt-py-") as folder,
        whole_stack(Path(folder) / "data") as started,
    ):
        yield started


@pytest.fixture(scope="session")
def bank(server: Server) -> Iterator[Bank]:
    bank = Bank(server.url, server.admin_key)
    yield bank
    bank.close()


@pytest.fixture(scope="session")
def ten_percent(bank: Bank) -> tuple[str, str]:
    """(feature id, package id) with a profit of 10 %: 40 output tokens cost 11."""
    return bank.feature(10)


@pytest.fixture
def feature(ten_percent: tuple[str, str]) -> str:
    return ten_percent[0]


@pytest.fixture
def user(bank: Bank, ten_percent: tuple[str, str]) -> str:
    """A wallet with 1,000 tokens that may use `feature`."""
    return bank.wallet(ten_percent[1], 1_000)


@pytest.fixture
def client(server: Server) -> Iterator[TokenProcess]:
    with TokenProcess(server.url, server.server_key) as client:
        yield client


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a service server, with default clients that live as long as the test."""
    monkeypatch.setenv("TOKEN_SERVER_URL", server.url)
    monkeypatch.setenv("SERVER_API_KEY", server.server_key)
    monkeypatch.delenv("TOKENTILL_OUTBOX", raising=False)
    import tokentill.functions as defaults

    monkeypatch.setattr(defaults, "_client", None)
    monkeypatch.setattr(defaults, "_async_client", None)
    yield
    if defaults._client is not None:
        defaults._client.close()


@pytest.fixture
def web(own_server: Server, tmp_path: Path) -> Iterator[WebProcess]:
    """One more web process on the stores of `own_server`, which a test may kill and start again."""
    web = WebProcess(own_server, tmp_path / "web.log")
    web.start()
    yield web
    web.kill()
