"""Creates, rotates, revokes and lists API keys.

Changes run one after another, and each is announced in its own transaction; every process has it at its next poll. A
caller can't give a key scopes that they lack themselves. Keys set by the environment can only be changed there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from app.access.ports import BookKeeping
from app.catalog.changes import Announcing, Showing
from app.domain.audit import Change
from app.domain.errors import AlreadyExists, Invalid, KeyNotAllowed, KeyNotChangeable, NotFound
from app.domain.keys import OVERLAP_SECONDS_DEFAULT, Caller, KeyKind, KeyScope, digest_of, in_order, make_key
from app.domain.pages import NEWEST, Page, page
from app.stores.postgres.api_keys import KeyFilter, KeyRow, KeyState

log = structlog.get_logger(__name__)

ALL_KEYS = KeyFilter()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MadeKey:
    """`key` is the whole key. It is shown only this once, as only its hash is stored."""

    row: KeyRow
    key: str


class Books(Announcing, Protocol):
    """Keys, in one transaction."""

    def is_name_taken(self, name: str) -> bool: ...

    def add(self, **values: Any) -> KeyRow: ...

    def find(self, key_id: str) -> KeyRow | None: ...

    def revoke(self, key_id: str, revoked_by: str) -> KeyRow: ...

    def end_within(self, key_id: str, seconds: int) -> KeyRow: ...

    def list_newest(self, wanted: KeyFilter, before_number: int, limit: int) -> Sequence[KeyRow]: ...

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None: ...


class KeyAdmin:
    def __init__(self, *, books: BookKeeping[Books], changes: Showing, now: Callable[[], datetime]) -> None:
        self._books = books
        self._changes = changes
        self._now = now

    def create(
        self,
        name: str,
        kind: KeyKind,
        scopes: Collection[KeyScope],
        *,
        expires_at: datetime | None = None,
        caller: Caller,
    ) -> MadeKey:
        """Raises KeyNotAllowed (a scope that the caller lacks), AlreadyExists (the name of a key in force), Invalid or
        Unavailable.
        """
        self._check(kind, scopes, expires_at, caller)

        def work(books: Books) -> MadeKey:
            if books.is_name_taken(name):
                reason = f"A key in force is called {name}: rotate or revoke it, or take another name."
                raise AlreadyExists("Key exists already", errors={"name": [reason]})
            return _make(books, caller, name=name, kind=kind, scopes=scopes, expires_at=expires_at)

        made = self._announced(work)
        log.info("key_created", key_id=made.row.id, name=name, kind=kind, actor=caller.actor)
        return made

    def rotate(
        self,
        key_id: str,
        *,
        overlap_seconds: int = OVERLAP_SECONDS_DEFAULT,
        expires_at: datetime | None = None,
        caller: Caller,
    ) -> MadeKey:
        """Make a successor with the same name and scopes. The old key stays in force for `overlap_seconds`.

        Without `expires_at` the successor gets the lifetime that the old key had. Raises NotFound, KeyNotChangeable (of
        the environment, not in force, or rotated already), KeyNotAllowed, Invalid or Unavailable.
        """

        def work(books: Books) -> MadeKey:
            old = _changeable(books, key_id)
            if old.state is not KeyState.ACTIVE:
                raise KeyNotChangeable(f"This key is {old.state}: make another one")
            if old.replaced_by is not None:
                raise KeyNotChangeable(f"This key was rotated already: its successor is {old.replaced_by}")
            end = expires_at
            if end is None and old.lifetime_seconds is not None:
                end = self._now() + timedelta(seconds=old.lifetime_seconds)
            self._check(old.kind, old.scopes, end, caller)
            made = _make(
                books,
                caller,
                name=old.name,
                kind=old.kind,
                scopes=old.scopes,
                expires_at=end,
                replaces=key_id,
            )
            ending = books.end_within(key_id, overlap_seconds)
            before = {"expires_at": old.expires_at}
            after = {"expires_at": ending.expires_at, "replaced_by": made.row.id}
            books.audit(caller, [Change("key.rotated", "key", key_id, before, after)])
            return made

        made = self._announced(work)
        log.info("key_rotated", key_id=key_id, name=made.row.name, replaced_by=made.row.id, actor=caller.actor)
        return made

    def revoke(self, key_id: str, *, caller: Caller) -> KeyRow:
        """Revoke a key: within a second no process accepts it any more. Idempotent.

        Raises NotFound, KeyNotChangeable (of the environment) or Unavailable.
        """

        def work(books: Books) -> KeyRow:
            old = _changeable(books, key_id)
            if old.state is KeyState.REVOKED:
                return old
            revoked = books.revoke(key_id, caller.actor)
            before, after = {"state": old.state, "name": old.name}, {"state": revoked.state}
            books.audit(caller, [Change("key.revoked", "key", key_id, before, after)])
            log.info("key_revoked", key_id=key_id, name=old.name, actor=caller.actor)
            return revoked

        return self._announced(work)

    def get(self, key_id: str) -> KeyRow:
        """Raises NotFound or Unavailable."""
        return self._books.read(lambda books: _found(books.find(key_id)))

    def list(self, limit: int, before_number: int = NEWEST, wanted: KeyFilter = ALL_KEYS) -> Page[KeyRow, int]:
        """Newest first; keys of the environment count as the oldest. Raises Unavailable."""
        return self._books.read(
            lambda books: page(
                lambda count: books.list_newest(wanted, before_number, count), lambda key: key.number, limit
            )
        )

    def _check(self, kind: KeyKind, scopes: Collection[KeyScope], expires_at: datetime | None, caller: Caller) -> None:
        if expires_at is not None and expires_at <= self._now():
            raise Invalid(errors={"expires_at": ["Must be in the future."]})
        # Any operator's key that may create keys may create keys of service servers, whatever their scopes.
        lacking = set(scopes) - set(caller.scopes) if kind is KeyKind.OPERATOR else set()
        if lacking:
            raise KeyNotAllowed(f"This key lacks the scopes that the other has: {', '.join(in_order(lacking))}")

    def _announced(self, work: Callable[[Books], T]) -> T:
        def announced(books: Books) -> T:
            books.announce()
            return work(books)

        result = self._books.transaction(announced)
        self._changes.show()
        return result


def _make(
    books: Books,
    caller: Caller,
    *,
    name: str,
    kind: KeyKind,
    scopes: Collection[KeyScope],
    expires_at: datetime | None,
    replaces: str | None = None,
) -> MadeKey:
    key_id, key = make_key(kind)
    row = books.add(
        key_id=key_id,
        name=name,
        kind=kind,
        scopes=in_order(scopes),
        digest=digest_of(key.encode()),
        created_by=caller.actor,
        expires_at=expires_at,
        replaces=replaces,
    )
    after = {"name": name, "kind": kind, "scopes": in_order(scopes), "expires_at": expires_at, "replaces": replaces}
    books.audit(caller, [Change("key.created", "key", key_id, after=after)])
    return MadeKey(row, key)


def _changeable(books: Books, key_id: str) -> KeyRow:
    key = _found(books.find(key_id))
    if key.is_of_environment:
        variable = "SERVER_API_KEY" if key.kind is KeyKind.SERVICE else "ADMIN_API_KEY"
        raise KeyNotChangeable(f"This key stands in {variable}: change it there and restart")
    return key


def _found(key: KeyRow | None) -> KeyRow:
    if key is None:
        raise NotFound("Key not found")
    return key
