"""Draining over fake stores: each spooled end goes into the inbox by its own keys, or aside, and holds nobody up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import pytest
import sqlalchemy as sa
from uuid_utils.compat import uuid7

from app.domain.ends import AcceptedEnd, EndRequest
from app.domain.errors import Unavailable, WalletBusy
from app.domain.pricing import Price
from app.domain.reasons import FailureReason
from app.domain.usage import Usage
from app.domain.wallets import Balance, Deduction
from app.stores.postgres.inbox import KnownEnd
from app.stores.postgres.spool_aside import Aside
from app.stores.spool_entry import SpoolEntry
from app.upkeep.spool import SpoolDrain
from tests.unit.fakes import ALICE, FEATURE, TOKEN, FakeCache, FakeIntake

T = TypeVar("T")


class FakeInbox:
    """The inbox of `FakeIntake`, and what was put aside."""

    def __init__(self) -> None:
        self.intake = FakeIntake()
        self.aside: dict[SpoolEntry, Aside] = {}
        self.due: list[SpoolEntry] = []
        self.reused: list[UUID] = []
        self.refuses: dict[UUID, Exception] = {}
        self.dies = False

    def transaction(self, work: Callable[[Any], T]) -> T:
        return work(self)

    def insert(self, ends: Sequence[AcceptedEnd]) -> set[UUID]:
        for end in ends:
            if end.id in self.refuses:
                raise self.refuses[end.id]
        return self.intake.record(ends, lambda _: set())

    def known(self, requests: Sequence[EndRequest]) -> Sequence[KnownEnd]:
        return self.intake.known(requests)

    def bury_reused(self, ends: Sequence[AcceptedEnd]) -> None:
        self.reused += [end.id for end in ends]

    def put_aside(self, entries: Mapping[SpoolEntry, Aside]) -> None:
        self.aside |= entries

    def take_back(self, entries: Collection[SpoolEntry]) -> None:
        self.aside = {entry: aside for entry, aside in self.aside.items() if entry not in entries}

    def put_aside_before(self, seconds: float, limit: int) -> Sequence[SpoolEntry]:
        due, self.due = self.due[:limit], []
        return due


class FakeSpool:
    def __init__(self) -> None:
        self.entries: list[SpoolEntry] = []

    def take(self, limit: int) -> Sequence[SpoolEntry]:
        return self.entries[:limit]

    def remove(self, entries: Collection[SpoolEntry]) -> None:
        self.entries = [entry for entry in self.entries if entry not in entries]


class FakeSettlement:
    def __init__(self) -> None:
        self.settled: list[UUID] = []

    def settle(self, end_ids: Sequence[UUID]) -> object:
        self.settled += end_ids
        return None


class World:
    def __init__(self) -> None:
        self.inbox = FakeInbox()
        self.cache = FakeCache()
        self.cache.balances[ALICE] = Balance(100 * TOKEN)
        self.spool = FakeSpool()
        self.settlement = FakeSettlement()
        self.drain = SpoolDrain(
            inbox=self.inbox, cache=self.cache, records=self.cache, spool=self.spool, settlement=self.settlement
        ).drain

    def keep(self, key: str | None = None, output_tokens: int = 40) -> AcceptedEnd:
        """An end that was answered 200 while Postgres was away."""
        request = EndRequest("alice", FEATURE, Usage(10, output_tokens), idempotency_key=key)
        end = AcceptedEnd(uuid7(), ALICE, request, Price(10 * TOKEN, TOKEN), Deduction.COVERED, 89 * TOKEN)
        self.cache.marks[end.id] = ALICE
        self.spool.entries.append(SpoolEntry.of(end))
        return end


@pytest.fixture
def world() -> World:
    return World()


def test_kept_ends_go_into_the_inbox_and_are_settled(world: World) -> None:
    ends = [world.keep("a"), world.keep()]
    assert world.drain() == 2
    assert list(world.inbox.intake.rows.values()) == ends
    assert world.settlement.settled == [end.id for end in ends]
    assert not world.spool.entries
    assert set(world.cache.marks) == {end.id for end in ends}


def test_one_whose_drain_died_before_it_cleared_the_spool_is_not_billed_twice(world: World) -> None:
    end = world.keep("a")
    world.inbox.insert([end])
    assert world.drain() == 1
    assert list(world.inbox.intake.rows) == [end.id]
    assert end.id in world.cache.marks
    assert not world.inbox.reused


def test_one_that_was_billed_before_under_its_key_gives_its_mark_back(world: World) -> None:
    billed = replace(world.keep("a"), id=uuid7())
    world.inbox.insert([billed])
    world.drain()
    assert list(world.inbox.intake.rows) == [billed.id]
    assert not any((world.cache.marks, world.spool.entries))


def test_another_body_under_a_used_key_becomes_a_dead_letter(world: World) -> None:
    end = world.keep("a")
    world.inbox.insert([replace(end, id=uuid7(), request=replace(end.request, usage=Usage(10, 41)))])
    world.drain()
    assert world.inbox.reused == [end.id]
    assert not world.spool.entries


def test_a_body_that_only_a_newer_version_can_compare_waits_aside(world: World) -> None:
    end = world.keep("a")
    world.inbox.insert([replace(end, id=uuid7())])
    world.inbox.intake.keys = [replace(world.inbox.intake.keys[0], payload_hash="99:abc")]
    assert world.drain() == 0
    assert list(world.inbox.aside.values()) == [Aside(FailureReason.NEWER_PAYLOAD)]
    # It is tried again, and goes where it belongs once it can be compared.
    world.inbox.intake.keys = []
    world.inbox.due = [SpoolEntry.of(end)]
    assert world.drain() == 1
    assert not world.inbox.aside


def test_an_entry_that_can_not_be_read_is_put_aside_and_its_neighbours_go_on(world: World) -> None:
    world.spool.entries.append(SpoolEntry(b"x", b"not JSON"))
    end = world.keep()
    assert world.drain() == 1
    [(entry, aside)] = world.inbox.aside.items()
    assert (entry.field, aside.reason) == (b"x", FailureReason.UNREADABLE)
    assert list(world.inbox.intake.rows) == [end.id]
    assert not world.spool.entries


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (sa.exc.DataError("", {}, Exception("no such text")), FailureReason.DATABASE_REFUSED),
        (WalletBusy(), FailureReason.WALLET_BUSY),
    ],
)
def test_what_is_refused_is_found_by_halving_and_put_aside_alone(
    world: World, error: Exception, reason: FailureReason
) -> None:
    ends = [world.keep() for _ in range(5)]
    world.inbox.refuses[ends[3].id] = error
    assert world.drain() == 4
    assert [aside.reason for aside in world.inbox.aside.values()] == [reason]
    assert set(world.inbox.intake.rows) == {end.id for end in ends} - {ends[3].id}
    assert not world.spool.entries


def test_with_postgres_away_all_stays_kept(world: World) -> None:
    world.keep()
    world.inbox.intake.is_away = True
    with pytest.raises(Unavailable):
        world.drain()
    assert len(world.spool.entries) == len(world.cache.marks) == 1
    assert not world.inbox.aside
