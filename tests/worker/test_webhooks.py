"""The worker that delivers webhooks, as it runs in production: its own queue, threads, killed and started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.stores.queue import DELIVER_WEBHOOKS, WEBHOOKS_QUEUE
from tests import processes
from tests.receivers import Receiver, hanging, receiver
from tests.support import Billing, assert_conserved
from tests.webhooks_shop import Webhooks

pytestmark = pytest.mark.long

SECONDS = 1.0


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    billing.catalog(basis_points=None)
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


@pytest.fixture
def settings(environment: dict[str, str]) -> dict[str, str]:
    return {
        **environment,
        "LOG_LEVEL": "INFO",
        "WEBHOOK_TIMEOUT_SECONDS": str(SECONDS),
        "WEBHOOKS_WORKER_NAME": "webhooks@test",
        "WEBHOOKS_CONCURRENCY": "6",
    }


def ready(running: processes.Running) -> None:
    processes.wait_until(
        lambda: "webhooks@test ready" in running.log.read_text(), what="the worker of webhooks", log=running.log
    )


def test_an_event_arrives_within_a_moment_of_its_cause(
    hooks: Webhooks, there: Receiver, settings: dict[str, str], tmp_path: Path
) -> None:
    """Settled by the one worker, told by the other, found by beat."""
    hooks.endpoint(there.url)
    hooks.low_balance(500, user_id="user-1")
    with (
        processes.worker(settings, tmp_path),
        processes.run("webhooks", settings, tmp_path / "webhooks.log") as running,
        processes.beat(settings, tmp_path),
    ):
        ready(running)
        hooks.container.end.end(hooks.billing.usage(output_tokens=4 * 600))
        processes.wait_until(lambda: bool(there.received), what="the event", log=running.log)
        [received] = there.received
        received.verify(hooks.secret)
        assert received.payload["type"] == "wallet.low_balance"
        # A receiver that hangs is nobody's trouble but its own.
        there.answer = hanging(3 * SECONDS)
        hooks.top_up(600, "a")
        hooks.container.end.end(hooks.billing.usage(output_tokens=4 * 100))
        processes.wait_until(lambda: not hooks.billing.inbox(), seconds=10, what="settlement", log=running.log)
        assert_conserved(hooks.billing, "user-1")


def test_a_worker_killed_in_the_middle_loses_nothing(
    hooks: Webhooks, there: Receiver, settings: dict[str, str], tmp_path: Path
) -> None:
    there.answer = hanging(30)
    hooks.endpoint(there.url)
    for i in range(3):
        hooks.top_up(1, f"a-{i}")
    with processes.run("webhooks", settings, tmp_path / "first.log") as running:
        ready(running)
        for due in hooks.container.webhook_delivery.due():
            for _ in range(due.runners):
                # As beat's task sends them; the same message more than once is no matter.
                hooks.container.celery.send_task(DELIVER_WEBHOOKS, args=[due.id, due.host], queue=WEBHOOKS_QUEUE)
        processes.wait_until(lambda: len(there.received) >= 1, what="an attempt", log=running.log)
        running.kill()
    first = {received.id for received in there.received}
    there.answer = 204
    assert [one.state for one in hooks.deliveries()] == ["pending"] * 3
    # The leases are over.
    hooks.make_due()
    with (
        processes.run("webhooks", settings, tmp_path / "second.log") as running,
        processes.beat(settings, tmp_path),
    ):
        processes.wait_until(
            lambda: {one.state for one in hooks.deliveries()} == {"delivered"}, what="delivery", log=running.log
        )
    assert first < {received.id for received in there.received} or len(first) == 3
    assert {received.id for received in there.received} == {str(event.id) for event in hooks.events()}
