"""Finds the caller that an API key stands for."""

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
    """Counts wrong keys by what happened: just refused, or the sender made to wait."""

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
        """The caller that this key stands for. Its scopes are still to be checked (`Caller.check`).

        A right key never has to wait, however many wrong keys its address has sent. Raises InvalidApiKey,
        TooManyWrongKeys, or Unavailable when Postgres has been away for too long to know whether the key is still in
        force.
        """
        key = self._keys.find(kind, given, address)
        if key is None:
            # A missing key isn't a guess, so it doesn't count as a wrong key.
            if given and (wait_seconds := self._wrong_keys.wait_seconds(address)) > 0:
                raise TooManyWrongKeys(wait_seconds)
            raise InvalidApiKey(MESSAGES[kind])
        return caller_by(key, address, request_id)

    def remembered(self, fingerprint: str, address: str, request_id: str | None = None) -> Caller:
        """The caller of a session, by the fingerprint (`ApiKey.fingerprint`) of the key that it was opened with.

        Raises InvalidApiKey where that key is no longer in force, or Unavailable, as `caller` does.
        """
        key = self._keys.remembered(fingerprint, address)
        if key is None:
            raise InvalidApiKey
        return caller_by(key, address, request_id)


def caller_by(key: ApiKey, address: str, request_id: str | None) -> Caller:
    return Caller(key.name, key.kind, key.scopes, key.id, address, request_id=request_id)
