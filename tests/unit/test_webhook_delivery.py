"""Delivering over fake books: what is taken, what an attempt's answer does to its endpoint, and who dies in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.domain.errors import Unavailable
from app.domain.keys import SYSTEM
from app.domain.webhooks import ATTEMPTS_MAX, RETRY_SECONDS, Answer, DeliveryState, DisabledReason, EndpointState
from app.stores.postgres.webhooks.deliveries import ClaimedDelivery
from app.stores.postgres.webhooks.endpoints import Endpoint
from app.webhooks.deliver import LEASE_MARGIN_SECONDS, SECONDS_PER_DAY, DeliveryPolicy, DeliveryService
from tests.unit.fake_deliveries import FakeDeliveryBooks
from tests.unit.fakes import NOW

URL = "https://shop.example.com/hooks"
SECRETS = ["whsec_" + 32 * "A", "whsec_" + 32 * "B"]
POLICY = DeliveryPolicy(timeout_seconds=5, at_once_max=3, disable_after_days=2)
TAKEN, BROKEN, GONE = Answer(0.1, 204), Answer(0.1, 500), Answer(0.1, 410)
BUSY = Answer(0.1, 429, retry_after_seconds=1_000)
LONG = 10.0


class World:
    def __init__(self) -> None:
        self.books = FakeDeliveryBooks()
        self.posted: list[dict[str, str]] = []
        self.answer: Answer | Callable[[], Answer] = TAKEN
        self.service = DeliveryService(
            books=self.books,
            sender=self,
            render=lambda claimed: f"{claimed.type} of {claimed.event_id.int}".encode(),
            policy=POLICY,
            now=self.now,
            chance=lambda: 0.0,
        )
        self.endpoint_id = self.books.transaction(self._endpoint)
        self.books.steps.clear()

    def _endpoint(self, books: FakeDeliveryBooks) -> int:
        made = books.add_endpoint(URL, (), None)
        for secret in SECRETS:
            books.add_secret(made.id, secret)
        return made.id

    def now(self) -> float:
        return self.books.now.timestamp()

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        self.posted.append({"url": url, "body": body.decode(), **headers})
        self.books.steps.append("posts")
        return self.answer if isinstance(self.answer, Answer) else self.answer()

    def happens(self, times: int = 1) -> list[UUID]:
        """Events that are to be delivered."""
        events = [self.books.happen() for _ in range(times)]
        self.books.deliver(self.endpoint_id, events)
        self.books.steps.clear()
        return events

    def change(self, **changes: Any) -> None:
        self.books.kept.endpoints[self.endpoint_id] = replace(self.endpoint, **changes)

    def passes(self, seconds: float) -> None:
        self.books.now += timedelta(seconds=seconds)

    def deliver(self, answer: Answer | None = None, seconds: float = LONG) -> bool:
        if answer is not None:
            self.answer = answer
        return self.service.deliver(self.endpoint_id, seconds)

    def take(self) -> ClaimedDelivery | None:
        """As another worker would."""

        def work(books: FakeDeliveryBooks) -> ClaimedDelivery | None:
            books.lock_endpoint(self.endpoint_id)
            return books.claim(self.endpoint_id, POLICY.at_once_max, POLICY.lease_seconds)

        return self.books.transaction(work)

    @property
    def endpoint(self) -> Endpoint:
        return self.books.kept.endpoints[self.endpoint_id]

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.books.kept.deliveries.values()]

    @property
    def due_at(self) -> datetime | None:
        [delivery] = self.books.kept.deliveries.values()
        return delivery.next_attempt_at


@pytest.fixture
def world() -> World:
    return World()


class TestTaking:
    def test_what_is_due_one_after_the_other_and_nothing_stays_open_meanwhile(self, world: World) -> None:
        events = world.happens(2)
        assert not world.deliver()
        assert [each["webhook-id"] for each in world.posted] == [str(event) for event in events]
        assert world.states == [DeliveryState.DELIVERED] * 2
        one = ["committed", "posts", "committed"]
        assert world.books.steps == [*one, *one, "committed"]

    def test_what_it_says_and_who_signs_it(self, world: World) -> None:
        [event] = world.happens()
        world.deliver()
        [posted] = world.posted
        assert (posted["url"], posted["body"]) == (URL, f"wallet.low_balance of {event.int}")
        assert posted["webhook-timestamp"] == str(int(NOW.timestamp()))
        assert posted["Content-Type"] == "application/json"
        assert len(posted["webhook-signature"].split()) == len(SECRETS)

    def test_time_that_is_over_leaves_the_rest_to_the_next_message(self, world: World) -> None:
        world.happens(2)
        assert world.deliver(seconds=0)
        assert len(world.posted) == 1
        assert not world.deliver()
        assert len(world.posted) == 2

    @pytest.mark.parametrize(
        "changes",
        [
            {"state": EndpointState.DISABLED},
            {"state": EndpointState.DELETED},
            {"paused_until": NOW + timedelta(seconds=1)},
        ],
        ids=["disabled", "deleted", "paused"],
    )
    def test_nothing_for_one_that_is_not_to_be_told(self, changes: dict[str, Any], world: World) -> None:
        world.happens()
        world.change(**changes)
        assert not world.deliver()
        assert world.posted == []
        assert world.books.leases == {}

    def test_a_pause_that_is_over(self, world: World) -> None:
        world.happens()
        world.change(paused_until=NOW)
        world.deliver()
        assert world.states == [DeliveryState.DELIVERED]

    @pytest.mark.parametrize(("failing_since", "room"), [(None, POLICY.at_once_max), (NOW, 1)], ids=["well", "failing"])
    def test_no_more_at_once_than_it_may(self, failing_since: datetime | None, room: int, world: World) -> None:
        world.happens(POLICY.at_once_max + 1)
        world.change(failing_since=failing_since)
        for _ in range(room - 1):
            assert world.take() is not None
        world.deliver(seconds=0)
        assert len(world.posted) == 1
        assert world.take() is not None
        world.change(failing_since=failing_since)
        world.deliver(seconds=0)
        assert len(world.posted) == 1

    def test_who_is_due(self, world: World) -> None:
        world.happens(POLICY.at_once_max + 1)
        [due] = world.service.due()
        assert (due.id, due.host, due.runners) == (world.endpoint_id, "shop.example.com", POLICY.at_once_max)


class TestFailing:
    def test_again_as_the_schedule_says_and_given_up_at_its_end(self, world: World) -> None:
        world.happens()
        for made in range(1, ATTEMPTS_MAX):
            world.change(failing_since=None)
            world.deliver(BROKEN)
            assert world.states == [DeliveryState.PENDING]
            assert world.due_at == world.books.now + timedelta(seconds=RETRY_SECONDS[made - 1])
            world.passes(RETRY_SECONDS[made - 1] - 1)
            world.deliver()
            assert len(world.posted) == made
            world.passes(1)
        world.change(failing_since=None)
        world.deliver()
        assert world.states == [DeliveryState.FAILED]
        assert len({each["webhook-id"] for each in world.posted}) == 1

    def test_since_the_first_failure_until_something_is_taken(self, world: World) -> None:
        world.happens()
        world.deliver(BROKEN)
        assert world.endpoint.failing_since == NOW
        world.passes(RETRY_SECONDS[0])
        world.deliver()
        assert world.endpoint.failing_since == NOW
        world.passes(RETRY_SECONDS[1])
        world.change(paused_until=NOW)
        world.deliver(TAKEN)
        assert (world.endpoint.failing_since, world.endpoint.paused_until) == (None, None)
        assert world.books.audited == []

    def test_patience_that_it_asks_for_is_for_all_that_it_gets(self, world: World) -> None:
        world.happens(2)
        world.deliver(BUSY)
        assert len(world.posted) == 1
        assert world.endpoint.paused_until == NOW + timedelta(seconds=1_000)
        assert world.service.due() == []
        world.passes(1_000)
        world.deliver(TAKEN)
        assert world.states == [DeliveryState.DELIVERED] * 2

    def test_gone_is_disabled_at_once(self, world: World) -> None:
        world.happens(2)
        assert not world.deliver(GONE)
        assert len(world.posted) == 1
        assert (world.endpoint.state, world.endpoint.disabled_reason) == (EndpointState.DISABLED, DisabledReason.GONE)
        [change] = world.books.changes_by(SYSTEM.actor)
        assert (change.action, change.subject_id) == ("webhook_endpoint.disabled", str(world.endpoint_id))
        assert change.before == {"state": "enabled"}
        assert change.after == {"state": "disabled", "disabled_reason": "gone", "last_error": "status"}

    @pytest.mark.parametrize("answer", [BROKEN, BUSY], ids=["broken", "busy"])
    def test_days_of_failures_disable(self, answer: Answer, world: World) -> None:
        world.happens()
        world.change(failing_since=NOW - timedelta(seconds=POLICY.disable_after_days * SECONDS_PER_DAY - 1))
        world.deliver(answer)
        assert world.endpoint.state is EndpointState.ENABLED
        world.passes(1_000)
        world.deliver()
        assert world.endpoint.disabled_reason is DisabledReason.FAILING

    @pytest.mark.parametrize("state", [EndpointState.DISABLED, EndpointState.DELETED])
    def test_what_becomes_of_it_meanwhile_stays(self, state: EndpointState, world: World) -> None:
        [event] = world.happens()

        def meanwhile() -> Answer:
            world.change(state=state, disabled_reason=DisabledReason.OPERATOR)
            return GONE

        world.answer = meanwhile
        world.deliver()
        assert (world.endpoint.state, world.endpoint.disabled_reason) == (state, DisabledReason.OPERATOR)
        assert world.endpoint.failing_since is None
        assert world.books.audited == []
        delivery = world.books.delivery(event, world.endpoint_id)
        assert delivery is not None
        assert (delivery.attempts, delivery.last_status) == (1, 410)


class TestDying:
    def test_an_answer_that_could_not_be_noted_is_asked_for_again_under_the_same_id(self, world: World) -> None:
        [event] = world.happens()
        world.books.is_away = True
        with pytest.raises(Unavailable):
            world.deliver()
        world.books.is_away = False
        # Nobody else is at it while its lease lasts: longer than an attempt may.
        assert world.deliver() is False
        assert len(world.posted) == 1
        world.passes(POLICY.timeout_seconds + LEASE_MARGIN_SECONDS - 1)
        world.deliver()
        assert len(world.posted) == 1
        world.passes(1)
        world.deliver()
        assert [each["webhook-id"] for each in world.posted] == [str(event)] * 2
        assert world.states == [DeliveryState.DELIVERED]

    @pytest.mark.parametrize(("answer", "state"), [(TAKEN, DeliveryState.DELIVERED), (BROKEN, DeliveryState.PENDING)])
    def test_a_lease_that_is_somebody_elses_by_now(self, answer: Answer, state: DeliveryState, world: World) -> None:
        world.happens()

        def slow() -> Answer:
            world.passes(POLICY.lease_seconds)
            assert world.take() is not None
            return answer

        world.answer = slow
        world.deliver(seconds=0)
        assert world.states == [state]
        # What failed is the other's to try again.
        assert bool(world.books.leases) is (answer is BROKEN)
