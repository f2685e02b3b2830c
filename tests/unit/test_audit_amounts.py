"""Amounts of the audit log are tokens, whatever their fields are called where they are kept."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from app.domain.audit import AuditEntry, Change
from app.domain.balance_rules import AutoTopUp
from app.domain.rates import Rates
from app.wire.keys import audit_answer

TOKEN = 1_000_000


def test_amounts_are_told_in_tokens() -> None:
    rule = AutoTopUp(
        100 * TOKEN,
        500 * TOKEN,
        requests_per_month=10,
        micros_per_month=5_000 * TOKEN,
        failures_max=3,
        answer_seconds=60,
    )
    after = {**asdict(rule), "micros_per_dollar": 1_500_000, "rates": asdict(Rates(2 * TOKEN, 3 * TOKEN))}
    change = Change("auto_top_up_rule.set", "wallet", "alice", before={"posted_micros": 1}, after=after)
    told = audit_answer(AuditEntry(1, datetime(2030, 1, 1, tzinfo=UTC), change, "admin", None, None, None))
    assert "micros" not in str(told)
    assert told["after"] is not None
    assert (told["after"]["token_per_month"], told["after"]["amount_token"]) == (5_000, 500)
    assert str(told["after"]["tokens_per_dollar"]) == "1.5"
    assert told["after"]["rates"]["input_per_million"] == 2
