"""`with_token_process`: a service function that bills itself.

    @with_token_process(feature_endpoint_id="translation", user_id=lambda data: data["user_id"])
    def translate(data): ...
        return {"translated": text, "input_token": 12, "output_token": 40}

Works on functions, coroutine functions, generator functions and async generator functions, and on functions
that return an iterator, such as a provider's stream. Start; not access-able raises InsufficientTokensError
and the function does not run; run; bill what it used. A generator starts with its first chunk.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ParamSpec, TypeVar, overload

from tokentill.arguments import HoldToken, PerCall, UserId
from tokentill.client import AsyncTokenProcess, TokenProcess
from tokentill.current import inside
from tokentill.errors import ConfigurationError
from tokentill.functions import default_async_client, default_client
from tokentill.run_parts import OnEndError
from tokentill.streams import AsyncStreamManager, StreamManager, is_manager
from tokentill.usage import Extractor

P = ParamSpec("P")
R = TypeVar("R")


@overload
def with_token_process(
    function: Callable[P, R],
    /,
    *,
    feature_endpoint_id: str,
    user_id: UserId,
    hold_token: HoldToken | None = None,
    hold_seconds: int | None = None,
    keep_hold: bool = False,
    usage: Extractor | None = None,
    on_end_error: OnEndError | None = None,
    require_usage: bool = False,
    free: bool = False,
    client: TokenProcess | AsyncTokenProcess | None = None,
) -> Callable[P, R]: ...


@overload
def with_token_process(
    *,
    feature_endpoint_id: str,
    user_id: UserId,
    hold_token: HoldToken | None = None,
    hold_seconds: int | None = None,
    keep_hold: bool = False,
    usage: Extractor | None = None,
    on_end_error: OnEndError | None = None,
    require_usage: bool = False,
    free: bool = False,
    client: TokenProcess | AsyncTokenProcess | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def with_token_process(
    function: Callable[..., Any] | None = None,
    /,
    *,
    feature_endpoint_id: str,
    user_id: UserId,
    hold_token: HoldToken | None = None,
    hold_seconds: int | None = None,
    keep_hold: bool = False,
    usage: Extractor | None = None,
    on_end_error: OnEndError | None = None,
    require_usage: bool = False,
    free: bool = False,
    client: TokenProcess | AsyncTokenProcess | None = None,
) -> Any:
    """Wrap `function`, or give a decorator where none is passed.

    `user_id` is the id, or a function of the call's arguments that answers it, on asyncio also a coroutine
    function; `hold_token` likewise. A function is given the arguments that its parameters name, or else all
    of them. `hold_token` reserves that many tokens for `hold_seconds` while it runs, and `keep_hold` extends
    that for as long as it does. `usage` replaces `tokentill.usage.read_usage`. `on_end_error(error, end)` is
    told of an end that failed, and of usage that is missing or can't be read; with `require_usage` the latter
    is raised once the function has run, as a UsageError that has its result. `free`: a feature that costs
    nothing, whatever its result says. `client` is the TokenProcess (for plain functions) or AsyncTokenProcess
    (for asyncio ones) to use; without it, one configured by the environment is made when it is first needed.
    """
    options: dict[str, Any] = {
        "feature_endpoint_id": feature_endpoint_id,
        "hold_seconds": hold_seconds,
        "keep_hold": keep_hold,
        "usage": usage,
        "on_end_error": on_end_error,
        "require_usage": require_usage,
        "free": free,
    }

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        per_call = PerCall(function, user_id=user_id, hold_token=hold_token)
        if _is(inspect.isasyncgenfunction, function) or _is(inspect.iscoroutinefunction, function):
            if isinstance(client, TokenProcess):
                raise ConfigurationError("An asynchronous function needs an AsyncTokenProcess")
            return _wrap_async(function, per_call, options, client)
        if isinstance(client, AsyncTokenProcess):
            raise ConfigurationError("A plain function needs a TokenProcess")
        return _wrap_plain(function, per_call, options, client)

    return wrap if function is None else wrap(function)


def _wrap_plain(
    function: Callable[..., Any], per_call: PerCall, options: dict[str, Any], client: TokenProcess | None
) -> Callable[..., Any]:
    @functools.wraps(function)
    def stream(*args: Any, **kwargs: Any) -> Any:
        run = (client or default_client()).run(**options, **per_call.of(args, kwargs))
        return run.stream(function(*args, **kwargs))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        run = (client or default_client()).run(**options, **per_call.of(args, kwargs))
        run.enter()
        try:
            with inside(run):
                result = function(*args, **kwargs)
            _refuse_asynchronous(result)
        except BaseException as error:
            run.read_error(error)
            run.leave(failed=True)
            raise
        if _is_stream(result):
            result = run.stream(result)
        elif is_manager(result, "__enter__"):
            run.hand_on()
            return StreamManager(run, result)
        else:
            run.returned(result)
        run.leave(result=result)
        return result

    return stream if _is(inspect.isgeneratorfunction, function) else call


def _wrap_async(
    function: Callable[..., Any], per_call: PerCall, options: dict[str, Any], client: AsyncTokenProcess | None
) -> Callable[..., Any]:
    @functools.wraps(function)
    def stream(*args: Any, **kwargs: Any) -> Any:
        run = (client or default_async_client()).run(**options, user_id="")
        # With its first chunk, as `user_id` may have to be awaited.
        run.settings_at_start(lambda: per_call.of_async(args, kwargs))
        return run.stream(function(*args, **kwargs))

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        run = (client or default_async_client()).run(**options, **await per_call.of_async(args, kwargs))
        await run.enter()
        try:
            with inside(run):
                result = await function(*args, **kwargs)
        except BaseException as error:
            run.read_error(error)
            await run.leave(failed=True, cancelled=isinstance(error, asyncio.CancelledError))
            raise
        if isinstance(result, AsyncIterator):
            result = run.stream(result)
        elif is_manager(result, "__aenter__"):
            run.hand_on()
            return AsyncStreamManager(run, result)
        else:
            run.returned(result)
        await run.leave(result=result)
        return result

    return stream if _is(inspect.isasyncgenfunction, function) else call


def _is_stream(result: Any) -> bool:
    # A file is an iterator too, but no stream of chunks that report their usage.
    iterator = isinstance(result, Iterator) and not isinstance(result, io.IOBase)
    # Bedrock's can only be iterated.
    return iterator or type(result).__name__ == "EventStream"


def _refuse_asynchronous(result: Any) -> None:
    """A plain function can't be told from one that returns a coroutine before it has returned it."""
    if inspect.iscoroutine(result):
        result.close()
    # LiteLLM's stream is for both kinds of code.
    only_asynchronous = isinstance(result, AsyncIterator) and not isinstance(result, Iterator)
    if inspect.isawaitable(result) or only_asynchronous or is_manager(result, "__aenter__"):
        raise ConfigurationError("The function is asynchronous inside: define it with `async def`")


def _is(kind: Callable[[Any], bool], function: Any) -> bool:
    # Also an object whose class says how to call it.
    return kind(function) or kind(type(function).__call__)
