"""Every ledger entry is of a wallet, and a wallet with entries stays: what a foreign key would promise."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.support import Billing

ENTRIES = """
    INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros)
    SELECT id, id, 'adjustment', 1, 1 FROM unnest(CAST(:wallet_ids AS text[])) AS id
"""


def test_an_entry_of_no_wallet_is_refused_with_all_beside_it(billing: Billing) -> None:
    billing.catalog()
    billing.wallet("user-1")
    with (
        pytest.raises(sa.exc.IntegrityError, match="is of no wallet"),
        billing.container.engine.begin() as connection,
    ):
        connection.execute(sa.text(ENTRIES), {"wallet_ids": ["user-1", "nobody"]})
    assert [entry.kind for entry in billing.ledger("user-1")] == ["top_up"]


@pytest.mark.parametrize(
    "change",
    ["DELETE FROM wallets", "UPDATE wallets SET wallet_id = 'other'", "DELETE FROM wallets WHERE wallet_id = 'user-1'"],
)
def test_a_wallet_with_entries_stays(billing: Billing, change: str) -> None:
    billing.catalog()
    billing.wallet("user-1")
    with pytest.raises(sa.exc.IntegrityError, match="stays"), billing.container.engine.begin() as connection:
        connection.execute(sa.text(change))
    assert billing.balance("user-1").posted_micros > 0


def test_one_without_may_go(billing: Billing) -> None:
    billing.catalog()
    billing.execute("INSERT INTO wallets (wallet_id, user_id, package_id) VALUES ('empty', 'empty', NULL)")
    billing.execute("UPDATE wallets SET wallet_id = 'still-empty' WHERE wallet_id = 'empty'")
    billing.execute("DELETE FROM wallets WHERE wallet_id = 'still-empty'")
