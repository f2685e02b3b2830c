"""The clients that service functions and wrappers without a `client` use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake import Fake
from tokentill import (
    ConfigurationError,
    TokenProcess,
    configure,
    functions,
    token_process_cancel,
    token_process_cancel_async,
    token_process_end,
    token_process_start_async,
    with_token_process,
)


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TOKEN_SERVER_URL", "SERVER_API_KEY", "TOKENTILL_OUTBOX"):
        monkeypatch.delenv(name, raising=False)
    configure()
    yield
    configure()


def test_without_settings_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError):
        functions.default_client()
    monkeypatch.setenv("SERVER_API_KEY", "key")
    assert functions.default_client().settings.api_key == "key"
    assert functions.default_client() is functions.default_client()


def test_settings_are_for_both_clients_and_checked_at_once(tmp_path: Path) -> None:
    configure(base_url="http://billing.test", api_key="key", outbox=tmp_path / "outbox.db")
    for client in (functions.default_client(), functions.default_async_client()):
        assert client.settings.base_url == "http://billing.test"
        assert client.outbox is not None
    with pytest.raises(ConfigurationError):
        configure(base_url="ftp://nowhere", api_key="key")
    with pytest.raises(TypeError):
        configure(api_keys="key")
    assert functions.default_client().settings.api_key == "key", "what was there is kept"


def test_clients_of_the_programs_own_are_used_and_not_closed() -> None:
    fake = Fake()
    own, own_async = fake.client(), fake.async_client()
    configure(client=own, async_client=own_async)
    token_process_end(user_id="u", feature_endpoint_id="f", output_token=4)
    token_process_cancel(user_id="u", process_id="p-1")
    with_token_process(lambda: {"output_token": 1}, feature_endpoint_id="f", user_id="u")()

    async def work() -> None:
        await token_process_start_async(user_id="u", feature_endpoint_id="f")
        await token_process_cancel_async(user_id="u", process_id="p-1")

    asyncio.run(work())
    assert fake.paths() == ["end", "cancel", "start", "end", "start", "cancel"]
    configure(client=TokenProcess("http://x.test", "key"))
    own.start("u", "f")
    assert len(fake.of("start")) == 3
