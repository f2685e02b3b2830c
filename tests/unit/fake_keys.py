"""The books of API keys in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeVar

from app.stores.postgres.api_keys import KeyFilter, KeyRow, KeyState
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW

T = TypeVar("T")


class FakeKeyBooks(FakeBookKeeping):
    """Keys, and what of them their maker is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, KeyRow] = {}
        self.digests: dict[str, bytes] = {}

    def announce(self) -> None:
        self.steps.append("announced")

    def show(self) -> None:
        self.steps.append("shown")

    def is_name_taken(self, name: str) -> bool:
        return any(key.name == name and key.state is KeyState.ACTIVE for key in self.keys.values())

    def add(self, *, key_id: str, digest: bytes, **values: Any) -> KeyRow:
        nothing = dict.fromkeys((field.name for field in fields(KeyRow)), None)
        new = {"id": key_id, "number": len(self.keys) + 1, "state": KeyState.ACTIVE, "created_at": NOW}
        new |= {"is_of_environment": False, "scopes": frozenset(values.pop("scopes"))}
        if values["expires_at"] is not None:
            new["lifetime_seconds"] = int((values["expires_at"] - NOW).total_seconds())
        self.keys[key_id] = KeyRow(**{**nothing, **values, **new})
        self.digests[key_id] = digest
        if (replaced := values.get("replaces")) is not None:
            self.keys[replaced] = replace(self.keys[replaced], replaced_by=key_id)
        return self.keys[key_id]

    def find(self, key_id: str) -> KeyRow | None:
        return self.keys.get(key_id)

    def revoke(self, key_id: str, revoked_by: str) -> KeyRow:
        return self._change(key_id, state=KeyState.REVOKED, revoked_by=revoked_by, revoked_at=NOW)

    def end_within(self, key_id: str, seconds: int) -> KeyRow:
        end = NOW + timedelta(seconds=seconds)
        return self._change(key_id, expires_at=min(self.keys[key_id].expires_at or end, end))

    def list_newest(self, wanted: KeyFilter, before_number: int, limit: int) -> Sequence[KeyRow]:
        newest = sorted(self.keys.values(), key=lambda key: -key.number)
        found = [key for key in newest if key.number < before_number and wanted.name in (None, key.name)]
        return found[:limit]

    def _change(self, key_id: str, **values: Any) -> KeyRow:
        self.keys[key_id] = replace(self.keys[key_id], **values)
        return self.keys[key_id]
