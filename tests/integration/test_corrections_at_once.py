"""Corrections amid settlements, retries, replays, write-offs and each other: each end's account comes out right."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

from app.domain.corrections import Chargeback, CorrectionKind, CorrectionRequest
from app.domain.errors import AlreadyExists, AlreadyWrittenOff, ExceedsOriginal, NotFound
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.usage import Usage
from stack.embedded import PostgresServer
from tests.support import Billing, assert_conserved, collect_now

TOKEN = 1_000_000


def reversal(end_id: UUID, reference: str) -> CorrectionRequest:
    return CorrectionRequest(end_id, CorrectionKind.REVERSAL, reference, "Empty answer")


def amendment(end_id: UUID, reference: str, output_tokens: int) -> CorrectionRequest:
    return CorrectionRequest(end_id, CorrectionKind.AMENDMENT, reference, "Recounted", Usage(10, output_tokens))


def test_one_reference_from_many(billing: Billing) -> None:
    billing.catalog()
    billing.wallet(tokens=20)
    billing.container.end.end(billing.usage())
    [end] = billing.inbox()

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(billing.container.corrections.correct, [reversal(end.id, "r")] * 16))
    assert [outcome.replayed for outcome in outcomes].count(False) == 1
    assert len({outcome.correction.id for outcome in outcomes}) == 1
    assert billing.balance().posted_micros == 20 * TOKEN
    assert_conserved(billing, "user-1")


def test_many_references_at_once(billing: Billing) -> None:
    """Only one of many reversals finds anything to give back."""
    billing.catalog()
    billing.wallet(tokens=20)
    billing.container.end.end(billing.usage())
    [end] = billing.inbox()

    def reverse(i: int) -> bool:
        try:
            billing.container.corrections.correct(reversal(end.id, f"r-{i}"))
        except ExceedsOriginal:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(reverse, range(16))).count(True) == 1
    assert billing.balance().posted_micros == 20 * TOKEN
    assert_conserved(billing, "user-1")


def test_in_the_midst_of_everything(billing: Billing, postgres_server: PostgresServer) -> None:
    billing.catalog()
    billing.wallet(tokens=200)
    container = billing.container
    for i in range(30):
        container.end.end(billing.usage(output_tokens=20 + i))
    ids = [end.id for end in billing.inbox()]

    def act(i: int) -> None:
        rng = random.Random(i)
        end_id = rng.choice(ids)
        match i % 7:
            case 0:
                with suppress(NotFound, AlreadyExists):
                    container.failed_ends.write_off(end_id, "Gone", Caller("me"))
            case 1:
                container.collection.collect("user-1", seconds=1)
            case 2:
                container.settlement.settle(ids)
            case 3:
                with suppress(NotFound):
                    container.failed_ends.replay(end_id)
            case 4:
                with suppress(AlreadyWrittenOff, ExceedsOriginal):
                    container.corrections.correct(reversal(end_id, f"r-{i % 3}"))
            case 5:
                with suppress(AlreadyWrittenOff):
                    container.corrections.correct(amendment(end_id, f"a-{i}", rng.randint(0, 200)))
            case 6:
                container.corrections.charge_back(Chargeback("user-1", rng.randint(1, 10) * TOKEN, f"c-{i}"))

    deadlocks_before = deadlocks(postgres_server)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(280)))
    assert deadlocks(postgres_server) == deadlocks_before
    container.settlement.sweep(older_than_seconds=0)
    container.stale_copies.refresh(older_than_seconds=0)
    found = billing.balance()
    assert billing.cached_spendable_micros() in (None, found.spendable_micros)
    assert_conserved(billing, "user-1")
    assert container.reconciliation.run(is_full=True).drifted == []
    accounts(billing, ids)

    # Whatever is owed is collected once there is money.
    container.postings.post(Posting("user-1", PostingKind.TOP_UP, 100_000 * TOKEN, "rescue"))
    collect_now(container, "user-1")
    left = [row for row in billing.inbox() if row.last_error == "insufficient_tokens"]
    assert left == []
    assert billing.balance().debt_micros == 0
    accounts(billing, ids)


def accounts(billing: Billing, ids: list[UUID]) -> None:
    """What the ledger took for each end, and what is owed for it, is what its last correction says that it costs."""
    ledger, inbox = billing.ledger(), billing.inbox()
    for end_id in ids:
        entries = [entry for entry in ledger if end_id in (entry.end_id, entry.corrects)]
        taken = -sum(entry.amount_micros for entry in entries)
        owed = sum(row.cost_micros for row in inbox if end_id in (row.id, row.corrects))
        assert taken >= 0
        assert [entry.kind for entry in entries].count("usage") + [row.id for row in inbox].count(end_id) == 1
        corrected = billing.container.corrections.of_end(end_id)
        if not corrected:
            continue
        costs = [corrected[0].correction.cost_before_micros, *(c.correction.cost_after_micros for c in corrected)]
        written_off = sum(entry.amount_micros for entry in entries if entry.kind == "write_off")
        assert costs[-1] - written_off <= taken + owed <= costs[-1]
        if not written_off:
            assert costs[:-1] == [c.correction.cost_before_micros for c in corrected]


def deadlocks(server: PostgresServer) -> int:
    return server.log_path.read_text(errors="replace").count("deadlock detected")
