"""From what a caller has written as its key to who it is."""

from __future__ import annotations

from app.access.key_ring import KeyRing
from app.access.wrong_keys import WrongKeys
from app.domain.errors import InvalidApiKey, TooManyWrongKeys
from app.domain.keys import ApiKey, Caller, KeyKind

MESSAGES = {KeyKind.SERVICE: "Invalid server API key", KeyKind.OPERATOR: "Invalid admin API key"}


class Authentication:
    def __init__(self, keys: KeyRing, wrong_keys: WrongKeys) -> None:
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
