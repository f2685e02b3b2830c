"""Each process's own copy of the API keys in force, looked up by hash.

No call asks a store for its key. The copy is refreshed as the catalog's is (`app/catalog/snapshot.py`), four times a
second: a key that was made, revoked or rotated is known to every process within that time, and a key expires exactly at
its time. While Postgres is away the copy goes on serving for a bounded time. After that, keys from the database are
answered as temporarily unavailable, and keys from the environment still work.

The last use of each key is kept in memory and written every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from hmac import compare_digest

import sqlalchemy as sa
import structlog

from app.access.clock import StoreClock
from app.access.postgres import PostgresAccess
from app.domain.errors import Unavailable
from app.domain.keys import ENVIRONMENT_NAMES, SCOPES_OF_KIND, ApiKey, KeyKind, digest_of
from app.stores.postgres import api_keys
from app.stores.postgres.api_keys import Use

log = structlog.get_logger(__name__)

USES_SECONDS = 10.0

_Keys = Mapping[bytes, ApiKey]


class KeyRing:
    def __init__(
        self,
        environment: Mapping[KeyKind, Collection[str]],
        *,
        postgres: PostgresAccess,
        clock: StoreClock,
        offline_seconds_max: float,
    ) -> None:
        """`environment` has the keys that are in force as long as the process runs."""
        self._environment = [_of_environment(kind, key) for kind, keys in environment.items() for key in keys]
        self._postgres = postgres
        self._clock = clock
        self._offline_seconds_max = offline_seconds_max
        self._services, self._operators = _by_digest(self._environment)
        self._by_fingerprint: Mapping[str, ApiKey] = {}
        self._version: int | None = None
        self._looked_at = time.monotonic()
        self._used: dict[str, tuple[float, str]] = {}
        self._uses_written_at = 0.0
        self._writing = threading.Lock()

    def find(self, kind: KeyKind, given: str, address: str) -> ApiKey | None:
        """The key in force that a header's text stands for, used from this address. None where there is no such key of
        this kind.

        Raises Unavailable when Postgres has been away for too long to know whether the key is still in force.
        """
        digest = digest_of(given.encode("latin-1", "replace"))
        key = (self._services if kind is KeyKind.SERVICE else self._operators).get(digest)
        # The dictionary's lookup isn't constant in time, but a caller can't choose a digest byte by byte. The
        # comparison that decides is constant in time all the same.
        if key is None or not compare_digest(key.digest, digest):
            return None
        return self._used_now(key, address)

    def remembered(self, fingerprint: str, address: str) -> ApiKey | None:
        """The key in force that a session was opened with, by its `fingerprint`. None where it is no longer in force.

        Raises Unavailable, as `find` does.
        """
        found = self._by_fingerprint.get(fingerprint)
        return None if found is None else self._used_now(found, address)

    def look(self, connection: sa.Connection, version: int) -> None:
        """Postgres has answered with this version of its keys: load them unless our copy has that version."""
        asked_at = time.monotonic()
        if version != self._version:
            keys = [*self._environment, *api_keys.in_force(connection)]
            self._by_fingerprint = {key.fingerprint: key for key in keys}
            self._services, self._operators = _by_digest(keys)
            self._version = version
        self._looked_at = asked_at

    def write_uses(self) -> None:
        """Write when keys were last used, at most every USES_SECONDS. Raises Unavailable."""
        if time.monotonic() - self._uses_written_at >= USES_SECONDS:
            self.write_uses_now()

    def write_uses_now(self) -> None:
        with self._writing:
            self._uses_written_at = time.monotonic()
            # A use noted during this swap may be lost; the key's next use is kept.
            used, self._used = self._used, {}
            if not used:
                return
            uses = [Use(key_id, self._moment(at), address) for key_id, (at, address) in list(used.items())]
            try:
                self._postgres.run(lambda connection: api_keys.write_uses(connection, uses))
            except Unavailable:
                self._used = {**used, **self._used}
                raise

    def _used_now(self, key: ApiKey, address: str) -> ApiKey | None:
        now = time.monotonic()
        if not key.is_of_environment:
            if key.expires_at is not None and self._clock.now() >= key.expires_at:
                return None
            if now - self._looked_at > self._offline_seconds_max:
                raise Unavailable("It can't be told whether this key is still in force, please retry")
        self._used[key.id] = (now, address)
        return key

    def _moment(self, at: float) -> datetime:
        return self._clock.now() - timedelta(seconds=time.monotonic() - at)


def _of_environment(kind: KeyKind, key: str) -> ApiKey:
    name = ENVIRONMENT_NAMES[kind]
    return ApiKey(name, name, kind, SCOPES_OF_KIND[kind], digest_of(key.encode()), is_of_environment=True)


def _by_digest(keys: Collection[ApiKey]) -> tuple[_Keys, _Keys]:
    """Service keys and operator keys, apart: neither kind works where the other is asked for."""
    services, operators = (
        {key.digest: key for key in keys if key.kind is kind} for kind in (KeyKind.SERVICE, KeyKind.OPERATOR)
    )
    return services, operators
