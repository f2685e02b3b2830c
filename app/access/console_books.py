"""Books for the console's sessions and forms, within one transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.stores.postgres import console
from app.stores.postgres.console import FormRow, SessionRow


class ConsoleBooks:
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def delete_expired(self, idle_max: timedelta) -> None:
        console.delete_expired(self._connection, idle_max)

    def add_session(self, **values: Any) -> None:
        console.insert_session(self._connection, **values)

    def find_session(self, token_hash: bytes, idle_max: timedelta) -> SessionRow | None:
        """A session that has neither expired nor been idle for too long, and whose key is in force."""
        return console.find_session(self._connection, token_hash, idle_max)

    def touch_session(self, token_hash: bytes) -> None:
        console.touch_session(self._connection, token_hash)

    def delete_session(self, token_hash: bytes) -> None:
        """Delete a session and its forms."""
        console.delete_session(self._connection, token_hash)

    def claim_form(self, session_hash: bytes, form_id: UUID) -> bool:
        """Whether this form is sent for the first time."""
        return console.claim_form(self._connection, session_hash, form_id)

    def find_form(self, session_hash: bytes, form_id: UUID) -> FormRow | None:
        return console.find_form(self._connection, session_hash, form_id)

    def finish_form(self, session_hash: bytes, form_id: UUID, location: str, message: str) -> None:
        console.finish_form(self._connection, session_hash, form_id, location, message)

    def release_form(self, session_hash: bytes, form_id: UUID) -> None:
        """The form was refused, so it may be sent again."""
        console.release_form(self._connection, session_hash, form_id)
