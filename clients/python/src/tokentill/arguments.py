"""Settings of a wrapped function that depend on the call: `user_id` and `hold_token` as functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from tokentill.errors import ConfigurationError
from tokentill.wire import Amount

UserId: TypeAlias = "str | Callable[..., str] | Callable[..., Awaitable[str]]"
HoldToken: TypeAlias = "Amount | Callable[..., Amount | None] | Callable[..., Awaitable[Amount | None]]"


class PerCall:
    """The settings of one call. Each setting is a value, or a function that is called as its parameters ask
    for:

    - by name, where all its parameters have names of the wrapped function's: `lambda user_id: user_id`;
    - else with all of the call's arguments, in the wrapped function's order, however the caller passed them.
    """

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        self._settings = settings
        self._signature = _signature(function)
        self._parameters = {name: _names(setting) for name, setting in settings.items() if callable(setting)}

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """For plain functions. ConfigurationError for a setting that is asynchronous."""
        found = self._found(args, kwargs)
        for name, value in found.items():
            if inspect.isawaitable(value):
                if inspect.iscoroutine(value):
                    value.close()
                raise ConfigurationError(f"{name} is asynchronous: the function must be `async def`, too")
        return found

    async def of_async(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """For asyncio functions, whose settings may be asynchronous."""
        found = self._found(args, kwargs)
        return {name: await value if inspect.isawaitable(value) else value for name, value in found.items()}

    def _found(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if not self._parameters:
            return dict(self._settings)
        bound = None
        if self._signature is not None:
            # TypeError, as the function itself would raise it, for arguments that don't fit.
            bound = self._signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
            bound.apply_defaults()
        found = {}
        for name, setting in self._settings.items():
            if name not in self._parameters:
                found[name] = setting
            elif bound is not None and _all_in(self._parameters[name], bound.arguments):
                found[name] = setting(
                    **{each: bound.arguments[each] for each in self._parameters[name] or ()}
                )
            else:
                found[name] = setting(*args, **kwargs)
        return found


def _all_in(names: list[str] | None, arguments: Mapping[str, Any]) -> bool:
    return bool(names) and all(name in arguments for name in names or ())


def _names(function: Callable[..., Any]) -> list[str] | None:
    """The parameters it needs, or None where it can't be called by their names."""
    signature = _signature(function)
    if signature is None:
        return None
    needed = []
    for name, parameter in signature.parameters.items():
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            return None
        if parameter.default is parameter.empty:
            needed.append(name)
    return needed


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None  # Written in C, say.
