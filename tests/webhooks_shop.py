"""Shorthands for tests of webhooks: setting endpoints and rules, and looking at what is told."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.domain.balance_rules import AutoTopUp, LowBalance, Owner
from app.domain.postings import Posting, PostingKind
from app.stores.postgres.webhooks.endpoints import Endpoint
from app.stores.postgres.webhooks.events import Event, EventFilter
from app.wire.webhooks import payload
from tests.support import Billing

TOKEN = 1_000_000


class Webhooks:
    def __init__(self, billing: Billing) -> None:
        self.billing = billing
        self.container = billing.container
        self.secret = ""

    def endpoint(self, url: str = "http://127.0.0.1:1/", *event_types: str) -> Endpoint:
        made = self.container.webhook_endpoints.create(url, event_types=event_types)
        self.secret = made.secret
        return made.view.endpoint

    def low_balance(self, tokens: int | None = None, *, percent: int | None = None, **owner: str) -> None:
        below = LowBalance(None if tokens is None else tokens * TOKEN, None if percent is None else percent * 100)
        self.container.balance_rules.set_low_balance(Owner(**owner), below)

    def auto_top_up(self, below: int, tokens: int, *, owner: Owner | None = None, **bounds: int) -> None:
        """Below so many tokens ask for so many."""
        bounds = {"requests_per_month": 10, "failures_max": 3, "answer_seconds": 3_600, **bounds}
        month = bounds.pop("token_per_month", 1_000_000)
        rule = AutoTopUp(below * TOKEN, tokens * TOKEN, micros_per_month=month * TOKEN, **bounds)
        self.container.balance_rules.set_auto_top_up(owner or Owner(user_id="user-1"), rule)

    def spend(self, tokens: int, user_id: str = "user-1") -> None:
        """A run that costs so many tokens, settled."""
        self.container.end.end(self.billing.usage(user_id, output_tokens=4 * tokens))
        self.billing.settle_everything()

    def top_up(self, tokens: int, reference: str, user_id: str = "user-1") -> None:
        self.container.postings.post(Posting(user_id, PostingKind.TOP_UP, tokens * TOKEN, reference))

    def events(self, *types: str) -> list[Event]:
        """Oldest first; only those of these types, if any are given."""
        page = self.container.webhook_events.list(EventFilter(), 1_000)
        found = [view.event for view in page.items[::-1]]
        return [event for event in found if not types or event.type in types]

    def types(self) -> list[str]:
        return [event.type for event in self.events()]

    def data(self, event_type: str) -> list[dict[str, Any]]:
        """What receivers are told of such events, oldest first."""
        return [payload(event)["data"] for event in self.events(event_type)]

    def deliveries(self) -> list[Any]:
        with self.container.engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT * FROM webhook_deliveries ORDER BY id")))

    def attempts(self) -> list[Any]:
        with self.container.engine.connect() as connection:
            return list(connection.execute(sa.text("SELECT * FROM webhook_attempts ORDER BY id")))

    def deliver(self) -> int:
        """What a worker does: all that is due, one after the other. How many endpoints had something."""
        due = self.container.webhook_delivery.due()
        for endpoint in due:
            while self.container.webhook_delivery.deliver(endpoint.id, seconds=30):
                pass
        return len(due)

    def make_due(self) -> None:
        """What passing time does."""
        self.billing.execute_in_postgres(
            "UPDATE webhook_deliveries SET next_attempt_at = now(), leased_until = NULL WHERE state = 'pending'"
        )
        self.billing.execute_in_postgres("UPDATE webhook_endpoints SET paused_until = NULL")
