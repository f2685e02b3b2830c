"""Low balance, against a model: whatever happens to a wallet, it is told exactly when the rule says."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bootstrap import Container
from tests.support import PACKAGE, Billing

TOKEN = 1_000_000

# A change of what is posted, of what is owed, a top-up, or another rule: an amount, a percentage or none.
STEPS = st.one_of(
    st.tuples(st.just("post"), st.integers(-150, 150)),
    st.tuples(st.just("owe"), st.integers(0, 60)),
    st.tuples(st.just("top up"), st.integers(1, 150)),
    st.tuples(st.just("below"), st.integers(1, 120)),
    st.tuples(st.just("percent"), st.integers(1, 100)),
    st.tuples(st.just("no rule"), st.just(0)),
)


class Model:
    """A wallet as the documents say."""

    def __init__(self) -> None:
        self.posted = 0
        self.debt = 0
        self.full: int | None = None
        self.rule: tuple[str, int] | None = None
        self.is_low = False
        self.told = 0

    @property
    def below_micros(self) -> int | None:
        if self.rule is None:
            return None
        kind, number = self.rule
        if kind == "below":
            return number * TOKEN
        return None if self.full is None else max(self.full, 0) * TOKEN * number // 100

    def look(self) -> None:
        """What a change of the balance does."""
        below = self.below_micros
        balance = (self.posted - self.debt) * TOKEN
        if self.is_low:
            if below is not None and balance >= below + max(below // 10, 1):
                self.is_low = False
        elif below is not None and balance < below:
            self.is_low = True
            self.told += 1


def apply(connection: sa.Connection, model: Model, kind: str, number: int) -> None:
    def execute(statement: str) -> None:
        connection.execute(sa.text(statement), {"number": number * TOKEN, "points": number * 100, "package": PACKAGE})

    before = model.posted - model.debt
    match kind:
        case "post":
            model.posted += number
            execute("UPDATE wallets SET posted_micros = posted_micros + :number")
        case "owe":
            model.debt = number
            execute("UPDATE wallets SET debt_micros = :number")
        case "top up":
            model.posted += number
            model.full = model.posted - model.debt
            execute("""
                INSERT INTO token_transactions (
                    wallet_id, user_id, kind, amount_micros, balance_after_micros, reference
                )
                SELECT wallet_id, user_id, 'top_up', :number, posted_micros + :number, gen_random_uuid() FROM wallets
            """)
            execute("UPDATE wallets SET posted_micros = posted_micros + :number")
        case "no rule":
            model.rule = None
            execute("DELETE FROM low_balance_rules")
        case _:
            model.rule = (kind, number)
            column, value = ("below_micros", ":number") if kind == "below" else ("below_basis_points", ":points")
            execute("DELETE FROM low_balance_rules")
            execute(f"INSERT INTO low_balance_rules (package_id, {column}) VALUES (:package, {value})")
    if model.posted - model.debt != before:
        model.look()


def test_exactly_when_the_rule_says(make_container: Callable[[], Container]) -> None:
    container = make_container()
    billing = Billing(container)
    billing.catalog()
    billing.wallet("w", tokens=0)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=25))
    def run(steps: list[tuple[str, int]]) -> None:
        model = Model()
        with container.engine.connect() as connection:
            for kind, number in steps:
                apply(connection, model, kind, number)
                told = connection.execute(
                    sa.text("SELECT count(*) FROM webhook_events WHERE type = 'wallet.low_balance'")
                ).scalar_one()
                assert told == model.told, (kind, number)
            connection.rollback()

    run()
