"""Sessions of operators in the console.

A session is opened with an operator's key and is valid as long as that key: each request looks up both in Postgres, so
a sign-out, or the revocation or expiry of the key, ends the session at once and in every process. A session also ends
after half an hour without activity, and after twelve hours in any case. Postgres stores only the hash of its token.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from app.access.ports import BookKeeping
from app.domain.errors import InvalidApiKey
from app.domain.keys import Caller, KeyKind, digest_of, fingerprint_of
from app.stores.postgres.console import FormRow, SessionRow

IDLE_MAX = timedelta(minutes=30)
LIFETIME = timedelta(hours=12)
# How often the last use of an active session is written down.
TOUCH_AFTER = timedelta(minutes=1)
TOKEN_BYTES = 32
# How long a repeated form waits for the outcome of the first one.
FORM_SECONDS_MAX = 5.0
FORM_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Session:
    token_hash: bytes
    caller: Caller


class Books(Protocol):
    """Sessions and the forms that were sent in them, in one transaction."""

    def delete_expired(self, idle_max: timedelta) -> None: ...

    def add_session(self, **values: Any) -> None: ...

    def find_session(self, token_hash: bytes, idle_max: timedelta) -> SessionRow | None: ...

    def touch_session(self, token_hash: bytes) -> None: ...

    def delete_session(self, token_hash: bytes) -> None: ...

    def claim_form(self, session_hash: bytes, form_id: UUID) -> bool: ...

    def find_form(self, session_hash: bytes, form_id: UUID) -> FormRow | None: ...

    def finish_form(self, session_hash: bytes, form_id: UUID, location: str, message: str) -> None: ...

    def release_form(self, session_hash: bytes, form_id: UUID) -> None: ...


class Authentication(Protocol):
    def caller(self, kind: KeyKind, given: str, address: str, request_id: str | None = None) -> Caller:
        """Raises InvalidApiKey, TooManyWrongKeys or Unavailable."""

    def remembered(self, fingerprint: str, address: str, request_id: str | None = None) -> Caller:
        """Raises InvalidApiKey or Unavailable."""


class ConsoleSessions:
    def __init__(self, *, books: BookKeeping[Books], authentication: Authentication) -> None:
        self._books = books
        self._authentication = authentication

    def open(self, key: str, *, person: str | None, address: str, request_id: str | None = None) -> str:
        """Open a session. Returns its token. Also deletes expired sessions.

        Raises InvalidApiKey, TooManyWrongKeys or Unavailable.
        """
        caller = self._authentication.caller(KeyKind.OPERATOR, key, address, request_id)
        token = secrets.token_urlsafe(TOKEN_BYTES)

        def work(books: Books) -> None:
            books.delete_expired(IDLE_MAX)
            books.add_session(
                token_hash=hash_of(token),
                key_id=caller.key_id,
                key_fingerprint=fingerprint_of(digest_of(key.encode("latin-1", "replace"))),
                person=person,
                address=address,
                lifetime=LIFETIME,
            )

        self._books.transaction(work)
        return token

    def find(self, token: str, *, address: str, request_id: str | None = None, touches: bool = True) -> Session | None:
        """The session of a token, or None unless both the session and its key are valid. Raises Unavailable.

        With `touches` the session counts as used. Pages that refresh themselves don't touch it: that is no activity.
        """
        token_hash = hash_of(token)
        row = self._books.read(lambda books: books.find_session(token_hash, IDLE_MAX))
        if row is None:
            return None
        try:
            caller = self._authentication.remembered(row.key_fingerprint, address, request_id)
        except InvalidApiKey:
            return None
        if touches and row.now - row.seen_at >= TOUCH_AFTER:
            self._books.read(lambda books: books.touch_session(token_hash))
        return Session(token_hash, replace(caller, person=row.person))

    def close(self, session: Session) -> None:
        """Raises Unavailable."""
        self._books.read(lambda books: books.delete_session(session.token_hash))

    def claim_form(self, session: Session, form_id: UUID) -> FormRow | None:
        """Claim a form, so that it is processed only once. Returns None if it is sent for the first time and the caller
        has to process it. Otherwise returns its outcome, after a wait if it is being processed. Raises Unavailable.
        """
        if self._books.read(lambda books: books.claim_form(session.token_hash, form_id)):
            return None
        until = time.monotonic() + FORM_SECONDS_MAX
        while True:
            found = self.form(session, form_id)
            if found is None:
                # The first one was refused and has released the form: claim it.
                return self.claim_form(session, form_id)
            if found.location is not None or time.monotonic() >= until:
                return found
            time.sleep(FORM_POLL_SECONDS)

    def form(self, session: Session, form_id: UUID) -> FormRow | None:
        """Raises Unavailable."""
        return self._books.read(lambda books: books.find_form(session.token_hash, form_id))

    def finish_form(self, session: Session, form_id: UUID, *, location: str, message: str) -> None:
        """Raises Unavailable."""
        self._books.read(lambda books: books.finish_form(session.token_hash, form_id, location, message))

    def release_form(self, session: Session, form_id: UUID) -> None:
        """Raises Unavailable."""
        self._books.read(lambda books: books.release_form(session.token_hash, form_id))


def hash_of(secret: str) -> bytes:
    """The hash under which a secret is stored. A plain hash will do, as the secret has enough random bits."""
    return hashlib.sha256(secret.encode()).digest()
