"""What a key is, who a caller is, and a process's copy of the keys."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from app.access import key_ring
from app.access.clock import StoreClock
from app.access.key_ring import KeyRing
from app.domain.errors import KeyNotAllowed, Unavailable
from app.domain.keys import (
    SCOPES_OF_KIND,
    SYSTEM,
    ApiKey,
    Caller,
    KeyKind,
    KeyScope,
    caller_again,
    command_caller,
    digest_of,
    key_name,
    make_key,
    scopes_of,
)
from app.stores.postgres import api_keys


class TestKeys:
    @pytest.mark.parametrize("kind", KeyKind)
    def test_is_recognisable_and_says_its_id(self, kind: KeyKind) -> None:
        key_id, key = make_key(kind)
        found = re.fullmatch(r"tt_(service|operator)_([a-z2-9]{10})_([A-Za-z0-9]{43})", key)
        assert found is not None
        assert found.groups()[:2] == (kind, key_id)
        assert make_key(kind) != (key_id, key)

    def test_each_scope_is_of_one_kind(self) -> None:
        service, operator = (SCOPES_OF_KIND[kind] for kind in KeyKind)
        assert service | operator == set(KeyScope)
        assert service & operator == set()

    @pytest.mark.parametrize("names", [[], ["billing"], ["read", "billing"], ["nothing"], [None]])
    def test_no_scopes_of_an_operators_key(self, names: list[Any]) -> None:
        with pytest.raises(ValueError, match=r"^Must be some of read, wallets, "):
            scopes_of(KeyKind.OPERATOR, names)

    @pytest.mark.parametrize("name", ["chat", "Chat.backend-2_eu", "7", "x" * 64])
    def test_a_name(self, name: str) -> None:
        assert key_name(name) == name

    @pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a b", "-a", ".", "é", "admin", "Server", "cli", 7, None])
    def test_no_name(self, name: object) -> None:
        with pytest.raises(ValueError, match=r"^Must "):
            key_name(name)


class TestCallers:
    def test_the_first_slash_ends_the_keys_name(self) -> None:
        assert Caller("admin").actor == "admin"
        assert Caller("admin", person="anna/b").actor == "admin/anna/b"
        assert command_caller("carol", "root@host").actor == "cli/carol"
        assert SYSTEM.actor == "tokentill"

    @pytest.mark.parametrize("actor", ["admin", "admin/anna/b", "cli/root"])
    def test_is_again_who_it_was(self, actor: str) -> None:
        again = caller_again(actor, "request-7")
        assert (again.actor, again.request_id) == (actor, "request-7")

    def test_somebody_who_was_not_kept(self) -> None:
        assert caller_again(None, None) == SYSTEM

    def test_a_scope_that_is_lacking_is_named(self) -> None:
        caller = Caller("a", scopes=frozenset({KeyScope.READ}))
        caller.check(KeyScope.READ)
        with pytest.raises(KeyNotAllowed, match="lacks the scope wallets"):
            caller.check(KeyScope.WALLETS)


class FakePostgres:
    def __init__(self) -> None:
        self.is_away = False

    def run(self, work: Any) -> Any:
        if self.is_away:
            raise Unavailable
        return work(None)


class Ring:
    """A ring with a key of each kind in the environment, and those of `rows` in Postgres."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[ApiKey] = []
        self.loads = 0
        self.written: list[api_keys.Use] = []
        self.postgres = FakePostgres()
        self.clock = StoreClock()
        monkeypatch.setattr(api_keys, "in_force", self._load)
        monkeypatch.setattr(api_keys, "write_uses", lambda _, uses: self.written.extend(uses))
        environment = {KeyKind.SERVICE: ("service-key", "second"), KeyKind.OPERATOR: ("operator-key",)}
        self.ring = KeyRing(environment, postgres=cast(Any, self.postgres), clock=self.clock, offline_seconds_max=100)

    def _load(self, _: object) -> list[ApiKey]:
        self.loads += 1
        return list(self.rows)

    def add(self, text: str = "made", kind: KeyKind = KeyKind.SERVICE, **fields: Any) -> ApiKey:
        key = ApiKey(text, text, kind, SCOPES_OF_KIND[kind], digest_of(text.encode()), **fields)
        self.rows.append(key)
        return key

    def look(self, version: int) -> None:
        self.ring.look(cast(Any, None), version)

    def find(self, text: str, kind: KeyKind = KeyKind.SERVICE) -> ApiKey | None:
        return self.ring.find(kind, text, "192.0.2.1")


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    return Ring(monkeypatch)


