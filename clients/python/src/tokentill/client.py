"""The two clients: `TokenProcess` for threads, `AsyncTokenProcess` for asyncio. Same calls, same behaviour.

Both read TOKEN_SERVER_URL, SERVER_API_KEY and TOKENTILL_OUTBOX where nothing else is given, and may be shared
by all threads or tasks of a process. Settings:

- `timeout_seconds` limits one attempt, `total_timeout_seconds` a call with all its retries, whole and
  whatever drips; within that `start_timeout_seconds` a start, `end_timeout_seconds` an end, and
  `cancelled_end_timeout_seconds` how long a cancelled task is kept by what is left to do;
- `when_away`: "closed" refuses runs while the server is away; "open" lets `open_runs_max` of them, or as many
  as use `open_tokens_max`, go on, whose ends go to the outbox. After `breaker_failures` calls without an
  answer none is made for `breaker_seconds`;
- `outbox` is a path, or an `Outbox` that the caller closes, or False for none whatever the environment says;
  `outbox_ends_max` bounds it. A path that can't be
  used is logged, and stops nothing;
- `background`: a thread sends what a failed call, another process or an earlier run of the program left in
  the outbox. Without it that is left to `flush_outbox()` or to the command `tokentill outbox flush`;
- `hooks` are told of calls, retries and the outbox (`tokentill.hooks`);
- `disabled`, or TOKENTILL_DISABLED=1: every start is access-able and nothing is sent (`tokentill.disabled`);
- `transport` replaces our own, say for a certificate of yours. In plain code an answer that drips is then
  only limited as that transport does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import httpx

from tokentill.client_parts import ClientParts, OutboxOrPath
from tokentill.core import BatchItem, Flushed
from tokentill.disabled import DISABLED_API_KEY, DISABLED_URL, DisabledTransport, is_disabled
from tokentill.drivers import AsyncDriver, Driver
from tokentill.hooks import Hooks
from tokentill.leftovers import leftovers
from tokentill.outbox import ENDS_MAX_DEFAULT
from tokentill.run import AsyncRun, Run
from tokentill.run_parts import OnEndError
from tokentill.settings import Settings, WhenAway
from tokentill.usage import Extractor
from tokentill.wire import Amount, End, Estimate, Hold, Reversal, Start


class TokenProcess(ClientParts):
    """The client for plain, threaded code. Its settings are the module's."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        total_timeout_seconds: float = 30.0,
        start_timeout_seconds: float = 3.0,
        end_timeout_seconds: float | None = None,
        cancelled_end_timeout_seconds: float = 0.5,
        when_away: WhenAway = "closed",
        open_runs_max: int = 100,
        open_tokens_max: int = 100_000,
        breaker_failures: int = 5,
        breaker_seconds: float = 5.0,
        outbox: OutboxOrPath | Literal[False] | None = None,
        outbox_ends_max: int = ENDS_MAX_DEFAULT,
        background: bool = True,
        hooks: Hooks | None = None,
        transport: httpx.BaseTransport | None = None,
        disabled: bool | None = None,
    ) -> None:
        disabled = is_disabled(disabled)
        if disabled:
            # Nothing is sent, so no address or key matters.
            base_url, api_key, transport = DISABLED_URL, DISABLED_API_KEY, DisabledTransport()
            outbox, when_away = False, "closed"
        settings = Settings.resolve(
            base_url,
            api_key,
            timeout_seconds=timeout_seconds,
            total_timeout_seconds=total_timeout_seconds,
            start_timeout_seconds=start_timeout_seconds,
            end_timeout_seconds=end_timeout_seconds,
            cancelled_end_timeout_seconds=cancelled_end_timeout_seconds,
            when_away=when_away,
            open_runs_max=open_runs_max,
            open_tokens_max=open_tokens_max,
            breaker_failures=breaker_failures,
            breaker_seconds=breaker_seconds,
            disabled=disabled,
        )
        super().__init__(settings, outbox, outbox_ends_max, hooks)
        self._driver = Driver(self._core, transport)
        if background:
            self._send_in_background(self._driver)

    def start(
        self,
        user_id: str,
        feature_endpoint_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        idempotency_key: str | None = None,
        model: str | None = None,
    ) -> Start:
        """May this user run this feature? The answer's `access_able` says. Raises TokenProcessError.

        A feature may refuse a `model` that has no price: FeatureNotAvailableError, code `model_not_priced`.
        """
        return self._driver.run(
            self._core.start(
                user_id, feature_endpoint_id, hold_token, hold_seconds, idempotency_key, model=model
            )
        )

    def estimate(
        self, user_id: str, feature_endpoint_id: str, input_token: int, output_token: int, **details: Any
    ) -> Estimate:
        """What `end` would answer now, by the same arguments (but a key). Nothing changes."""
        return self._driver.run(
            self._estimate_steps(
                user_id=user_id,
                feature_endpoint_id=feature_endpoint_id,
                input_token=input_token,
                output_token=output_token,
                **details,
            )
        )

    def end(
        self,
        user_id: str,
        feature_endpoint_id: str,
        input_token: int,
        output_token: int,
        *,
        model: str | None = None,
        process_id: str | None = None,
        idempotency_key: str | None = None,
        cached_input_token: int | None = None,
        cache_write_token: int | None = None,
        reasoning_token: int | None = None,
        requests: int | None = None,
    ) -> End:
        """Bill what a run used, once, however often it has to be sent. Raises TokenProcessError.

        `cached_input_token` and `cache_write_token` are within `input_token`, `reasoning_token` within
        `output_token`; `requests` is the number of a model's answers in the run. Pass an `idempotency_key` of
        your own to be able to repeat a call that failed. With an outbox, an UnavailableError whose `queued`
        is True needs no repeating.
        """
        return self._driver.run(
            self._end_steps(
                user_id=user_id,
                feature_endpoint_id=feature_endpoint_id,
                input_token=input_token,
                output_token=output_token,
                model=model,
                process_id=process_id,
                idempotency_key=idempotency_key,
                cached_input_token=cached_input_token,
                cache_write_token=cache_write_token,
                reasoning_token=reasoning_token,
                requests=requests,
            )
        )

    def end_batch(self, ends: Sequence[Mapping[str, Any]]) -> list[BatchItem]:
        """Bill many runs, given as mappings of `end`'s arguments. Each is accepted or refused on its own."""
        return self._driver.run(self._batch_steps(ends))

    def cancel(self, user_id: str, process_id: str) -> None:
        """Give back the hold of a run that used nothing. May be repeated. Raises TokenProcessError."""
        self._driver.run(self._core.cancel(user_id, process_id))

    def reverse(
        self,
        user_id: str,
        *,
        reference: str,
        reason: str,
        process_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Reversal:
        """Take back a run that was billed, named by a key that its end came with; once per `reference`.

        ReversalRefusedError: the feature endpoint allows none (any more), or nothing is left to give back.
        An end that still waits in the outbox has to be sent first: until then the answer is a 404.
        """
        return self._driver.run(self._core.reverse(user_id, reference, reason, process_id, idempotency_key))

    def extend_hold(
        self,
        user_id: str,
        process_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Hold:
        """Add tokens to an open hold and/or seconds to its life.

        HoldRefusedError: the user hasn't so many; the hold is as it was. HoldNotFoundError: it is gone.
        """
        return self._driver.run(
            self._core.extend_hold(user_id, process_id, hold_token, hold_seconds, idempotency_key)
        )

    def run(
        self,
        *,
        user_id: str,
        feature_endpoint_id: str,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        keep_hold: bool = False,
        model: str | None = None,
        usage: Extractor | None = None,
        on_end_error: OnEndError | None = None,
        require_usage: bool = False,
        free: bool = False,
    ) -> Run:
        """A run for code that isn't one function: `with client.run(...) as run: run.use(output_token=40)`.

        `model` is told to its start, as in `start`; the end is billed for the model that the usage names.
        """
        return Run(
            self._core,
            self._driver,
            user_id,
            feature_endpoint_id,
            hold_token=hold_token,
            hold_seconds=hold_seconds,
            keep_hold=keep_hold,
            model=model,
            usage=usage,
            on_end_error=on_end_error,
            require_usage=require_usage,
            free=free,
        )

    def flush_outbox(self, timeout_seconds: float = 60.0) -> Flushed:
        """Send everything that waits in the outbox, back-offs or not. Gives up after `timeout_seconds`."""
        return self._driver.run(self._core.flush(timeout_seconds))

    def close(self) -> None:
        leftovers.settle_all()
        self.close_outbox()
        self._driver.close()

    def __enter__(self) -> TokenProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class AsyncTokenProcess(ClientParts):
    """The client for asyncio. Its settings are the module's; `transport` is for the outbox's
    thread, too, if it is one for both kinds of code.

    An end that is on its way is finished even if its task is cancelled: the cancellation is raised
    afterwards, or after `cancelled_end_timeout_seconds`, while the end goes on by itself.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        total_timeout_seconds: float = 30.0,
        start_timeout_seconds: float = 3.0,
        end_timeout_seconds: float | None = None,
        cancelled_end_timeout_seconds: float = 0.5,
        when_away: WhenAway = "closed",
        open_runs_max: int = 100,
        open_tokens_max: int = 100_000,
        breaker_failures: int = 5,
        breaker_seconds: float = 5.0,
        outbox: OutboxOrPath | Literal[False] | None = None,
        outbox_ends_max: int = ENDS_MAX_DEFAULT,
        background: bool = True,
        hooks: Hooks | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        disabled: bool | None = None,
    ) -> None:
        disabled = is_disabled(disabled)
        if disabled:
            # Nothing is sent, so no address or key matters.
            base_url, api_key, transport = DISABLED_URL, DISABLED_API_KEY, DisabledTransport()
            outbox, when_away = False, "closed"
        settings = Settings.resolve(
            base_url,
            api_key,
            timeout_seconds=timeout_seconds,
            total_timeout_seconds=total_timeout_seconds,
            start_timeout_seconds=start_timeout_seconds,
            end_timeout_seconds=end_timeout_seconds,
            cancelled_end_timeout_seconds=cancelled_end_timeout_seconds,
            when_away=when_away,
            open_runs_max=open_runs_max,
            open_tokens_max=open_tokens_max,
            breaker_failures=breaker_failures,
            breaker_seconds=breaker_seconds,
            disabled=disabled,
        )
        super().__init__(settings, outbox, outbox_ends_max, hooks)
        self._driver = AsyncDriver(self._core, transport)
        self._background_driver: Driver | None = None
        if background and self.outbox is not None:
            in_threads = transport if isinstance(transport, httpx.BaseTransport) else None
            self._background_driver = Driver(self._core, in_threads)
            self._send_in_background(self._background_driver)

    async def start(
        self,
        user_id: str,
        feature_endpoint_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        idempotency_key: str | None = None,
        model: str | None = None,
    ) -> Start:
        """See `TokenProcess.start`."""
        return await self._driver.run(
            self._core.start(
                user_id, feature_endpoint_id, hold_token, hold_seconds, idempotency_key, model=model
            )
        )

    async def estimate(
        self, user_id: str, feature_endpoint_id: str, input_token: int, output_token: int, **details: Any
    ) -> Estimate:
        """See `TokenProcess.estimate`."""
        return await self._driver.run(
            self._estimate_steps(
                user_id=user_id,
                feature_endpoint_id=feature_endpoint_id,
                input_token=input_token,
                output_token=output_token,
                **details,
            )
        )

    async def end(
        self,
        user_id: str,
        feature_endpoint_id: str,
        input_token: int,
        output_token: int,
        *,
        model: str | None = None,
        process_id: str | None = None,
        idempotency_key: str | None = None,
        cached_input_token: int | None = None,
        cache_write_token: int | None = None,
        reasoning_token: int | None = None,
        requests: int | None = None,
    ) -> End:
        """See `TokenProcess.end`."""
        return await self._driver.run_to_the_end(
            self._end_steps(
                user_id=user_id,
                feature_endpoint_id=feature_endpoint_id,
                input_token=input_token,
                output_token=output_token,
                model=model,
                process_id=process_id,
                idempotency_key=idempotency_key,
                cached_input_token=cached_input_token,
                cache_write_token=cache_write_token,
                reasoning_token=reasoning_token,
                requests=requests,
            )
        )

    async def end_batch(self, ends: Sequence[Mapping[str, Any]]) -> list[BatchItem]:
        """See `TokenProcess.end_batch`."""
        return await self._driver.run_to_the_end(self._batch_steps(ends))

    async def cancel(self, user_id: str, process_id: str) -> None:
        """See `TokenProcess.cancel`."""
        await self._driver.run(self._core.cancel(user_id, process_id))

    async def reverse(
        self,
        user_id: str,
        *,
        reference: str,
        reason: str,
        process_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Reversal:
        """See `TokenProcess.reverse`."""
        return await self._driver.run(
            self._core.reverse(user_id, reference, reason, process_id, idempotency_key)
        )

    async def extend_hold(
        self,
        user_id: str,
        process_id: str,
        *,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> Hold:
        """See `TokenProcess.extend_hold`."""
        return await self._driver.run(
            self._core.extend_hold(user_id, process_id, hold_token, hold_seconds, idempotency_key)
        )

    def run(
        self,
        *,
        user_id: str,
        feature_endpoint_id: str,
        hold_token: Amount | None = None,
        hold_seconds: int | None = None,
        keep_hold: bool = False,
        model: str | None = None,
        usage: Extractor | None = None,
        on_end_error: OnEndError | None = None,
        require_usage: bool = False,
        free: bool = False,
    ) -> AsyncRun:
        """See `TokenProcess.run`: `async with client.run(...) as run: ...`."""
        return AsyncRun(
            self._core,
            self._driver,
            user_id,
            feature_endpoint_id,
            hold_token=hold_token,
            hold_seconds=hold_seconds,
            keep_hold=keep_hold,
            model=model,
            usage=usage,
            on_end_error=on_end_error,
            require_usage=require_usage,
            free=free,
        )

    async def flush_outbox(self, timeout_seconds: float = 60.0) -> Flushed:
        """See `TokenProcess.flush_outbox`."""
        return await self._driver.run(self._core.flush(timeout_seconds))

    async def aclose(self) -> None:
        await self._driver.wait_for_unfinished()
        self.close_outbox()
        if self._background_driver is not None:
            self._background_driver.close()
        await self._driver.close()

    async def __aenter__(self) -> AsyncTokenProcess:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()
