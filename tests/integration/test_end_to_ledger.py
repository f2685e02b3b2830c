"""The main path on real Postgres and Redis: start, end, settlement."""

from __future__ import annotations

from app.billing.start import StartRequest
from app.domain.wallets import Access, Deduction
from tests.support import FEATURE, Billing, assert_conserved


def test_a_run_moves_from_start_over_the_inbox_into_the_ledger(billing: Billing) -> None:
    billing.catalog(basis_points=1_000)
    billing.wallet(tokens=1_000)
    services = billing.container

    started = services.start.start(StartRequest("user-1", FEATURE))
    assert (started.access, started.spendable_micros) == (Access.GRANTED, 1_000_000_000)

    ended = services.end.end(billing.usage(output_tokens=40, process_id=started.process_id))
    assert (ended.deduction, ended.cost_micros, ended.spendable_micros) == (
        Deduction.COVERED,
        11_000_000,
        989_000_000,
    )
    assert billing.balance().posted_micros == 1_000_000_000
    assert billing.balance().pending_micros == 11_000_000

    billing.settle_everything()
    assert billing.inbox() == []
    assert billing.balance().posted_micros == 989_000_000
    assert billing.cached_spendable_micros() == 989_000_000
    entry = billing.ledger()[-1]
    assert (entry.base_cost_micros, entry.profit_micros, entry.cost_micros, entry.amount_micros) == (
        10_000_000,
        1_000_000,
        11_000_000,
        -11_000_000,
    )
    assert_conserved(billing, "user-1")
