"""A company with something of everything, and the processes that serve it: what pages are looked at with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from playwright.sync_api import Page
from redis import Redis

from app.bootstrap import Container
from app.config import Config
from app.console.views.wallets import LATEST
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.postings import Posting, PostingKind
from app.domain.wallets import wallet_of
from app.stores.postgres.top_up_requests import RequestFilter
from tests import processes
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.emptying import empty_stores
from tests.processes import wait_until
from tests.support import FEATURE, PACKAGE, Billing

SAMPLED_MINUTES = 180
# More than a wallet's page has room for.
HOLDS = LATEST + 1
# Of an end as `billing.usage` makes them, in tokens.
COST = 11


class Till:
    """The processes, and a container of ours beside them that sets things up and looks what became of them."""

    def __init__(self, url: str, container: Container, billing: Billing) -> None:
        self.url = url
        self.container = container
        self.billing = billing

    def sign_in(self, page: Page, person: str = "Ada") -> None:
        page.goto("/console/sign-in")
        page.get_by_label("Operator's key").fill(ADMIN_KEY)
        page.get_by_label("Your name").fill(person)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Sign out").wait_for()

    def owes(self, user_id: str, ends: int, *, error: str | None = None) -> None:
        """A wallet that can't pay so many ends; with an error they are dead letters of that kind."""
        self.billing.wallet(user_id, tokens=0)
        self.container.end.end_all([self.billing.usage(user_id) for _ in range(ends)])
        wait_until(lambda: all(end.is_debt for end in self.billing.inbox(user_id)), what="the settlement")
        if error is not None:
            self.billing.execute_in_postgres(
                f"UPDATE end_inbox SET state = 'dead', last_error = '{error}' WHERE user_id = '{user_id}'"
            )

    def top_up(self, user_id: str, tokens: int, reference: str) -> None:
        micros = tokens * MICROS_PER_TOKEN
        self.container.postings.post(Posting(user_id, PostingKind.TOP_UP, micros, reference))

    def administer(self, path: str, body: dict[str, Any], method: str = "POST") -> None:
        url, headers = f"{self.url}/api/admin{path}", {"x-admin-api-key": ADMIN_KEY}
        answer = httpx.request(method, url, json=body, headers=headers, timeout=20)
        assert answer.is_success, f"{path}: {answer.text}"

    def posted(self, user_id: str) -> int:
        return self.billing.balance(user_id).posted_micros // MICROS_PER_TOKEN

    def failed(self, user_id: str) -> int:
        return len(self.billing.inbox(user_id))


@contextlib.contextmanager
def till(config: Config, environment: dict[str, str], redis_url: str, folder: Path) -> Iterator[Till]:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        empty_stores(config, client)
    container = Container(config, is_watched=True)
    billing = Billing(container)
    billing.catalog()
    with (
        contextlib.closing(container),
        processes.web(environment, folder) as (url, _),
        processes.worker(environment, folder),
        processes.beat(environment, folder),
    ):
        opened = Till(url, container, billing)
        fill(opened)
        yield opened


def make_one_of_each(till: Till) -> None:
    """What has a page of its own."""
    listed = {
        "mode": "chat",
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
    }
    why = {"reference": "spring", "reason": "Goodwill"}
    for path, body in (
        ("/prices", {"model": "gpt-4.1*", "input_per_million": 2_000, "output_per_million": 8_000}),
        ("/price-imports", {"format": "litellm", "tokens_per_dollar": 1_000, "list": {"gpt-5": listed}}),
        ("/webhook-endpoints", {"url": "https://hooks.invalid/tokentill", "description": "The shop"}),
        ("/webhook-endpoints", {"url": "https://hooks.invalid/old", "description": "Before it moved"}),
        ("/webhook-endpoints/2/disable", {}),
        ("/wallets/alice/top-ups", {"token": 100, "reference": "invoice-19"}),
        ("/top-up-schedules", {**why, "token": 100, "package_id": PACKAGE, "period": "monthly", "day": 1}),
        ("/top-ups", {**why, "token": 10, "package_id": PACKAGE}),
        ("/bulk-actions", {**why, "action": "write_off", "filter": {"last_error": "database_refused"}}),
        ("/keys", {"name": "chat", "kind": "service"}),
    ):
        till.administer(path, body)
    till.administer("/low-balance-rules", {"user_id": "alice", "below_token": 50}, "PUT")
    start = {"user_id": "alice", "feature_endpoint_id": FEATURE, "hold_token": 25}
    headers = {"x-server-api-key": SERVER_KEY}
    for _ in range(HOLDS):
        httpx.post(f"{till.url}/api/token-process/start", json=start, headers=headers).raise_for_status()
    # One top-up that is still waited for, and one that won't come.
    for user_id in ("carol", "gina"):
        owner, rule = {"user_id": user_id}, {"below_token": 100, "token": 500}
        till.administer("/auto-top-up-rules", {**owner, **rule}, "PUT")
    till.container.top_up_requests.look_after()
    wanted = RequestFilter(wallet_of("gina"))
    [asked] = till.container.top_up_requests.list(10, matching=wanted).items
    till.container.top_up_requests.decline(asked.id, "The card was refused")


def fill(till: Till) -> None:
    """Wallets that are used, that owe, that hold; hours of samples."""
    for user_id, tokens in (("alice", 5_000), ("bob", 4_000), ("carol", 60), ("gina", 20)):
        till.billing.wallet(user_id, tokens=tokens)
    models = ("gpt-4.1", "claude-sonnet", None)
    ends = [
        till.billing.usage(user_id, output_tokens=40 * (i % 5 + 1), model=models[i % 3])
        for i in range(60)
        for user_id in ("alice", "bob")
    ]
    till.container.end.end_all(ends)
    till.top_up("bob", 250, "invoice-18")
    till.owes("dora", 12)
    till.owes("eve", 5, error="database_refused")
    make_one_of_each(till)
    wait_until(lambda: not till.billing.inbox("alice") and not till.billing.inbox("bob"), what="the settlement")
    till.container.samples.take()
    with till.container.engine.begin() as connection:
        # Of the numbers of this minute, a wave.
        connection.execute(
            sa.text("""
                INSERT INTO samples SELECT (s).* FROM (
                    SELECT jsonb_populate_record(s, jsonb_build_object(
                        'minute', s.minute - make_interval(mins => i),
                        'accepted', 40 + CAST(25 * sin(i / 9.0) AS int), 'settled', 38 + CAST(25 * sin(i / 9.0) AS int),
                        'lag_median_seconds', 0.12 + 0.05 * sin(i / 5.0), 'lag_p95_seconds', 0.4 + 0.2 * sin(i / 5.0),
                        'backlog', CAST(abs(12 * sin(i / 7.0)) AS int)
                    )) AS s
                    FROM samples AS s, generate_series(1, :minutes) AS i
                    WHERE s.minute = (SELECT max(minute) FROM samples)
                ) AS made ON CONFLICT DO NOTHING
            """),
            {"minutes": SAMPLED_MINUTES},
        )
