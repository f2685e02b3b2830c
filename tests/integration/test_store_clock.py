"""Profit rules take effect by Postgres's clock, whatever the web host's says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.access import clock as clock_module
from app.access.clock import StoreClock
from tests.support import Billing

INSERT_RULE = "INSERT INTO profit_rules (basis_points, effective_from) VALUES ({}, now() {})"


@pytest.mark.parametrize("hours_off", [-24, 24])
def test_rules_take_effect_by_the_clock_of_postgres(
    billing: Billing, monkeypatch: pytest.MonkeyPatch, hours_off: int
) -> None:
    class Moved(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(hours=hours_off)

    # Nothing else in a process asks for the time of day to price by.
    monkeypatch.setattr(clock_module, "datetime", Moved)
    billing.catalog(basis_points=None)
    billing.wallet(tokens=100)
    billing.execute_in_postgres(INSERT_RULE.format(2_000, "- interval '1 second'"))
    billing.execute_in_postgres(INSERT_RULE.format(5_000, "+ interval '1 hour'"))
    billing.announce_catalog()
    assert billing.container.end.end(billing.usage()).cost_micros == 12_000_000


def test_a_rule_without_a_moment_is_in_force_at_once(billing: Billing) -> None:
    billing.catalog(basis_points=None)
    billing.wallet(tokens=100)
    for basis_points in (1_000, 2_000, 3_000):
        billing.container.catalog_admin.create_rule(
            basis_points=basis_points, feature_endpoint_id=None, model=None, effective_from=None
        )
        ended = billing.container.end.end(billing.usage())
        assert ended.cost_micros == 10_000_000 + basis_points * 1_000


def test_it_goes_on_while_postgres_is_away_and_heeds_no_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = 100.0
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: monotonic)
    clock = StoreClock()
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    clock.learn(noon, asked_at=99.99)
    monotonic = 160.0
    assert clock.now() == noon + timedelta(seconds=60)
    # Told when the question arrived, which was long before we read it.
    clock.learn(noon + timedelta(seconds=50), asked_at=150.0)
    assert clock.now() == noon + timedelta(seconds=60)
    clock.learn(noon + timedelta(seconds=61), asked_at=159.95)
    assert clock.now() == noon + timedelta(seconds=61)
