"""Postings in the midst of ends, settlements and collected debts: no deadlock, and every token accounted for."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.bootstrap import Container
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.errors import BalanceOutOfRange
from app.domain.postings import Posting, PostingKind
from stack.embedded import PostgresServer
from tests.support import Billing, assert_conserved, collect_now

USERS = [f"user-{i}" for i in range(4)]


@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once(
    make_container: Callable[[], Container], postgres_server: PostgresServer, seed: int
) -> None:
    """The services of two processes, eight threads."""
    deadlocks_before = deadlocks(postgres_server)
    first, second = make_container(), make_container()
    billing = Billing(first)
    billing.catalog()
    second.catalog.refresh()
    for user_id in USERS:
        billing.wallet(user_id, tokens=20)

    def act(i: int) -> None:
        dice = random.Random(seed * 1_000 + i)
        container = dice.choice([first, second])
        user_id = dice.choice(USERS)
        match dice.randrange(6):
            case 0 | 1 | 2:
                container.end.end(billing.usage(user_id, output_tokens=dice.randrange(1, 100)))
            case 3:
                kind = dice.choice(list(PostingKind))
                amount_micros = dice.randrange(1, 30) * MICROS_PER_TOKEN
                if kind is PostingKind.ADJUSTMENT and dice.random() < 0.5:
                    amount_micros = -amount_micros
                try:
                    # A reference that another call may be using just now.
                    posting = Posting(user_id, kind, amount_micros, f"{kind}-{amount_micros}")
                    container.postings.post(posting)
                except BalanceOutOfRange:
                    pass
            case 4:
                container.settlement.sweep(older_than_seconds=0)
            case 5:
                collect_now(container, user_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(300)))
    billing.settle_everything()
    for user_id in USERS:
        assert billing.balance(user_id).posted_micros >= 0
        # What the cache says, it says of the same wallet.
        first.loader.load([user_id], first.catalog.epoch)
        assert billing.cached_spendable_micros(user_id) == billing.balance(user_id).spendable_micros
    assert_conserved(billing, *USERS)
    assert deadlocks(postgres_server) == deadlocks_before


def deadlocks(server: PostgresServer) -> int:
    return server.log_path.read_text(errors="replace").count("deadlock detected")
