"""API keys over fake books: who may make which, what may be rotated and revoked, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.audit import Change
from app.domain.errors import AlreadyExists, Invalid, KeyNotAllowed, KeyNotChangeable, NotFound
from app.domain.keys import Caller, KeyKind, KeyScope, digest_of
from app.operations.keys import KeyAdmin, MadeKey
from app.stores.postgres.api_keys import KeyFilter, KeyState
from tests.unit.fake_keys import FakeKeyBooks
from tests.unit.fakes import NOW

# Announced first: who changes keys next waits, and sees what this one has made. Shown once it is committed.
CHANGED = ["announced", "committed", "shown"]
READ, WRITE, KEYS = KeyScope.READ, KeyScope.CATALOG, KeyScope.KEYS
ANN = Caller("ann", KeyKind.OPERATOR, frozenset({READ, KEYS}))


class World:
    def __init__(self) -> None:
        self.books = FakeKeyBooks()
        self.admin = KeyAdmin(books=self.books, changes=self.books, now=lambda: NOW)

    def make(self, name: str = "shop", *scopes: KeyScope, **values: Any) -> MadeKey:
        return self.admin.create(name, KeyKind.OPERATOR, scopes or (READ,), **{"caller": ANN, **values})

    def begin(self) -> None:
        self.books.steps.clear()
        self.books.audited.clear()

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = dict(self.books.keys)
        self.begin()
        with pytest.raises(error) as refused:
            call()
        assert (self.books.keys, self.books.audited) == (before, [])
        # What needs no look at other keys is refused before.
        assert self.books.steps in ([], ["announced", "rolled back"])
        return refused.value

    @property
    def audited(self) -> list[Change]:
        assert self.books.audited
        return self.books.changes_by("ann")


@pytest.fixture
def world() -> World:
    return World()


class TestMaking:
    def test_the_key_is_told_once_and_kept_as_a_hash(self, world: World) -> None:
        made = world.make("shop", KEYS, READ)
        assert world.books.keys == {made.row.id: made.row}
        assert made.row.id in made.key
        assert world.books.digests == {made.row.id: digest_of(made.key.encode())}
        assert made.key not in repr(world.books.audited) + repr(made.row)
        assert (made.row.name, made.row.kind, made.row.scopes) == ("shop", KeyKind.OPERATOR, frozenset({READ, KEYS}))
        assert (made.row.created_by, made.row.expires_at) == ("ann", None)
        assert world.books.steps == CHANGED

    def test_is_written_down(self, world: World) -> None:
        made = world.make("shop", KEYS, READ, expires_at=NOW + timedelta(days=1))
        after = {
            "name": "shop",
            "kind": "operator",
            "scopes": [READ, KEYS],
            "expires_at": NOW + timedelta(days=1),
            "replaces": None,
        }
        assert world.audited == [Change("key.created", "key", made.row.id, after=after)]

    def test_a_name_is_one_keys_at_a_time(self, world: World) -> None:
        first = world.make()
        error = world.refuses(AlreadyExists, world.make)
        assert (list(error.errors), world.books.steps) == (["name"], ["announced", "rolled back"])
        world.admin.revoke(first.row.id, caller=ANN)
        assert world.make().row.id != first.row.id

    @pytest.mark.parametrize("moment", [NOW, NOW - timedelta(seconds=1)])
    def test_no_end_that_is_over(self, world: World, moment: datetime) -> None:
        error = world.refuses(Invalid, lambda: world.make(expires_at=moment))
        assert list(error.errors) == ["expires_at"]

    def test_nobody_gives_what_they_lack(self, world: World) -> None:
        world.refuses(KeyNotAllowed, lambda: world.make("shop", READ, WRITE))
        # Service servers' keys open nothing of operators.
        made = world.admin.create("till", KeyKind.SERVICE, (KeyScope.BILLING,), caller=ANN)
        assert made.row.kind is KeyKind.SERVICE


class TestRotating:
    def test_a_successor_and_an_end_for_the_old_one(self, world: World) -> None:
        old = world.make("shop", KEYS, READ).row
        world.begin()
        new = world.admin.rotate(old.id, overlap_seconds=60, caller=ANN)
        assert (new.row.name, new.row.kind, new.row.scopes) == (old.name, old.kind, old.scopes)
        assert (new.row.replaces, new.row.expires_at) == (old.id, None)
        assert world.books.digests[new.row.id] == digest_of(new.key.encode())
        end = NOW + timedelta(seconds=60)
        assert world.books.keys[old.id].expires_at == end
        assert world.books.steps == CHANGED
        created, rotated = world.audited
        assert (created.action, created.subject_id) == ("key.created", new.row.id)
        assert (created.after or {})["replaces"] == old.id
        after = {"expires_at": end, "replaced_by": new.row.id}
        assert rotated == Change("key.rotated", "key", old.id, {"expires_at": None}, after)

    def test_lives_as_long_as_the_old_one_was_to_live(self, world: World) -> None:
        old = world.make(expires_at=NOW + timedelta(days=2)).row
        # Half of it is over.
        world.books.keys[old.id] = replace(old, expires_at=NOW + timedelta(days=1))
        assert world.admin.rotate(old.id, caller=ANN).row.expires_at == NOW + timedelta(days=2)

    def test_unless_it_is_told_otherwise(self, world: World) -> None:
        old = world.make(expires_at=NOW + timedelta(days=2)).row
        end = NOW + timedelta(days=9)
        assert world.admin.rotate(old.id, expires_at=end, caller=ANN).row.expires_at == end

    def test_only_what_is_in_force(self, world: World) -> None:
        for state in (KeyState.REVOKED, KeyState.EXPIRED):
            key = world.make(f"is-{state}").row
            world.books.keys[key.id] = replace(key, state=state)
            error = world.refuses(KeyNotChangeable, lambda key_id=key.id: world.admin.rotate(key_id, caller=ANN))
            assert state in error.message

    def test_only_once(self, world: World) -> None:
        old = world.make().row
        new = world.admin.rotate(old.id, caller=ANN).row
        error = world.refuses(KeyNotChangeable, lambda: world.admin.rotate(old.id, caller=ANN))
        assert new.id in error.message

    def test_nobody_gets_more_than_they_have(self, world: World) -> None:
        key = world.make("shop", WRITE, caller=replace(ANN, scopes=frozenset(KeyScope))).row
        world.refuses(KeyNotAllowed, lambda: world.admin.rotate(key.id, caller=ANN))

    def test_no_end_that_is_over(self, world: World) -> None:
        key = world.make().row
        world.refuses(Invalid, lambda: world.admin.rotate(key.id, expires_at=NOW, caller=ANN))


class TestRevoking:
    def test_at_once(self, world: World) -> None:
        key = world.make().row
        world.begin()
        revoked = world.admin.revoke(key.id, caller=Caller("ben"))
        assert (revoked.state, revoked.revoked_by) == (KeyState.REVOKED, "ben")
        assert (world.books.keys[key.id], world.books.steps) == (revoked, CHANGED)
        before, after = {"state": "active", "name": "shop"}, {"state": "revoked"}
        assert world.books.audited == [("ben", Change("key.revoked", "key", key.id, before, after))]

    def test_done_once_it_is_done(self, world: World) -> None:
        key = world.make().row
        first = world.admin.revoke(key.id, caller=ANN)
        world.begin()
        assert world.admin.revoke(key.id, caller=Caller("ben")) == first
        assert world.books.audited == []


class TestOthers:
    @pytest.mark.parametrize(
        ("kind", "variable"), [(KeyKind.SERVICE, "SERVER_API_KEY"), (KeyKind.OPERATOR, "ADMIN_API_KEY")]
    )
    def test_those_of_the_environment_are_changed_there(self, world: World, kind: KeyKind, variable: str) -> None:
        key = replace(world.make().row, kind=kind, is_of_environment=True)
        world.books.keys[key.id] = key
        for change in (world.admin.rotate, world.admin.revoke):
            error = world.refuses(KeyNotChangeable, lambda change=change: change(key.id, caller=ANN))
            assert variable in error.message

    def test_unknown(self, world: World) -> None:
        world.refuses(NotFound, lambda: world.admin.rotate("none", caller=ANN))
        world.refuses(NotFound, lambda: world.admin.revoke("none", caller=ANN))
        world.refuses(NotFound, lambda: world.admin.get("none"))

    def test_newest_first(self, world: World) -> None:
        keys = [world.make(name).row for name in ("a", "b", "c")]
        page = world.admin.list(2)
        assert (page.items, page.next_key) == ([keys[2], keys[1]], 2)
        assert world.admin.list(2, 2).items == [keys[0]]
        assert world.admin.list(9, wanted=KeyFilter(name="b")).items == [keys[1]]
        assert world.admin.get(keys[0].id) == keys[0]
