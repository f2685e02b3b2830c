"""Endpoints over fake books: which URLs are taken, which secrets sign for how long, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.audit import Change
from app.domain.errors import Invalid, NotFound, NotReady
from app.domain.keys import SYSTEM, Caller
from app.domain.webhook_secrets import SECRETS_MAX, checked_secret, new_secret
from app.domain.webhooks import DeliveryState, DisabledReason, EndpointState, EventType
from app.webhooks.endpoints import (
    ENDPOINTS_MAX,
    EVENTS_PER_REPLAY,
    OVERLAP_SECONDS_DEFAULT,
    NewSecret,
    WebhookEndpoints,
)
from tests.unit.fake_webhooks import FakeWebhookBooks
from tests.unit.fakes import NOW

ANN = Caller("ann")
URL, OTHER_URL = "https://shop.example.com/hooks", "https://till.example.com/hooks"
NOT_PUBLIC = ("http://shop.example.com/", "https://10.0.0.1/", "https://localhost/", "https://[::1]/")


class World:
    def __init__(self, *, allow_private: bool = False) -> None:
        self.books = FakeWebhookBooks()
        self.endpoints = WebhookEndpoints(books=self.books, allow_private=allow_private)

    def make(self, url: str = URL, **values: Any) -> NewSecret:
        return self.endpoints.create(url, **{"caller": ANN, **values})

    def begin(self, **values: Any) -> int:
        """An endpoint of which nothing has been told yet."""
        made = self.make(**values)
        self.books.steps.clear()
        self.books.audited.clear()
        return made.view.endpoint.id

    def signing(self, endpoint_id: int) -> list[str]:
        return [each.secret for each in self.books.secrets(endpoint_id)]

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = deepcopy((self.books.kept, self.books.audited))
        self.books.steps.clear()
        with pytest.raises(error) as refused:
            call()
        assert (self.books.kept, self.books.audited) == before
        # What needs no look at others is refused before.
        assert self.books.steps in ([], ["rolled back"])
        return refused.value

    @property
    def audited(self) -> list[Change]:
        return self.books.changes_by("ann")


@pytest.fixture
def world() -> World:
    return World()


class TestMaking:
    def test_enabled_from_now_on_with_one_secret_that_is_told_once(self, world: World) -> None:
        made = world.make(event_types=["wallet.topped_up", "wallet.depleted", "wallet.topped_up"], description="Shop")
        endpoint = made.view.endpoint
        assert world.books.kept.endpoints == {endpoint.id: endpoint}
        assert (endpoint.url, endpoint.description, endpoint.state) == (URL, "Shop", EndpointState.ENABLED)
        assert endpoint.event_types == ["wallet.depleted", "wallet.topped_up"]
        assert world.signing(endpoint.id) == [made.secret]
        assert [(each.secret, each.expires_at) for each in made.view.secrets] == [(made.secret, None)]
        assert world.books.steps == ["committed"]

    def test_secrets_are_those_of_standard_webhooks_and_each_another(self, world: World) -> None:
        first, second = world.make(), world.make()
        assert checked_secret(first.secret) != checked_secret(second.secret)

    def test_or_a_secret_of_somebodys_own(self, world: World) -> None:
        own = new_secret()
        made = world.make(secret=own)
        assert (made.secret, world.signing(made.view.endpoint.id)) == (own, [own])

    def test_is_written_down_without_the_secret(self, world: World) -> None:
        made = world.make(event_types=["wallet.depleted"], description="Shop")
        after = {
            "url": URL,
            "description": "Shop",
            "event_types": ["wallet.depleted"],
            "state": "enabled",
            "disabled_reason": None,
        }
        number = str(made.view.endpoint.id)
        assert world.audited == [Change("webhook_endpoint.created", "webhook_endpoint", number, after=after)]
        assert made.secret not in repr(world.audited)

    @pytest.mark.parametrize("url", NOT_PUBLIC)
    def test_https_and_public_addresses_only(self, world: World, url: str) -> None:
        assert list(world.refuses(Invalid, lambda: world.make(url)).errors) == ["url"]
        assert world.books.steps == []

    @pytest.mark.parametrize("url", NOT_PUBLIC)
    def test_unless_private_ones_are_allowed(self, url: str) -> None:
        assert World(allow_private=True).make(url).view.endpoint.url == url

    def test_so_many_and_no_more(self, world: World) -> None:
        numbers = [world.make().view.endpoint.id for _ in range(ENDPOINTS_MAX)]
        error = world.refuses(Invalid, world.make)
        assert error.errors == {"url": [f"There are {ENDPOINTS_MAX} endpoints already."]}
        # One that is gone counts no more.
        world.endpoints.delete(numbers[0], ANN)
        world.make()


class TestChanging:
    def test_only_what_is_given(self, world: World) -> None:
        number = world.begin(description="Shop")
        changed = world.endpoints.update(number, {"url": OTHER_URL}, ANN)
        assert (changed.endpoint.url, changed.endpoint.description) == (OTHER_URL, "Shop")
        assert changed.endpoint == world.books.kept.endpoints[number]
        change = Change("webhook_endpoint.updated", "webhook_endpoint", str(number), {"url": URL}, {"url": OTHER_URL})
        assert (world.audited, world.books.steps) == ([change], ["committed"])

    def test_types_are_kept_in_order_and_once(self, world: World) -> None:
        number = world.begin()
        types = ["wallet.topped_up", "wallet.depleted", "wallet.topped_up"]
        changed = world.endpoints.update(number, {"event_types": types}, ANN)
        assert changed.endpoint.event_types == ["wallet.depleted", "wallet.topped_up"]

    def test_nothing_given_changes_nothing(self, world: World) -> None:
        number = world.begin()
        assert world.endpoints.update(number, {}, ANN) == world.endpoints.get(number)
        assert (world.books.steps, world.audited) == ([], [])

    def test_what_it_has_already_is_not_written_down(self, world: World) -> None:
        number = world.begin()
        world.endpoints.update(number, {"url": URL, "event_types": []}, ANN)
        assert world.audited == []

    @pytest.mark.parametrize("url", NOT_PUBLIC)
    def test_to_public_addresses_only(self, world: World, url: str) -> None:
        number = world.begin()
        changes = {"url": url, "description": "Shop"}
        assert list(world.refuses(Invalid, lambda: world.endpoints.update(number, changes)).errors) == ["url"]


class TestDisabling:
    def test_by_an_operator(self, world: World) -> None:
        number = world.begin()
        disabled = world.endpoints.disable(number, ANN).endpoint
        assert (disabled.state, disabled.disabled_reason) == (EndpointState.DISABLED, DisabledReason.OPERATOR)
        before = {"state": "enabled", "disabled_reason": None}
        after = {"state": "disabled", "disabled_reason": "operator"}
        change = Change("webhook_endpoint.disabled", "webhook_endpoint", str(number), before, after)
        assert (world.audited, world.books.steps) == ([change], ["committed"])

    def test_done_once_it_is_done_and_the_first_reason_stays(self, world: World) -> None:
        number = world.begin()
        gone = replace(
            world.books.kept.endpoints[number], state=EndpointState.DISABLED, disabled_reason=DisabledReason.GONE
        )
        world.books.kept.endpoints[number] = gone
        assert world.endpoints.disable(number, ANN).endpoint == gone
        assert world.audited == []

    def test_enabled_it_begins_anew(self, world: World) -> None:
        number = world.begin()
        fresh = world.books.kept.endpoints[number]
        world.books.kept.endpoints[number] = replace(
            fresh,
            state=EndpointState.DISABLED,
            disabled_reason=DisabledReason.FAILING,
            disabled_at=NOW,
            failing_since=NOW - timedelta(days=5),
            paused_until=NOW + timedelta(hours=1),
        )
        assert world.endpoints.enable(number, ANN).endpoint == fresh
        before = {"state": "disabled", "disabled_reason": "failing"}
        after = {"state": "enabled", "disabled_reason": None}
        change = Change("webhook_endpoint.enabled", "webhook_endpoint", str(number), before, after)
        assert (world.audited, world.books.steps) == ([change], ["committed"])

    def test_one_that_is_enabled_stays_as_it_is(self, world: World) -> None:
        # Also one that fails, or has asked for patience: nobody has switched it off.
        number = world.begin()
        failing = replace(world.books.kept.endpoints[number], failing_since=NOW, paused_until=NOW)
        world.books.kept.endpoints[number] = failing
        assert world.endpoints.enable(number, ANN).endpoint == failing
        assert world.audited == []


class TestDeleting:
    def test_with_its_secrets_and_what_was_to_be_delivered(self, world: World) -> None:
        number, other = world.begin(), world.begin(description="Other")
        event_id = world.books.happen()
        for each in (number, other):
            world.books.deliver(each, [event_id])
        world.books.steps.clear()
        world.endpoints.delete(number, ANN)
        assert world.books.kept.endpoints[number].state is EndpointState.DELETED
        assert (world.signing(number), world.books.pending(number)) == ([], [])
        assert (len(world.signing(other)), world.books.pending(other)) == (1, [event_id])
        before = {"url": URL, "description": None, "event_types": [], "state": "enabled", "disabled_reason": None}
        change = Change("webhook_endpoint.deleted", "webhook_endpoint", str(number), before)
        assert (world.audited, world.books.steps) == ([change], ["committed"])

    def test_why_it_was_disabled_is_told_of_and_forgotten(self, world: World) -> None:
        number = world.begin()
        world.endpoints.disable(number, ANN)
        world.endpoints.delete(number, ANN)
        assert world.books.kept.endpoints[number].disabled_reason is None
        assert (world.audited[-1].before or {})["disabled_reason"] == "operator"


class TestRotating:
    def test_the_one_before_signs_beside_it_for_so_long(self, world: World) -> None:
        number = world.begin()
        [old] = world.signing(number)
        made = world.endpoints.rotate(number, overlap_seconds=60, caller=ANN)
        assert checked_secret(made.secret) != old
        end = NOW + timedelta(seconds=60)
        assert [(each.secret, each.expires_at) for each in made.view.secrets] == [(made.secret, None), (old, end)]
        told = {"overlap_seconds": 60}
        change = Change("webhook_endpoint.secret_rotated", "webhook_endpoint", str(number), after=told)
        assert (world.audited, world.books.steps) == ([change], ["committed"])
        world.books.now = end
        assert world.signing(number) == [made.secret]

    def test_for_a_day_unless_it_is_told_otherwise(self, world: World) -> None:
        number = world.begin()
        _, old = world.endpoints.rotate(number, caller=ANN).view.secrets
        assert old.expires_at == NOW + timedelta(days=1)
        assert OVERLAP_SECONDS_DEFAULT == 86_400

    def test_at_once(self, world: World) -> None:
        number, own = world.begin(), new_secret()
        made = world.endpoints.rotate(number, secret=own, overlap_seconds=0, caller=ANN)
        assert (made.secret, world.signing(number)) == (own, [own])

    def test_none_signs_longer_than_it_was_to(self, world: World) -> None:
        number = world.begin()
        world.endpoints.rotate(number, overlap_seconds=60, caller=ANN)
        view = world.endpoints.rotate(number, overlap_seconds=3_600, caller=ANN).view
        ends = [each.expires_at for each in view.secrets]
        assert ends == [None, NOW + timedelta(hours=1), NOW + timedelta(minutes=1)]

    def test_so_many_sign_at_once_and_no_more(self, world: World) -> None:
        number = world.begin()
        for _ in range(SECRETS_MAX - 1):
            world.endpoints.rotate(number, overlap_seconds=3_600, caller=ANN)
        # Refused, it leaves them to sign as long as they were to.
        error = world.refuses(Invalid, lambda: world.endpoints.rotate(number, overlap_seconds=1, caller=ANN))
        assert list(error.errors) == ["overlap_seconds"]
        made = world.endpoints.rotate(number, overlap_seconds=0, caller=ANN)
        assert world.signing(number) == [made.secret]

    def test_one_that_is_disabled_too(self, world: World) -> None:
        number = world.begin()
        world.endpoints.disable(number, ANN)
        made = world.endpoints.rotate(number, caller=ANN)
        assert made.view.endpoint.state is EndpointState.DISABLED
        assert world.signing(number)[0] == made.secret


class TestTesting:
    def test_an_event_for_it_alone(self, world: World) -> None:
        number, other = world.begin(), world.begin()
        event = world.endpoints.test(number, ANN)
        assert world.books.find_event(event.id) == event
        assert (event.type, event.endpoint_id, event.data["endpoint_id"]) == (EventType.TEST, number, number)
        assert (world.books.pending(number), world.books.pending(other)) == ([event.id], [])
        told = {"event_id": event.id}
        assert world.audited == [Change("webhook_endpoint.tested", "webhook_endpoint", str(number), after=told)]

    def test_not_while_it_is_disabled(self, world: World) -> None:
        number = world.begin()
        world.endpoints.disable(number, ANN)
        world.refuses(NotReady, lambda: world.endpoints.test(number, ANN))


class TestReplaying:
    def test_what_it_has_not_got_of_that_time(self, world: World) -> None:
        number, hour = world.begin(), timedelta(hours=1)
        _, got, failed, missed, _ = (world.books.happen(at=NOW + hours * hour) for hours in range(5))
        world.books.deliver(number, [got, failed])
        world.books.attempt(got, number, DeliveryState.DELIVERED)
        world.books.attempt(failed, number, DeliveryState.FAILED)
        world.books.steps.clear()
        since, until = NOW + hour, NOW + 4 * hour
        assert world.endpoints.replay(number, since, until, ANN) == 2
        assert world.books.pending(number) == [failed, missed]
        told = {"since": since, "until": until, "events": 2}
        change = Change("webhook_endpoint.replayed", "webhook_endpoint", str(number), after=told)
        assert (world.audited, world.books.steps) == ([change], ["delivers 2", "committed"])

    def test_asked_again_nothing_is_sent_twice(self, world: World) -> None:
        number = world.begin()
        world.books.happen()
        assert [world.endpoints.replay(number, NOW, caller=ANN) for _ in range(2)] == [1, 0]
        assert len(world.audited) == 1

    @pytest.mark.parametrize(
        ("events", "parts"),
        [
            (EVENTS_PER_REPLAY - 1, [EVENTS_PER_REPLAY - 1]),
            (EVENTS_PER_REPLAY, [EVENTS_PER_REPLAY]),
            (EVENTS_PER_REPLAY + 1, [EVENTS_PER_REPLAY, 1]),
        ],
    )
    def test_of_many_in_parts(self, world: World, events: int, parts: list[int]) -> None:
        number = world.begin()
        expected = [world.books.happen() for _ in range(events)]
        assert world.endpoints.replay(number, NOW, caller=ANN) == events
        assert world.books.pending(number) == expected
        assert [step for step in world.books.steps if step != "committed"] == [f"delivers {part}" for part in parts]
        assert [(change.after or {})["events"] for change in world.audited] == parts


class TestLooking:
    def test_in_the_order_they_were_made(self, world: World) -> None:
        views = [world.make().view for _ in range(3)]
        page = world.endpoints.list(2)
        assert (page.items, page.next_key) == (views[:2], views[1].endpoint.id)
        assert world.endpoints.list(2, views[1].endpoint.id).items == views[2:]

    def test_with_what_waits_for_it(self, world: World) -> None:
        number = world.begin()
        world.books.deliver(number, [world.books.happen()])
        view = world.endpoints.get(number)
        assert (view.health.pending, view.health.failed) == (1, 0)

    def test_gone_is_as_never_made(self, world: World) -> None:
        gone = world.begin()
        world.endpoints.delete(gone, ANN)
        for number in (gone, 99):
            calls: list[Callable[[int], object]] = [
                world.endpoints.get,
                world.endpoints.enable,
                world.endpoints.disable,
                world.endpoints.delete,
                world.endpoints.rotate,
                world.endpoints.test,
                lambda number: world.endpoints.update(number, {}),
                lambda number: world.endpoints.update(number, {"description": "Shop"}),
                lambda number: world.endpoints.replay(number, NOW),
            ]
            for call in calls:
                world.refuses(NotFound, lambda call=call, number=number: call(number))
        assert world.endpoints.list(9).items == []

    def test_who_changes_it_unasked_is_the_system(self, world: World) -> None:
        number = world.begin()
        world.endpoints.disable(number)
        assert [actor for actor, _ in world.books.audited] == [SYSTEM.actor]
