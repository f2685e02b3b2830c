"""What an operator finds at night: wallets that owe, runs that can't be settled, an endpoint that is told nothing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import simplejson
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from uuid_utils.compat import uuid7

from app.bootstrap import Container
from app.cli import cli
from app.domain.postings import Posting, PostingKind
from tests.support import FEATURE, Billing


@dataclass
class Night:
    """What an operator finds, and how they look at it. Figures: a run of 40 output tokens costs 11."""

    billing: Billing
    app: Flask
    client: FlaskClient

    @property
    def container(self) -> Container:
        return self.billing.container

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.container.engine.begin() as connection:
            connection.execute(sa.text(statement), parameters)

    def clear(self) -> None:
        """Forget what was found: what failed, who owes, who is told."""
        self.execute("TRUNCATE end_inbox, bulk_actions, webhook_endpoints, webhook_events RESTART IDENTITY CASCADE")
        self.billing.execute("UPDATE wallets SET debt_micros = 0, collect_at = NULL, overdraft_limit_micros = 0")
        self.execute("UPDATE wallets SET posted_micros = 989000000 WHERE user_id = 'demo-user'")

    def owes(self, user_id: str, *, days: int = 0, is_dead: bool = True) -> str:
        """The id of a run that the wallet couldn't pay."""
        self.container.end.end(self.billing.usage(user_id, model="large"))
        self.billing.settle_everything()
        end_id = self.billing.inbox(user_id)[-1].id
        self.execute(
            "UPDATE end_inbox SET state = :state, attempts = 12, accepted_at = now() - make_interval(days => :days)"
            " WHERE id = :id",
            state="dead" if is_dead else "retrying",
            days=days,
            id=end_id,
        )
        return str(end_id)

    def refused(self, user_id: str, error: str) -> str:
        """The id of a run that something else kept from being settled, which is repaired by now."""
        end_id = uuid7()
        self.execute(
            """
            INSERT INTO end_inbox (id, wallet_id, user_id, feature_endpoint_id, input_tokens, output_tokens,
                cost_micros, base_cost_micros, profit_micros, profit_rule_id, state, attempts, last_error)
            VALUES (:id, :user_id, :user_id, :feature, 10, 40, 11000000, 10000000, 1000000,
                (SELECT min(id) FROM profit_rules), 'dead', 1, :error)
            """,
            id=end_id,
            user_id=user_id,
            feature=FEATURE,
            error=error,
        )
        return str(end_id)

    def flask(self, command: str, answer: str = "y\n") -> Result:
        words = shlex.split(command)
        assert words[0] == "flask"
        return self.app.test_cli_runner().invoke(cli, words[1:], input=answer)

    def draft(self) -> Any:
        """A bulk action that nobody has confirmed yet."""
        command = "flask failed-ends write-off --all --user poor --reference draft --reason Left --dry-run --json"
        return simplejson.loads(self.flask(command).stdout)

    def failed_again(self) -> int:
        """The number of a bulk action with an end that fails as before."""
        end_id = self.refused("bob", "quote_disagrees")
        self.execute("UPDATE end_inbox SET cost_micros = 1 WHERE id = :id", id=end_id)
        command = f"flask failed-ends replay {end_id} --reference again --reason Repaired --yes --json"
        number: int = simplejson.loads(self.flask(command).stdout)["id"]
        return number

    def webhook(self) -> None:
        """An endpoint, 1, that an operator has disabled, with something to be told."""
        made = self.container.webhook_endpoints.create("http://127.0.0.1:1/hook", event_types=())
        reference = uuid7().hex
        self.container.postings.post(Posting("bob", PostingKind.TOP_UP, 1_000_000, reference))
        self.container.webhook_endpoints.disable(made.view.endpoint.id)

    def tampered(self) -> None:
        """Somebody has written past the server."""
        self.execute("UPDATE wallets SET posted_micros = posted_micros + 1000000 WHERE user_id = 'demo-user'")
