"""From what a caller has written as its key to who it is."""

from __future__ import annotations

from typing import Protocol

from app.access.key_ring import KeyRing
from app.domain.errors import InvalidApiKey, TooManyWrongKeys
from app.domain.keys import ApiKey, Caller, KeyKind
from app.meters.instruments import Meters

MESSAGES = {KeyKind.SERVICE: "Invalid server API key", KeyKind.OPERATOR: "Invalid admin API key"}


class Brake(Protocol):
    def wait_seconds(self, address: str) -> float: ...


class CountedBrake:
    """Counts wrong keys: those that are just refused, and those whose sender is made to wait."""

    def __init__(self, brake: Brake, meters: Meters) -> None:
        self._brake = brake
        self._meters = meters

    def wait_seconds(self, address: str) -> float:
        seconds = self._brake.wait_seconds(address)
        self._meters.wrong_keys.add(1, "braked" if seconds > 0 else "refused")
        return seconds


class Authentication:
    def __init__(self, keys: KeyRing, wrong_keys: Brake) -> None:
        self._keys = keys
        self._wrong_keys = wrong_keys

    def caller(self, kind: KeyKind, given: str, address: str, request_id: str | None = None) -> Caller:
        """Who calls by this key. Its scopes are still to be checked (`Caller.check`).

        A right key is never made to wait, however many wrong ones its address has sent. Raises InvalidApiKey,
        TooManyWrongKeys, or Unavailable when nobody can tell any more whether the key is in force.
        """
        key = self._keys.find(kind, given, address)
        if key is None:
            # None at all is no guess.
            if given and (wait_seconds := self._wrong_keys.wait_seconds(address)) > 0:
                raise TooManyWrongKeys(wait_seconds)
            raise InvalidApiKey(MESSAGES[kind])
        return caller_by(key, address, request_id)

    def remembered(self, fingerprint: str, address: str, request_id: str | None = None) -> Caller:
        """Who calls by the key that a session began with (`ApiKey.fingerprint`), as long as that is in force.

        Raises InvalidApiKey or Unavailable, as `caller` does.
        """
        key = self._keys.remembered(fingerprint, address)
        if key is None:
            raise InvalidApiKey
        return caller_by(key, address, request_id)


def caller_by(key: ApiKey, address: str, request_id: str | None) -> Caller:
    return Caller(key.name, key.kind, key.scopes, key.id, address, request_id=request_id)