class TestKeyRing:
    def test_the_environments_open_before_postgres_has_answered(self, ring: Ring) -> None:
        for text in ("service-key", "second"):
            found = ring.find(text)
            assert found is not None
            assert (found.id, found.name, found.scopes) == ("server", "server", SCOPES_OF_KIND[KeyKind.SERVICE])
        assert ring.find("operator-key") is None
        assert ring.find("operator-key", KeyKind.OPERATOR) is not None
        assert ring.find("service-key", KeyKind.OPERATOR) is None

    @pytest.mark.parametrize("text", ["", "wrong", "service-key ", "SERVICE-KEY", "é", "\u0100"])
    def test_wrong(self, ring: Ring, text: str) -> None:
        assert ring.find(text) is None

    def test_is_loaded_with_each_version_and_only_then(self, ring: Ring) -> None:
        key = ring.add()
        assert ring.find("made") is None
        for _ in range(3):
            ring.look(1)
        assert ring.loads == 1
        assert ring.find("made") == key
        assert ring.find("service-key") is not None
        ring.rows.clear()
        ring.look(2)
        assert ring.find("made") is None
        # An older Postgres is another one, too.
        ring.add()
        ring.look(1)
        assert ring.find("made") == key

    def test_expires_at_its_moment_without_a_look(self, ring: Ring) -> None:
        ring.add(expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
        ring.look(1)
        assert ring.find("made") is not None
        time.sleep(0.25)
        assert ring.find("made") is None

    def test_is_believed_for_so_long_without_postgres(self, ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
        ring.add()
        ring.look(1)
        now = time.monotonic()
        monkeypatch.setattr(key_ring.time, "monotonic", lambda: now + 99)
        assert ring.find("made") is not None
        monkeypatch.setattr(key_ring.time, "monotonic", lambda: now + 101)
        with pytest.raises(Unavailable):
            ring.find("made")
        assert ring.find("service-key") is not None
        assert ring.find("wrong") is None
        ring.look(1)
        assert ring.find("made") is not None

    def test_a_session_ends_with_its_key(self, ring: Ring) -> None:
        key = ring.add(kind=KeyKind.OPERATOR)
        ring.look(1)
        assert ring.ring.remembered(key.fingerprint, "192.0.2.1") == key
        assert key.digest.hex() not in key.fingerprint
        ring.rows.clear()
        ring.look(2)
        assert ring.ring.remembered(key.fingerprint, "192.0.2.1") is None

    def test_uses_are_written_now_and_then_the_last_of_each(self, ring: Ring) -> None:
        ring.add()
        ring.look(1)
        ring.find("made")
        before = datetime.now(UTC)
        for _ in range(100):
            ring.find("made")
        ring.find("service-key")
        ring.ring.write_uses()
        assert sorted(use.key_id for use in ring.written) == ["made", "server"]
        [made] = [use for use in ring.written if use.key_id == "made"]
        assert made.address == "192.0.2.1"
        assert abs(made.at - before) < timedelta(seconds=2)
        ring.find("made")
        ring.ring.write_uses()
        assert len(ring.written) == 2
        ring.ring.write_uses_now()
        assert len(ring.written) == 3

    def test_uses_wait_for_postgres(self, ring: Ring) -> None:
        ring.find("service-key")
        ring.postgres.is_away = True
        with pytest.raises(Unavailable):
            ring.ring.write_uses_now()
        ring.postgres.is_away = False
        ring.ring.write_uses_now()
        assert [use.key_id for use in ring.written] == ["server"]
