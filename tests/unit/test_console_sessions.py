"""Who is signed in to the console, over fake books: as good as their key, ended with it, and no form done twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest

from app.domain.errors import InvalidApiKey, Unavailable
from app.domain.keys import Caller, KeyKind, digest_of, fingerprint_of
from app.operations import console_sessions
from app.operations.console_sessions import IDLE_MAX, LIFETIME, TOUCH_AFTER, ConsoleSessions, Session, hash_of
from app.stores.postgres.console import FormRow, SessionRow
from tests.unit.fake_bookkeeping import FakeBookKeeping
from tests.unit.fakes import NOW

T = TypeVar("T")
KEY = "tt_operator_key"
FORM = UUID(int=7)


@dataclass(eq=False)
class FakeConsoleBooks(FakeBookKeeping):
    """Sessions by the hash of their token, and the forms of each. `looks` is what happens whenever somebody looks."""

    sessions: dict[bytes, SessionRow] = field(default_factory=dict)
    forms: dict[tuple[bytes, UUID], FormRow] = field(default_factory=dict)
    at: datetime = NOW
    touched: list[bytes] = field(default_factory=list)
    looks: list[Callable[[], None]] = field(default_factory=list)
    refuses: bool = False

    def delete_expired(self, idle_max: timedelta) -> None:
        self.sessions = {key: row for key, row in self.sessions.items() if self._is_open(row, idle_max)}

    def add_session(
        self,
        *,
        token_hash: bytes,
        key_id: str | None,
        key_fingerprint: str,
        person: str | None,
        address: str,
        lifetime: timedelta,
    ) -> None:
        if self.refuses:
            raise Unavailable
        row = SessionRow(token_hash, key_fingerprint, person, self.at, self.at, self.at + lifetime, self.at)
        self.sessions[token_hash] = row

    def find_session(self, token_hash: bytes, idle_max: timedelta) -> SessionRow | None:
        row = self.sessions.get(token_hash)
        return None if row is None or not self._is_open(row, idle_max) else replace(row, now=self.at)

    def touch_session(self, token_hash: bytes) -> None:
        self.touched.append(token_hash)
        self.sessions[token_hash] = replace(self.sessions[token_hash], seen_at=self.at)

    def delete_session(self, token_hash: bytes) -> None:
        del self.sessions[token_hash]

    def claim_form(self, session_hash: bytes, form_id: UUID) -> bool:
        nobody = FormRow(None, None)
        return self.forms.setdefault((session_hash, form_id), nobody) is nobody

    def find_form(self, session_hash: bytes, form_id: UUID) -> FormRow | None:
        if self.looks:
            self.looks.pop(0)()
        return self.forms.get((session_hash, form_id))

    def finish_form(self, session_hash: bytes, form_id: UUID, location: str, message: str) -> None:
        self.forms[session_hash, form_id] = FormRow(location, message)

    def release_form(self, session_hash: bytes, form_id: UUID) -> None:
        self.forms.pop((session_hash, form_id), None)

    def _is_open(self, row: SessionRow, idle_max: timedelta) -> bool:
        return row.expires_at > self.at and row.seen_at > self.at - idle_max


class FakeAuthentication:
    """Knows one key. `is_in_force` is whether it opens anything."""

    is_in_force = True

    def caller(self, kind: KeyKind, given: str, address: str, request_id: str | None = None) -> Caller:
        if (kind, given) != (KeyKind.OPERATOR, KEY):
            raise InvalidApiKey
        return Caller("ops", kind, key_id="k1", address=address, request_id=request_id)

    def remembered(self, fingerprint: str, address: str, request_id: str | None = None) -> Caller:
        if not self.is_in_force or fingerprint != fingerprint_of(digest_of(KEY.encode())):
            raise InvalidApiKey
        return self.caller(KeyKind.OPERATOR, KEY, address, request_id)


class World:
    def __init__(self) -> None:
        self.books = FakeConsoleBooks()
        self.authentication = FakeAuthentication()
        self.sessions = ConsoleSessions(books=self.books, authentication=self.authentication)

    def open(self, person: str | None = "ann") -> str:
        return self.sessions.open(KEY, person=person, address="10.0.0.1")

    def find(self, token: str, **values: Any) -> Session | None:
        return self.sessions.find(token, address="10.0.0.2", request_id="r", **values)


@pytest.fixture
def world() -> World:
    return World()


class TestSessions:
    def test_is_who_has_signed_in_from_wherever_they_are_now(self, world: World) -> None:
        token = world.open()
        found = world.find(token)
        assert found is not None
        caller = found.caller
        assert (caller.actor, caller.address, caller.request_id) == ("ops/ann", "10.0.0.2", "r")
        assert world.find(world.open(person=None)).caller.actor == "ops"  # type: ignore[union-attr]

    def test_neither_token_nor_key_is_kept(self, world: World) -> None:
        token = world.open()
        assert list(world.books.sessions) == [hash_of(token)]
        kept = repr(world.books.sessions)
        assert token not in kept
        assert KEY not in kept
        assert digest_of(KEY.encode()).hex() not in kept
        assert world.open() != token

    def test_a_wrong_key_opens_none(self, world: World) -> None:
        with pytest.raises(InvalidApiKey):
            world.sessions.open("other", person="ann", address="10.0.0.1")
        assert world.books.sessions == {}
        assert world.find("token of nobody") is None

    @pytest.mark.parametrize(
        ("idle", "is_open"), [(IDLE_MAX - timedelta(seconds=1), True), (IDLE_MAX + timedelta(seconds=1), False)]
    )
    def test_ends_when_nobody_does_anything(self, world: World, idle: timedelta, is_open: bool) -> None:
        token = world.open()
        world.books.at += idle
        assert (world.find(token) is not None) == is_open

    def test_ends_after_its_time_whatever_happens(self, world: World) -> None:
        token = world.open()
        while world.books.at < NOW + LIFETIME:
            assert world.find(token) is not None
            world.books.at += IDLE_MAX / 2
        assert world.find(token) is None

    def test_ends_with_its_key(self, world: World) -> None:
        token = world.open()
        world.authentication.is_in_force = False
        assert world.find(token) is None

    def test_ends_when_it_is_closed(self, world: World) -> None:
        token, other = world.open(), world.open()
        found = world.find(token)
        assert found is not None
        world.sessions.close(found)
        assert (world.find(token), world.find(other) is not None) == (None, True)

    def test_what_has_expired_is_taken_away_when_somebody_signs_in(self, world: World) -> None:
        world.open()
        world.books.at += IDLE_MAX
        token = world.open()
        assert list(world.books.sessions) == [hash_of(token)]

    def test_but_not_by_a_sign_in_that_fails(self, world: World) -> None:
        world.open()
        before = dict(world.books.sessions)
        world.books.at += IDLE_MAX
        world.books.refuses = True
        with pytest.raises(Unavailable):
            world.open()
        assert world.books.sessions == before


class TestUse:
    @pytest.mark.parametrize(
        ("after", "is_touched"), [(TOUCH_AFTER - timedelta(seconds=1), False), (TOUCH_AFTER, True)]
    )
    def test_is_written_down_once_a_minute(self, world: World, after: timedelta, is_touched: bool) -> None:
        token = world.open()
        world.books.at += after
        world.find(token)
        world.find(token)
        assert world.books.touched == [hash_of(token)] * is_touched

    def test_a_page_that_updates_itself_is_none(self, world: World) -> None:
        token = world.open()
        world.books.at += TOUCH_AFTER
        assert world.find(token, touches=False) is not None
        assert world.books.touched == []

    def test_nor_is_one_of_a_key_that_is_over(self, world: World) -> None:
        token = world.open()
        world.books.at += TOUCH_AFTER
        world.authentication.is_in_force = False
        world.find(token)
        assert world.books.touched == []


class TestForms:
    @pytest.fixture
    def session(self, world: World, monkeypatch: pytest.MonkeyPatch) -> Session:
        monkeypatch.setattr(console_sessions, "FORM_POLL_SECONDS", 0)
        found = world.find(world.open())
        assert found is not None
        return found

    def test_is_done_by_whoever_sends_it_first(self, world: World, session: Session) -> None:
        assert world.sessions.claim_form(session, FORM) is None
        world.sessions.finish_form(session, FORM, location="/wallets", message="Done")
        again = world.sessions.claim_form(session, FORM)
        assert again == world.sessions.form(session, FORM) == FormRow("/wallets", "Done")

    def test_the_second_waits_for_what_becomes_of_it(self, world: World, session: Session) -> None:
        world.sessions.claim_form(session, FORM)

        def finish() -> None:
            world.sessions.finish_form(session, FORM, location="/wallets", message="Done")

        world.books.looks = [lambda: None, finish]
        assert world.sessions.claim_form(session, FORM) == FormRow("/wallets", "Done")

    def test_but_not_for_ever(self, world: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(console_sessions, "FORM_SECONDS_MAX", 0)
        world.sessions.claim_form(session, FORM)
        assert world.sessions.claim_form(session, FORM) == FormRow(None, None)

    def test_one_that_was_refused_is_done_by_whoever_waits(
        self, world: World, session: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.sessions.claim_form(session, FORM)
        world.books.looks = [lambda: None, lambda: world.sessions.release_form(session, FORM)]
        assert world.sessions.claim_form(session, FORM) is None
        # And by nobody else.
        monkeypatch.setattr(console_sessions, "FORM_SECONDS_MAX", 0)
        assert world.sessions.claim_form(session, FORM) == FormRow(None, None)
        world.sessions.finish_form(session, FORM, location="/", message="Done")
        assert world.sessions.claim_form(session, FORM) == FormRow("/", "Done")

    def test_of_another_session_is_another_one(self, world: World, session: Session) -> None:
        other = world.find(world.open())
        assert other is not None
        assert world.sessions.claim_form(session, FORM) is None
        assert world.sessions.claim_form(other, FORM) is None
