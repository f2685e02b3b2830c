"""The guide's service functions, on a client that is configured by the environment and made on first use."""

from __future__ import annotations

import threading
from typing import Any

from tokentill import forks
from tokentill.client import AsyncTokenProcess, TokenProcess
from tokentill.wire import Amount, End, Hold, Reversal, Start


class _Lock:
    """Held while a client is made. A child that was forked meanwhile must not wait for it for ever."""

    def __init__(self) -> None:
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        self.held = threading.Lock()


_lock = _Lock()
_client: TokenProcess | None = None
_async_client: AsyncTokenProcess | None = None
_settings: dict[str, Any] = {}
# Those of them that nobody else will close.
_made: list[TokenProcess | AsyncTokenProcess] = []


def configure(
    *,
    client: TokenProcess | None = None,
    async_client: AsyncTokenProcess | None = None,
    **settings: Any,
) -> None:
    """Choose what the service functions and wrappers without a `client` use in this process.

    Either clients of yours, or settings for those that are made, as `TokenProcess` takes them: `configure(
    base_url=..., api_key=..., outbox=...)`. Without arguments the environment is read again. Those made
    before stop sending in the background; calls that are on their way still end. Raises ConfigurationError.
    """
    global _client, _async_client, _settings
    made = TokenProcess(**settings) if settings and client is None else None
    with _lock.held:
        for ours in _made:
            ours.close_outbox()
        _made[:] = [] if made is None else [made]
        _client, _async_client, _settings = client or made, async_client, settings


def default_client() -> TokenProcess:
    """The process's own client. Raises ConfigurationError where the environment has no SERVER_API_KEY."""
    global _client  # noqa: PLW0603 - one for each process, made late so that importing needs no settings
    with _lock.held:
        if _client is None:
            _client = TokenProcess(**_settings)
            _made.append(_client)
        return _client


def default_async_client() -> AsyncTokenProcess:
    """See `default_client`."""
    global _async_client  # noqa: PLW0603
    with _lock.held:
        if _async_client is None:
            _async_client = AsyncTokenProcess(**_settings)
            _made.append(_async_client)
        return _async_client


def token_process_start(
    *,
    user_id: str,
    feature_endpoint_id: str,
    hold_token: Amount | None = None,
    hold_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Start:
    """See `TokenProcess.start`."""
    return default_client().start(
        user_id,
        feature_endpoint_id,
        hold_token=hold_token,
        hold_seconds=hold_seconds,
        idempotency_key=idempotency_key,
    )


def token_process_end(
    *,
    user_id: str,
    feature_endpoint_id: str,
    input_token: int = 0,
    output_token: int = 0,
    model: str | None = None,
    process_id: str | None = None,
    idempotency_key: str | None = None,
    cached_input_token: int | None = None,
    cache_write_token: int | None = None,
    reasoning_token: int | None = None,
    requests: int | None = None,
) -> End:
    """See `TokenProcess.end`."""
    return default_client().end(
        user_id,
        feature_endpoint_id,
        input_token,
        output_token,
        model=model,
        process_id=process_id,
        idempotency_key=idempotency_key,
        cached_input_token=cached_input_token,
        cache_write_token=cache_write_token,
        reasoning_token=reasoning_token,
        requests=requests,
    )


def token_process_cancel(*, user_id: str, process_id: str) -> None:
    """See `TokenProcess.cancel`."""
    default_client().cancel(user_id, process_id)


async def token_process_cancel_async(*, user_id: str, process_id: str) -> None:
    """See `AsyncTokenProcess.cancel`."""
    await default_async_client().cancel(user_id, process_id)


def token_process_reverse(
    *,
    user_id: str,
    reference: str,
    reason: str,
    process_id: str | None = None,
    idempotency_key: str | None = None,
) -> Reversal:
    """See `TokenProcess.reverse`."""
    return default_client().reverse(
        user_id, reference=reference, reason=reason, process_id=process_id, idempotency_key=idempotency_key
    )


async def token_process_reverse_async(
    *,
    user_id: str,
    reference: str,
    reason: str,
    process_id: str | None = None,
    idempotency_key: str | None = None,
) -> Reversal:
    """See `AsyncTokenProcess.reverse`."""
    return await default_async_client().reverse(
        user_id, reference=reference, reason=reason, process_id=process_id, idempotency_key=idempotency_key
    )


async def token_process_start_async(
    *,
    user_id: str,
    feature_endpoint_id: str,
    hold_token: Amount | None = None,
    hold_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Start:
    """See `AsyncTokenProcess.start`."""
    return await default_async_client().start(
        user_id,
        feature_endpoint_id,
        hold_token=hold_token,
        hold_seconds=hold_seconds,
        idempotency_key=idempotency_key,
    )


async def token_process_end_async(
    *,
    user_id: str,
    feature_endpoint_id: str,
    input_token: int = 0,
    output_token: int = 0,
    model: str | None = None,
    process_id: str | None = None,
    idempotency_key: str | None = None,
    cached_input_token: int | None = None,
    cache_write_token: int | None = None,
    reasoning_token: int | None = None,
    requests: int | None = None,
) -> End:
    """See `AsyncTokenProcess.end`."""
    return await default_async_client().end(
        user_id,
        feature_endpoint_id,
        input_token,
        output_token,
        model=model,
        process_id=process_id,
        idempotency_key=idempotency_key,
        cached_input_token=cached_input_token,
        cache_write_token=cache_write_token,
        reasoning_token=reasoning_token,
        requests=requests,
    )


def token_process_hold_extend(
    *,
    user_id: str,
    process_id: str,
    hold_token: Amount | None = None,
    hold_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Hold:
    """See `TokenProcess.extend_hold`."""
    return default_client().extend_hold(
        user_id,
        process_id,
        hold_token=hold_token,
        hold_seconds=hold_seconds,
        idempotency_key=idempotency_key,
    )


async def token_process_hold_extend_async(
    *,
    user_id: str,
    process_id: str,
    hold_token: Amount | None = None,
    hold_seconds: int | None = None,
    idempotency_key: str | None = None,
) -> Hold:
    """See `AsyncTokenProcess.extend_hold`."""
    return await default_async_client().extend_hold(
        user_id,
        process_id,
        hold_token=hold_token,
        hold_seconds=hold_seconds,
        idempotency_key=idempotency_key,
    )
