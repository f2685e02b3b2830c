"""Whom a call is billed to, for which feature, and how much is held for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokentill import ConfigurationError
from tokentill.wire import Amount

CallArguments: TypeAlias = Mapping[str, Any]
UserOf: TypeAlias = Callable[[CallArguments], "str | None"]
FeatureOf: TypeAlias = "str | Callable[[CallArguments], str | None]"
HoldOf: TypeAlias = "Amount | Callable[[CallArguments], Amount | None]"

# Of the call's metadata, the first that is there. Two are of LiteLLM's proxy, the last is Anthropic's `user=`
USER_NAMES = ("tokentill_user_id", "user_api_key_end_user_id", "user_api_key_user_id", "user_id")
FEATURE_NAME = "tokentill_feature_endpoint_id"
HOLD_NAME = "tokentill_hold_token"


@dataclass(frozen=True)
class Who:
    user_id: str
    feature_endpoint_id: str
    hold_token: Amount | None


class WhoFinder:
    """Asks the settings first, then the call: `user=` and its `metadata`."""

    def __init__(
        self, user_id: UserOf | None, feature_endpoint_id: FeatureOf | None, hold_token: HoldOf | None
    ) -> None:
        self._user_id = user_id
        self._feature_endpoint_id = feature_endpoint_id
        self._hold_token = hold_token

    def find(self, call: CallArguments) -> Who:
        """Raises ConfigurationError where the call names no user or no feature: none is free by chance."""
        metadata = {name: value for found in reversed(all_metadata_of(call)) for name, value in found.items()}
        feature = metadata.get(FEATURE_NAME) or _asked(self._feature_endpoint_id, call)
        user = self._user_id(call) if self._user_id is not None else _user(call, metadata)
        if not user:
            raise ConfigurationError(
                "The call has no user to bill: pass `user=`, or `tokentill_user_id` in its metadata"
            )
        if not feature:
            raise ConfigurationError(
                f"The call has no feature: give TokentillLogger one, or pass `{FEATURE_NAME}` in its metadata"
            )
        hold = metadata.get(HOLD_NAME)
        return Who(user, feature, _asked(self._hold_token, call) if hold is None else hold)


def metadata_of(call: CallArguments) -> Mapping[str, Any]:
    """The call's own metadata, wherever this kind of call keeps it."""
    return next(iter(all_metadata_of(call)), {})


def all_metadata_of(call: CallArguments) -> list[Mapping[str, Any]]:
    """Some kinds of calls have two: what the provider is told, and LiteLLM's own."""
    inner = call.get("litellm_params")
    holders = (call, inner if isinstance(inner, Mapping) else {})
    found = [holder.get(name) for holder in holders for name in ("metadata", "litellm_metadata")]
    return [metadata for metadata in found if isinstance(metadata, Mapping) and metadata]


def _user(call: CallArguments, metadata: Mapping[str, Any]) -> str | None:
    named = metadata.get(USER_NAMES[0]) or call.get("user")
    found = named or next((metadata[name] for name in USER_NAMES[1:] if metadata.get(name)), None)
    return str(found) if found else None


def _asked(setting: Any, call: CallArguments) -> Any:
    return setting(call) if callable(setting) else setting
