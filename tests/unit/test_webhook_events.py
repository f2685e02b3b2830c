"""Events over fake books: to whom one is delivered again, what is shown of it, and how long it is kept."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any
from uuid import UUID

import pytest

from app.domain.audit import Change
from app.domain.errors import NotFound
from app.domain.keys import Caller
from app.domain.webhooks import DeliveryState, EndpointState, EventType
from app.stores.postgres.webhooks.deliveries import DeliveryFilter
from app.stores.postgres.webhooks.events import EventFilter
from app.webhooks.events import PRUNED_AT_ONCE, WebhookEvents
from tests.unit.fake_webhooks import FakeWebhookBooks

ANN = Caller("ann")
DAY_SECONDS = 86_400


class World:
    """An event that was delivered to one endpoint, and failed at another; a third hasn't been told of it."""

    def __init__(self) -> None:
        self.books = FakeWebhookBooks()
        self.events = WebhookEvents(books=self.books, retention_days=30)
        self.got, self.failed, self.third = (self.endpoint() for _ in range(3))
        self.event_id = self.books.happen()
        for number, state in ((self.failed, DeliveryState.FAILED), (self.got, DeliveryState.DELIVERED)):
            self.books.deliver(number, [self.event_id])
            self.books.attempt(self.event_id, number, state)
        self.books.steps.clear()

    def endpoint(self) -> int:
        return self.books.add_endpoint("https://shop.example.com/hooks", (), None).id

    def delete(self, endpoint_id: int) -> None:
        self.books.lock_endpoint(endpoint_id)
        self.books.update_endpoint(endpoint_id, {"state": EndpointState.DELETED})

    def receivers(self) -> list[int]:
        """To whom the event is on its way."""
        numbers = (self.got, self.failed, self.third)
        return [number for number in numbers if self.event_id in self.books.pending(number)]

    def refuses(self, call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = deepcopy((self.books.kept, self.books.audited))
        with pytest.raises(NotFound) as refused:
            call()
        assert (self.books.kept, self.books.audited) == before
        return refused.value


@pytest.fixture
def world() -> World:
    return World()


class TestReplaying:
    def test_to_all_that_it_was_for(self, world: World) -> None:
        view = world.events.replay(world.event_id, caller=ANN)
        assert world.receivers() == [world.got, world.failed]
        # As it is after that, with what was tried before.
        states = [(each.delivery.state, each.delivery.attempts, len(each.attempts)) for each in view.deliveries]
        assert states == [(DeliveryState.PENDING, 0, 1)] * 2
        assert view.event.id == world.event_id
        told = {"endpoint_ids": [world.got, world.failed]}
        change = Change("webhook_event.replayed", "webhook_event", str(world.event_id), after=told)
        assert world.books.audited == [("ann", change)]
        assert world.books.steps == ["delivers 1", "delivers 1", "committed"]

    def test_or_to_one_that_may_be_told_for_the_first_time(self, world: World) -> None:
        world.events.replay(world.event_id, world.third, ANN)
        assert world.receivers() == [world.third]
        [(_, change)] = world.books.audited
        assert change.after == {"endpoint_ids": [world.third]}

    def test_to_those_that_there_still_are(self, world: World) -> None:
        world.delete(world.got)
        world.events.replay(world.event_id, caller=ANN)
        assert world.receivers() == [world.failed]
        [(_, change)] = world.books.audited
        assert change.after == {"endpoint_ids": [world.failed]}

    def test_to_nobody(self, world: World) -> None:
        world.delete(world.got)
        for number in (world.got, 99):
            error = world.refuses(lambda number=number: world.events.replay(world.event_id, number, ANN))
            assert list(error.errors) == ["endpoint_id"]
        world.delete(world.failed)
        assert list(world.refuses(lambda: world.events.replay(world.event_id, caller=ANN)).errors) == ["endpoint_id"]

    def test_one_that_there_is_not(self, world: World) -> None:
        world.refuses(lambda: world.events.replay(UUID(int=99), world.third, ANN))


class TestLooking:
    def test_each_attempt_of_one(self, world: World) -> None:
        view = world.events.get(world.event_id)
        told = [(each.delivery.endpoint_id, each.delivery.state, len(each.attempts)) for each in view.deliveries]
        assert told == [(world.got, DeliveryState.DELIVERED, 1), (world.failed, DeliveryState.FAILED, 1)]
        delivery = view.deliveries[0].delivery
        assert world.events.delivery(delivery.id) == view.deliveries[0]
        world.refuses(lambda: world.events.get(UUID(int=99)))
        world.refuses(lambda: world.events.delivery(99))

    def test_newest_first_without_their_attempts(self, world: World) -> None:
        other = world.books.happen(EventType.DEPLETED)
        page = world.events.list(EventFilter(), 1)
        assert ([view.event.id for view in page.items], page.next_key) == ([other], str(other))
        [view] = world.events.list(EventFilter(), 1, str(other)).items
        assert (view.event.id, [each.attempts for each in view.deliveries]) == (world.event_id, [(), ()])
        [view] = world.events.list(EventFilter(type=EventType.DEPLETED), 9).items
        assert view.event.id == other

    def test_deliveries_newest_first(self, world: World) -> None:
        page = world.events.deliveries(DeliveryFilter(), 1)
        assert ([each.endpoint_id for each in page.items], page.next_key) == ([world.got], page.items[0].id)
        assert page.next_key is not None
        assert [each.endpoint_id for each in world.events.deliveries(DeliveryFilter(), 1, page.next_key).items] == [
            world.failed
        ]
        assert world.events.deliveries(DeliveryFilter(endpoint_id=world.third), 9).items == []

    def test_how_many_wait(self, world: World) -> None:
        assert (world.events.counts().pending, world.events.counts().failed) == (0, 1)


class TestForgetting:
    def test_what_nobody_got_is_kept_longer(self, world: World) -> None:
        assert world.events.prune() == 0
        assert world.books.pruned == [(30 * DAY_SECONDS, 90 * DAY_SECONDS)]

    @pytest.mark.parametrize(("events", "parts"), [(1, 1), (PRUNED_AT_ONCE, 2), (2 * PRUNED_AT_ONCE + 1, 3)])
    def test_many_in_parts(self, world: World, events: int, parts: int) -> None:
        world.books.prunable = events
        assert world.events.prune() == events
        assert world.books.steps == ["committed"] * parts
