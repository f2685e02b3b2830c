"""Books for API keys, within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.domain.audit import Change
from app.domain.keys import Caller
from app.stores.postgres import api_keys, audit, system
from app.stores.postgres.api_keys import KeyFilter, KeyRow


class KeyBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def announce(self) -> None:
        """On commit, tell every process that keys have changed. Also serialises changes of keys."""
        system.announce_keys(self._connection)

    def is_name_taken(self, name: str) -> bool:
        """Whether a key in force has this name."""
        return api_keys.is_name_taken(self._connection, name)

    def add(self, **values: Any) -> KeyRow:
        return api_keys.insert(self._connection, **values)

    def find(self, key_id: str) -> KeyRow | None:
        return api_keys.find(self._connection, key_id)

    def revoke(self, key_id: str, revoked_by: str) -> KeyRow:
        return api_keys.revoke(self._connection, key_id, revoked_by)

    def end_within(self, key_id: str, seconds: int) -> KeyRow:
        """Have a key expire within this many seconds, unless it expires earlier anyway."""
        return api_keys.end_within(self._connection, key_id, seconds)

    def list_newest(self, wanted: KeyFilter, before_number: int, limit: int) -> Sequence[KeyRow]:
        return api_keys.list_newest(self._connection, wanted, before_number, limit)

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        """Write this transaction's changes to the audit log."""
        audit.write_all(self._connection, caller, changes)
