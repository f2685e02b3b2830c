"""Deliveries to a real receiver: signed, at least once, tried again as the schedule says, and never in the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from standardwebhooks import WebhookVerificationError

from app.bootstrap import Container
from app.config import Config
from app.domain.errors import Invalid, NotFound, NotReady, Unavailable
from app.domain.webhooks import ATTEMPTS_MAX, RETRY_SECONDS, DeliveryState, DisabledReason, EndpointState
from app.stores.postgres.webhooks.events import EventFilter
from tests.receivers import Receiver, hanging, receiver
from tests.support import Billing
from tests.webhooks_shop import Webhooks

SECONDS = 0.4


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def hooks(config: Config, make_container: Callable[[], Container]) -> Iterator[Webhooks]:
    """Empty stores, and attempts that take half a second at most."""
    make_container()
    container = Container(replace(config, webhook_timeout_seconds=SECONDS), is_watched=True)
    container.catalog.refresh()
    billing = Billing(container)
    billing.catalog()
    billing.wallet(tokens=1_000)
    yield Webhooks(billing)
    container.close()


def test_what_arrives_is_signed_and_says_what_happened(hooks: Webhooks, there: Receiver) -> None:
    hooks.endpoint(there.url)
    hooks.top_up(5, "invoice-17")
    hooks.deliver()
    [received] = there.received
    [event] = hooks.events()
    assert received.verify(hooks.secret) == {
        "type": "wallet.topped_up",
        "timestamp": received.payload["timestamp"],
        "data": hooks.data("wallet.topped_up")[0],
    }
    assert received.id == str(event.id)
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 30
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("Tokentill")
    [delivery] = hooks.deliveries()
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 204)
    # Nothing more to do.
    assert hooks.deliver() == 0
    assert len(there.received) == 1


def test_both_secrets_sign_during_a_rotation_and_the_old_one_no_longer(hooks: Webhooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url)
    old = hooks.secret
    new = hooks.container.webhook_endpoints.rotate(endpoint.id, overlap_seconds=3_600).secret
    hooks.top_up(5, "a")
    hooks.deliver()
    for secret in (old, new):
        there.received[0].verify(secret)
    newest = hooks.container.webhook_endpoints.rotate(endpoint.id, overlap_seconds=0).secret
    hooks.top_up(5, "b")
    hooks.deliver()
    there.received[1].verify(newest)
    for secret in (old, new):
        with pytest.raises(WebhookVerificationError):
            there.received[1].verify(secret)
    for _ in range(4):
        hooks.container.webhook_endpoints.rotate(endpoint.id)
    with pytest.raises(Invalid):
        hooks.container.webhook_endpoints.rotate(endpoint.id)


def test_a_failure_is_tried_again_by_the_schedule_under_the_same_id(hooks: Webhooks, there: Receiver) -> None:
    there.answer, there.body = 500, b"<b>sorry</b>"
    hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    for attempt in range(1, ATTEMPTS_MAX + 1):
        hooks.deliver()
        [delivery] = hooks.deliveries()
        assert delivery.attempts == attempt == len(there.received)
        if attempt == ATTEMPTS_MAX:
            break
        assert delivery.state == "pending"
        waits = (delivery.next_attempt_at - datetime.now(UTC)).total_seconds()
        assert RETRY_SECONDS[attempt - 1] - 3 < waits <= RETRY_SECONDS[attempt - 1] * 1.2
        # Before that, nothing.
        hooks.deliver()
        assert len(there.received) == attempt
        hooks.make_due()
    assert (delivery.state, delivery.last_status, delivery.last_error) == ("failed", 500, "status")
    assert {received.id for received in there.received} == {str(delivery.event_id)}
    assert {received.body for received in there.received} == {there.received[0].body}
    assert {attempt.excerpt for attempt in hooks.attempts()} == {"<b>sorry</b>"}
    hooks.make_due()
    assert hooks.deliver() == 0


def test_it_comes_through_at_last(hooks: Webhooks, there: Receiver) -> None:
    there.answer = 503
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.deliver()
    assert hooks.container.webhook_endpoints.get(endpoint.id).endpoint.failing_since is not None
    there.answer = 200
    hooks.make_due()
    hooks.deliver()
    view = hooks.container.webhook_endpoints.get(endpoint.id)
    assert view.endpoint.failing_since is None
    assert view.health.last_delivered_at is not None
    assert [attempt.status for attempt in hooks.attempts()] == [503, 200]


def test_one_that_asks_for_patience_gets_it_for_all_that_is_for_it(hooks: Webhooks, there: Receiver) -> None:
    there.answer, there.headers = 429, {"Retry-After": "1000"}
    hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.top_up(5, "b")
    hooks.deliver()
    assert len(there.received) == 1
    assert hooks.container.webhook_delivery.due() == []
    [first, _] = hooks.deliveries()
    assert (first.next_attempt_at - datetime.now(UTC)).total_seconds() > 990


def test_410_disables_at_once_and_enabling_goes_on(hooks: Webhooks, there: Receiver) -> None:
    there.answer = 410
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.top_up(5, "b")
    hooks.deliver()
    assert len(there.received) == 1
    found = hooks.container.webhook_endpoints.get(endpoint.id).endpoint
    assert (found.state, found.disabled_reason) == (EndpointState.DISABLED, DisabledReason.GONE)
    hooks.make_due()
    assert hooks.deliver() == 0
    there.answer = 200
    hooks.container.webhook_endpoints.enable(endpoint.id)
    hooks.deliver()
    assert [one.state for one in hooks.deliveries()] == ["delivered"] * 2


def test_days_of_failures_disable(hooks: Webhooks, there: Receiver) -> None:
    there.answer = 500
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.deliver()
    days = hooks.container.config.webhook_disable_after_days

    def fail_after(days: float) -> EndpointState:
        hooks.billing.execute_in_postgres(
            f"UPDATE webhook_endpoints SET failing_since = now() - interval '{days} days'"
        )
        hooks.make_due()
        hooks.deliver()
        return hooks.container.webhook_endpoints.get(endpoint.id).endpoint.state

    assert fail_after(days - 0.01) is EndpointState.ENABLED
    assert fail_after(days + 0.01) is EndpointState.DISABLED
    assert len(there.received) == 3
    # What happens meanwhile isn't for it, and isn't lost.
    hooks.top_up(5, "b")
    assert len(hooks.deliveries()) == 1
    there.answer = 200
    hooks.container.webhook_endpoints.enable(endpoint.id)
    hooks.make_due()
    since = datetime.now(UTC) - timedelta(hours=1)
    assert hooks.container.webhook_endpoints.replay(endpoint.id, since) == 1
    hooks.deliver()
    assert [one.state for one in hooks.deliveries()] == ["delivered"] * 2


def test_a_crash_between_lease_and_answer_sends_it_again(hooks: Webhooks, there: Receiver) -> None:
    """At least once: what was sent, and not noted, is sent again under the same id once the lease is over."""
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    service = hooks.container.webhook_delivery
    job = service._take(endpoint.id)
    assert job is not None
    assert service._attempt(job).is_success
    # The process is gone. While its lease lasts nobody else is at it.
    assert hooks.deliver() == 0
    hooks.make_due()
    hooks.deliver()
    assert [received.id for received in there.received] == [str(job.claimed.event_id)] * 2
    assert [one.state for one in hooks.deliveries()] == ["delivered"]


def test_postgres_gone_between_answer_and_note(
    hooks: Webhooks, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")

    def lost(*_: Any) -> None:
        raise Unavailable

    monkeypatch.setattr(hooks.container.webhook_delivery, "_finish", lost)
    with pytest.raises(Unavailable):
        hooks.container.webhook_delivery.deliver(endpoint.id, seconds=5)
    monkeypatch.undo()
    hooks.make_due()
    hooks.deliver()
    assert len(there.received) == 2
    assert [one.state for one in hooks.deliveries()] == ["delivered"]


def test_a_lease_that_was_lost_notes_a_success_and_no_failure(hooks: Webhooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    service = hooks.container.webhook_delivery
    slow = service._take(endpoint.id)
    assert slow is not None
    there.answer = 500
    failed = service._attempt(slow)
    hooks.make_due()
    other = service._take(endpoint.id)
    assert other is not None
    # The first comes back late and with a failure: the second is still at it.
    service._finish(endpoint.id, slow, failed)
    [delivery] = hooks.deliveries()
    assert (delivery.state, delivery.leased_until, delivery.attempts) == ("pending", other.claimed.leased_until, 0)
    there.answer = 200
    service._finish(endpoint.id, slow, service._attempt(slow))
    assert hooks.deliveries()[0].state == "delivered"
    service._finish(endpoint.id, other, failed)
    assert hooks.deliveries()[0].state == "delivered"


def test_many_workers_at_once_send_each_once_and_few_at_a_time(hooks: Webhooks, there: Receiver) -> None:
    there.answer = hanging(0.02)
    endpoint = hooks.endpoint(there.url)
    for i in range(30):
        hooks.top_up(1, f"a-{i}")
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: hooks.container.webhook_delivery.deliver(endpoint.id, 10), range(12)))
    assert len(there.received) == 30
    assert len({received.id for received in there.received}) == 30
    assert 1 < there.most_under_way <= hooks.container.config.webhook_endpoint_concurrency
    assert {one.state for one in hooks.deliveries()} == {"delivered"}


def test_one_that_hangs_takes_one_slot_once_it_is_known(hooks: Webhooks, there: Receiver) -> None:
    there.answer = hanging(1.5 * SECONDS)
    endpoint = hooks.endpoint(there.url)
    for i in range(6):
        hooks.top_up(1, f"a-{i}")
    service = hooks.container.webhook_delivery
    assert [due.runners for due in service.due()] == [hooks.container.config.webhook_endpoint_concurrency]
    service.deliver(endpoint.id, 0)
    hooks.make_due()
    assert [due.runners for due in service.due()] == [1]
    there.most_under_way = 0
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: service.deliver(endpoint.id, 0), range(6)))
    assert {attempt.error for attempt in hooks.attempts()} == {"timeout"}
    # The server's own end of one may last a little longer than ours.
    assert there.most_under_way <= 2


def test_one_that_hangs_keeps_no_other_from_anything(hooks: Webhooks, there: Receiver) -> None:
    with receiver() as slow:
        slow.answer = hanging(2 * SECONDS)
        hooks.endpoint(slow.url)
        hooks.endpoint(there.url)
        for i in range(4):
            hooks.top_up(1, f"a-{i}")
        runners = [(due.id, n) for due in hooks.container.webhook_delivery.due() for n in range(due.runners)]
        assert len(runners) == 8
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda one: hooks.container.webhook_delivery.deliver(one[0], 0.1), runners))
        assert len(there.received) == 4
        assert max(received.at for received in there.received) - begun < 2 * SECONDS + 1


def test_a_test_event_goes_to_one_endpoint_whatever_it_wants(hooks: Webhooks, there: Receiver) -> None:
    with receiver() as other:
        hooks.endpoint(other.url)
        endpoint = hooks.endpoint(there.url, "wallet.depleted")
        event = hooks.container.webhook_endpoints.test(endpoint.id)
        hooks.deliver()
        assert other.received == []
    [received] = there.received
    assert (received.payload["type"], received.id) == ("webhook.test", str(event.id))
    received.verify(hooks.secret)
    hooks.container.webhook_endpoints.disable(endpoint.id)
    with pytest.raises(NotReady):
        hooks.container.webhook_endpoints.test(endpoint.id)


def test_a_replay_of_one_event(hooks: Webhooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.deliver()
    [event] = hooks.events()
    hooks.container.webhook_events.replay(event.id)
    hooks.container.webhook_events.replay(event.id, endpoint.id)
    hooks.deliver()
    assert [received.id for received in there.received] == [str(event.id)] * 2
    with pytest.raises(NotFound):
        hooks.container.webhook_events.replay(event.id, 999)
    with pytest.raises(NotFound):
        hooks.container.webhook_events.replay(endpoint_id=None, event_id=type(event.id)(int=5))


def test_replaying_what_failed_since_a_moment(hooks: Webhooks, there: Receiver) -> None:
    there.answer = 500
    endpoint = hooks.endpoint(there.url)
    for i in range(3):
        hooks.top_up(5, f"a-{i}")
    hooks.deliver()
    hooks.billing.execute_in_postgres("UPDATE webhook_deliveries SET state = 'failed', finished_at = now()")
    oldest = hooks.events()[0]
    hooks.billing.execute_in_postgres(
        f"UPDATE webhook_events SET occurred_at = now() - interval '2 hours' WHERE id = '{oldest.id}'"
    )
    there.answer = 200
    since = datetime.now(UTC) - timedelta(hours=1)
    replay = hooks.container.webhook_endpoints.replay
    assert replay(endpoint.id, since) == 2
    assert replay(endpoint.id, since) == 0
    hooks.deliver()
    assert [one.state for one in hooks.deliveries()] == ["failed", "delivered", "delivered"]
    assert replay(endpoint.id, since - timedelta(days=1)) == 1
    assert replay(endpoint.id, since - timedelta(days=1), since) == 0


def test_a_deleted_endpoint_gets_nothing_more(hooks: Webhooks, there: Receiver) -> None:
    endpoint = hooks.endpoint(there.url)
    hooks.top_up(5, "a")
    hooks.container.webhook_endpoints.delete(endpoint.id)
    hooks.top_up(5, "b")
    assert hooks.deliver() == 0
    assert [(one.state, one.last_error) for one in hooks.deliveries()] == [("failed", "endpoint_deleted")]
    for call in (
        lambda: hooks.container.webhook_endpoints.get(endpoint.id),
        lambda: hooks.container.webhook_endpoints.delete(endpoint.id),
        lambda: hooks.container.webhook_endpoints.rotate(endpoint.id),
    ):
        with pytest.raises(NotFound):
            call()
    with hooks.container.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM webhook_secrets")).scalar_one() == 0


def test_old_events_are_forgotten_once_nothing_is_to_be_done_about_them(hooks: Webhooks, there: Receiver) -> None:
    hooks.endpoint(there.url)
    ages = {"new": 1, "delivered": 31, "pending": 200, "failed": 31, "given up long ago": 100}
    for name, days in ages.items():
        hooks.top_up(1, name)
        event = hooks.events()[-1]
        state = "failed" if name.startswith(("failed", "given")) else name if name == "pending" else "delivered"
        # An id begins with its milliseconds.
        hooks.billing.execute_in_postgres(f"""
            WITH old AS (
                UPDATE webhook_events SET id = CAST(lpad(to_hex(CAST(floor(extract(epoch FROM
                    now() - interval '{days} days') * 1000) AS bigint)), 12, '0') || '{event.id.hex[12:]}' AS uuid)
                WHERE id = '{event.id}' RETURNING id
            )
            UPDATE webhook_deliveries SET state = '{state}', event_id = (SELECT id FROM old)
            WHERE event_id = '{event.id}'
        """)
    assert hooks.container.webhook_events.prune() == 2
    left = {found["reference"] for found in hooks.data("wallet.topped_up")}
    assert left == {"new", "pending", "failed"}
    assert len(hooks.deliveries()) == 3
    assert hooks.container.webhook_events.prune() == 0


def test_the_numbers_to_watch(hooks: Webhooks) -> None:
    endpoint = hooks.endpoint()
    disabled = hooks.endpoint()
    hooks.container.webhook_endpoints.disable(disabled.id)
    counts = hooks.container.webhook_events.counts()
    assert (counts.pending, counts.failed, counts.overdue_seconds, counts.endpoints_disabled) == (0, 0, 0, 1)
    hooks.top_up(1, "a")
    counts = hooks.container.webhook_events.counts()
    assert (counts.pending, counts.overdue_seconds > 0) == (1, True)
    told = hooks.container.status.look().postgres
    assert told is not None
    assert told.webhooks.pending == 1
    page = hooks.container.webhook_events.list(EventFilter(endpoint_id=endpoint.id, state=DeliveryState.PENDING), 10)
    assert len(page.items) == 1


def test_settlement_never_waits_for_a_receiver(hooks: Webhooks, there: Receiver) -> None:
    """Nor for whoever changes an endpoint."""
    endpoint = hooks.endpoint(there.url)
    hooks.low_balance(999, user_id="user-1")
    with hooks.container.engine.connect() as connection:
        connection.execute(sa.text("SELECT FROM webhook_endpoints FOR UPDATE"))
        hooks.container.end.end(hooks.billing.usage())
        hooks.billing.settle_everything()
        assert hooks.billing.inbox() == []
        connection.rollback()
    assert hooks.types() == ["wallet.low_balance"]
    assert [one.endpoint_id for one in hooks.deliveries()] == [endpoint.id]
