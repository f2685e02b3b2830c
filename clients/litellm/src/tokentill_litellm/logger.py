"""LiteLLM's callback: start with a hold before the call, and exactly one of end and cancel after it.

- asyncio (`acompletion`, `aembedding`, `aresponses`, the Router, the proxy): the hook before a deployment
  is called
  starts the run, and its refusal keeps the call from being made.
- plain calls: LiteLLM lets no callback stop them. `guard(litellm.completion)` does; without it a refusal is
  logged
  and reported, and the call is billed all the same.

Over is a call with LiteLLM's event of success or failure, when its stream is closed, or when LiteLLM's own
record of it is freed, as after a cancelled task. The work is done in threads with the plain client,
whichever loop or thread LiteLLM calls from; ends go through the client's outbox where it has one.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from litellm.integrations.custom_logger import CustomLogger
from tokentill import ConfigurationError, InsufficientTokensError, Run, Start, TokenProcess, TokenProcessError
from tokentill.leftovers import leftovers
from tokentill.run_parts import OnEndError
from tokentill.usage.model import get

from tokentill_litellm.streams import watch_streams
from tokentill_litellm.who import CallArguments, FeatureOf, HoldOf, UserOf, WhoFinder, metadata_of

logger = logging.getLogger("tokentill")

F = TypeVar("F", bound=Callable[..., Any])

PROCESS_ID = "tokentill_process_id"
# Calls of which a second event is told from a first.
KNOWN_MAX = 10_000
# LiteLLM's Router and proxy take an error's HTTP status from here: the caller's doing, nothing to try again.
PAYMENT_REQUIRED = 402


class TokentillLogger(CustomLogger):
    """Hand it to `litellm.callbacks`. Settings:

    - `client`: the TokenProcess to use, which stays the caller's to close; else one of the environment;
    - `feature_endpoint_id`: of all calls, or a function of a call's arguments; a call's metadata may name
      its own;
    - `user_id`: a function of a call's arguments, in place of `user=` and the metadata;
    - `hold_token`, `hold_seconds`: what is held while a call is on its way;
    - `bills`: a function of a call's arguments; calls for which it is false pass by unbilled;
    - `bill_cache_hits`: also bill answers from LiteLLM's cache, which no provider was asked for;
    - `on_end_error(error, end)`: is told of ends and usage that failed, and of refused calls that ran all
      the same.
    """

    def __init__(
        self,
        *,
        client: TokenProcess | None = None,
        feature_endpoint_id: FeatureOf | None = None,
        user_id: UserOf | None = None,
        hold_token: HoldOf | None = None,
        hold_seconds: int | None = None,
        bills: Callable[[CallArguments], bool] | None = None,
        bill_cache_hits: bool = False,
        on_end_error: OnEndError | None = None,
    ) -> None:
        super().__init__()
        self._client = client if client is not None else TokenProcess()
        self._who = WhoFinder(user_id, feature_endpoint_id, hold_token)
        self._hold_seconds = hold_seconds
        self._bills = bills
        self._bill_cache_hits = bill_cache_hits
        self._on_end_error = on_end_error
        self._open: dict[str, Run] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        leftovers.expect()
        watch_streams(self)

    def guard(self, function: F) -> F:
        """`litellm.completion`, or another of its functions, started before it is called.

        Raises InsufficientTokensError, or whatever else keeps the run from starting, and then calls nothing.
        """
        if inspect.iscoroutinefunction(function):
            # Its hook before the call does it.
            return function

        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            call_id = kwargs.setdefault("litellm_call_id", str(uuid.uuid4()))
            call = {**dict(zip(names, args, strict=False)), **kwargs}
            if self._is_billed(call):
                self._begin(call_id, call)
            try:
                result = function(*args, **kwargs)
            except BaseException:
                self._finish(call_id, failed=True)
                raise
            self._settle_when_freed(result, call_id)
            return result

        return guarded  # type: ignore[return-value]

    def close(self) -> None:
        """Settle every call that is still open: what flowed is billed, and holds are given back."""
        for call_id in list(self._open):
            self._finish(call_id, failed=True)

    # What LiteLLM calls ------------------------------------------------------------------------------------

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        call_id = kwargs.get("litellm_call_id")
        if call_id is None or not self._is_billed(kwargs):
            return
        await _in_thread(self._begin, call_id, kwargs)
        self._settle_when_freed(kwargs.get("litellm_logging_obj"), call_id)

    async def async_post_call_success_deployment_hook(
        self, request_data: Mapping[str, Any], response: Any, call_type: Any
    ) -> None:
        # Before the caller has the answer: the event of success comes in a task that a closing loop drops.
        await _in_thread(self._succeeded, request_data, response)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        call_id = kwargs.get("litellm_call_id")
        # Asynchronous calls have been started, or let pass, by the hook.
        if call_id is None or call_id in self._open or _is_async(kwargs) or not self._is_billed(kwargs):
            return
        try:
            self._start(call_id, kwargs)
        except TokenProcessError as error:
            # LiteLLM goes on whatever is raised here. What is used is used: it is billed.
            logger.warning("LiteLLM makes a call that may not be made, and that is billed: %s", error)
            self._go_on_unstarted(call_id, kwargs)

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, *_times: Any, **_more: Any
    ) -> None:
        self._succeeded(kwargs, response_obj)

    def log_failure_event(self, kwargs: dict[str, Any], *_more: Any, **_named: Any) -> None:
        self._finish(kwargs.get("litellm_call_id"), failed=True)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, *_times: Any, **_more: Any
    ) -> None:
        await _in_thread(self._succeeded, kwargs, response_obj)

    async def async_log_failure_event(self, kwargs: dict[str, Any], *_more: Any, **_named: Any) -> None:
        await _in_thread(self._finish, kwargs.get("litellm_call_id"), failed=True)

    def on_chunk(self, call_id: str, chunk: Any) -> None:
        run = self._open.get(call_id)
        if run is not None:
            run.read_chunk(chunk)

    def on_end(self, call_id: str, answer: Any, *, cached: bool) -> None:
        if call_id in self._open:
            self._succeeded({"litellm_call_id": call_id, "cache_hit": cached}, answer)

    def on_close(self, call_id: str) -> None:
        if call_id in self._open:
            leftovers.put(functools.partial(self._finish, call_id, failed=True))

    # What becomes of a call --------------------------------------------------------------------------------

    def _is_billed(self, call: CallArguments) -> bool:
        return self._bills is None or bool(self._bills(call))

    def _run(self, call: CallArguments) -> Run:
        who = self._who.find(call)
        return self._client.run(
            user_id=who.user_id,
            feature_endpoint_id=who.feature_endpoint_id,
            hold_token=who.hold_token,
            hold_seconds=self._hold_seconds,
            on_end_error=self._on_end_error,
        )

    def _begin(self, call_id: str, call: CallArguments) -> None:
        self._start(call_id, call)
        if call.get("fallbacks"):
            # It may be made; but LiteLLM makes other calls of it, and each is a run of its own.
            self._finish(call_id, failed=True)

    def _start(self, call_id: str, call: CallArguments) -> None:
        run = self._run(call)
        # Of a retry, before LiteLLM has told the failure; or of a call that it makes of one of another kind.
        self._finish(call_id, failed=True)
        try:
            started = run.start()
        except InsufficientTokensError as error:
            error.status_code = PAYMENT_REQUIRED  # type: ignore[attr-defined]
            raise
        metadata = metadata_of(call)
        if isinstance(metadata, dict) and started.process_id is not None:
            metadata[PROCESS_ID] = started.process_id
        self._hold(call_id, run)

    def _go_on_unstarted(self, call_id: str, call: CallArguments) -> None:
        try:
            run = self._run(call)
        except ConfigurationError:
            logger.exception("A call of LiteLLM's is not billed")
            return
        run.started = Start(run.user_id, 0, "not-access-able")
        self._hold(call_id, run)

    def _hold(self, call_id: str, run: Run) -> None:
        with self._lock:
            self._open[call_id] = run
            self._known[call_id] = None
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)

    def _settle_when_freed(self, owner: Any, call_id: str) -> None:
        try:
            weakref.finalize(owner, self.on_close, call_id)
        except TypeError:
            return  # A plain value: its event has come already, or will.

    def _succeeded(self, kwargs: Mapping[str, Any], response: Any) -> None:
        call_id = str(kwargs.get("litellm_call_id"))
        unknown = call_id not in self._known and not _is_async(kwargs)
        if unknown and self._is_billed(kwargs):
            # Plain calls that LiteLLM told nothing of before they were made.
            self._go_on_unstarted(call_id, kwargs)
        run = self._open.get(call_id)
        if run is None:
            return
        streamed = get(kwargs, "async_complete_streaming_response", "complete_streaming_response")
        if streamed is not None and get(streamed, "usage") is None:
            # LiteLLM has put it together without what its chunks say: the stream's own end knows better.
            return
        if kwargs.get("cache_hit") and not self._bill_cache_hits:
            run.free()
        run.read(response if streamed is None else streamed)
        self._finish(call_id, failed=False)

    def _finish(self, call_id: str | None, *, failed: bool) -> None:
        with self._lock:
            run = self._open.pop(str(call_id), None)
        if run is not None:
            run.finish(failed=failed)


async def _in_thread(act: Callable[..., None], *args: Any, **named: Any) -> None:
    """Do what waits for the network without keeping the loop.

    What LiteLLM has not told yet it tells at the interpreter's exit: there are no threads any more then.
    """
    work = functools.partial(contextvars.copy_context().run, act, *args, **named)
    try:
        done = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        work()
    else:
        await done


def _is_async(kwargs: Mapping[str, Any]) -> bool:
    # "acompletion", "aembedding", "anthropic_messages" ...: all that begin so are. A plain call with
    # fallbacks makes asynchronous ones, which LiteLLM tells of as if they were it.
    inner = kwargs.get("litellm_params")
    return str(kwargs.get("call_type")).startswith("a") or bool(get(inner, "acompletion"))
