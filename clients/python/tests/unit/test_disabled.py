"""Disabled mode: features run, nothing is sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tokentill import AsyncTokenProcess, Flushed, TokenProcess, with_token_process


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVER_API_KEY", raising=False)

    def refuse(*_: Any, **__: Any) -> Any:
        pytest.fail("it was sent")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_every_call_is_answered_and_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTILL_OUTBOX", str(tmp_path / "outbox.db"))
    client = TokenProcess(disabled=True)
    started = client.start("u", "f", hold_token=9)
    assert (started.access_able, started.process_id) == (True, None)
    ended = client.end("u", "f", 9, 4)
    assert (ended.return_able, ended.cost) == (True, 0)
    client.cancel("u", "p")
    assert client.extend_hold("u", "p", hold_token=9).status == "access-able"
    assert (
        client.end_batch([{"user_id": "u", "feature_endpoint_id": "f", "output_token": 1}])[0].end is not None
    )
    assert client.flush_outbox() == Flushed()
    client.close()
    assert not (tmp_path / "outbox.db").exists()


def test_no_address_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_SERVER_URL", "nonsense")
    assert TokenProcess(disabled=True).start("u", "f").access_able

    async def work() -> None:
        async with AsyncTokenProcess(disabled=True) as client:
            assert (await client.start("u", "f")).access_able
            assert await client.flush_outbox() == Flushed()

    asyncio.run(work())


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_the_environment_disables(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTILL_DISABLED", value)

    async def texts() -> AsyncIterator[dict[str, int]]:
        yield {"output_token": 4}

    async def work() -> None:
        options: dict[str, Any] = {"feature_endpoint_id": "f", "user_id": "u", "hold_token": 9}
        client = AsyncTokenProcess()
        stream = with_token_process(texts, client=client, **options, keep_hold=True)()
        assert [chunk async for chunk in stream] == [{"output_token": 4}]
        plain = with_token_process(lambda: {"output_token": 4}, client=TokenProcess(), **options)
        assert plain() == {"output_token": 4}

    asyncio.run(work())


def test_it_is_on_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTILL_DISABLED", "0")
    assert TokenProcess(api_key="key").settings.api_key == "key"
    monkeypatch.setenv("TOKENTILL_DISABLED", "1")
    assert TokenProcess(api_key="key", disabled=False).settings.api_key == "key"
