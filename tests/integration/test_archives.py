"""Old months move into files: what is left still proves, nothing bills or posts twice, and it may stop anywhere."""

from __future__ import annotations

import csv
import hashlib
import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from app.domain.ends import AcceptedEnd
from app.domain.errors import ArchiveRefused, IdempotencyConflict, Invalid, Unavailable
from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.domain.pricing import Price
from app.domain.reports import Group, Usage
from app.domain.wallets import Deduction, WalletId
from app.operations import archives
from app.operations.archives import ArchiveService
from app.stores.postgres import archives as store
from app.stores.postgres import inbox
from app.wire.tables import header, parquet
from tests.reconciling import quick, tamper
from tests.support import Billing

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)


def as_csv(export: Any) -> Any:
    yield header(export.columns)
    yield from export.blocks


@pytest.fixture
def shop(billing: Billing) -> Billing:
    """Two wallets with a year's entries: each month, of `ann` a top-up and two runs, of `bob` one run."""
    billing.catalog()
    billing.wallet("ann", tokens=1_000)
    billing.wallet("bob", tokens=1_000)
    for month in range(1, 4):
        billing.container.postings.post(Posting("ann", PostingKind.TOP_UP, 5_000_000, f"invoice-{month}"))
        billing.container.end.end_all(
            [billing.usage("ann", model="small"), billing.usage("ann"), billing.usage("bob", model="large")]
        )
        billing.settle_everything()
        with billing.container.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for table, column in (("token_transactions", "created_at"), ("usage_daily", "day")):
                connection.execute(
                    sa.text(f"UPDATE {table} SET {column} = :moment WHERE {column} > '2026-06-01'"),
                    {"moment": datetime(2026, month, 17, 12, tzinfo=UTC)},
                )
    return billing


def archive(shop: Billing, folder: Path, before: date = FEBRUARY) -> list[archives.Archive]:
    return list(shop.container.archives.archive(before, folder, as_csv, "csv"))


def report(shop: Billing) -> Any:
    return shop.container.reports.usage(Usage(groups=(Group.DAY, Group.MODEL)), 200).items


def entries(shop: Billing) -> int:
    return len(shop.ledger("ann")) + len(shop.ledger("bob"))


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_month_leaves_and_the_rest_proves(shop: Billing, tmp_path: Path) -> None:
    before, ledger = report(shop), shop.ledger("ann")
    [done] = archive(shop, tmp_path)
    path = tmp_path / "ledger-2026-01.csv"
    assert (done.month, done.entries, done.file_name) == (JANUARY, 6, path.name)
    assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert done.removed_at is not None
    rows = read(path)
    assert len(rows) == 6
    # The two opening top-ups, then January's.
    assert [row["kind"] for row in rows] == ["top_up", "top_up", "top_up", "usage", "usage", "usage"]
    last = [row for row in rows if row["wallet_id"] == "ann"][-1]
    left = shop.ledger("ann")
    assert entries(shop) == 8
    assert left[0].balance_after_micros - left[0].amount_micros == int(last["balance_after"]) * 1_000_000
    assert left == ledger[-len(left) :]
    assert report(shop) == before
    for is_full in (False, True):
        assert quick(shop.container).run(is_full=is_full).drifted_count == 0


def test_months_follow_each_other(shop: Billing, tmp_path: Path) -> None:
    assert [done.month for done in archive(shop, tmp_path, MARCH)] == [JANUARY, FEBRUARY]
    assert archive(shop, tmp_path, MARCH) == []
    [done] = archive(shop, tmp_path, date(2026, 4, 1))
    assert (done.month, entries(shop)) == (MARCH, 0)
    assert quick(shop.container).run(is_full=True).drifted_count == 0
    # The wallets go on from there.
    shop.container.end.end(shop.usage("ann"))
    shop.settle_everything()
    assert quick(shop.container).run(is_full=True).drifted_count == 0
    assert archive(shop, tmp_path, date(2026, 5, 1)) == []


def test_what_is_wrong_behind_an_archive_is_found(shop: Billing, tmp_path: Path) -> None:
    archive(shop, tmp_path)
    tamper(shop, "UPDATE archived_balances SET balance_micros = balance_micros + 1 WHERE wallet_id = 'ann'")
    found = quick(shop.container).run(is_full=True).drifted
    assert [(drift.wallet_id, drift.kind) for drift in found] == [("ann", "ledger_sum"), ("ann", "ledger_chain")]


def test_parquet(shop: Billing, tmp_path: Path) -> None:
    service = shop.container.archives
    [done] = service.archive(FEBRUARY, tmp_path, lambda export: parquet(export.columns, export.blocks), "parquet")
    assert pq.read_table(tmp_path / done.file_name).num_rows == 6


class TestNothingTwice:
    def test_a_reference_is_never_forgotten(self, shop: Billing, tmp_path: Path) -> None:
        first = shop.container.postings.post(Posting("ann", PostingKind.TOP_UP, 5_000_000, "invoice-1"))
        archive(shop, tmp_path, MARCH)
        again = shop.container.postings.post(Posting("ann", PostingKind.TOP_UP, 5_000_000, "invoice-1"))
        assert again.replayed
        assert again.entry == first.entry
        with pytest.raises(IdempotencyConflict):
            shop.container.postings.post(Posting("ann", PostingKind.TOP_UP, 6_000_000, "invoice-1"))

    def test_a_write_off_is_never_forgotten(self, shop: Billing, tmp_path: Path) -> None:
        shop.container.end.end(shop.usage("bob", output_tokens=40_000))
        shop.settle_everything()
        [failed] = shop.inbox("bob")
        first = shop.container.failed_ends.write_off(failed.id, "left", Caller("me"))
        tamper(shop, "UPDATE token_transactions SET created_at = '2026-03-18Z' WHERE created_at > '2026-06-01'")
        tamper(shop, "UPDATE usage_daily SET day = '2026-03-18' WHERE day > '2026-06-01'")
        archive(shop, tmp_path, date(2026, 4, 1))
        again = shop.container.failed_ends.write_off(failed.id, "left", Caller("me"))
        assert again.replayed
        assert again.entry.id == first.entry.id

    def test_a_key_never_bills_again(self, shop: Billing, tmp_path: Path) -> None:
        request = shop.usage("ann")
        shop.container.end.end(request)
        shop.settle_everything()
        tamper(shop, "UPDATE token_transactions SET created_at = '2026-03-18Z' WHERE created_at > '2026-06-01'")
        tamper(shop, "UPDATE usage_daily SET day = '2026-03-17' WHERE day > '2026-06-01' AND model <> ''")
        tamper(shop, "UPDATE usage_daily SET day = '2026-03-18' WHERE day > '2026-06-01'")
        archive(shop, tmp_path, date(2026, 4, 1))
        shop.container.redis_client.flushall()
        assert shop.container.end.end(request).replayed
        shop.settle_everything()
        assert entries(shop) == 0

    @pytest.mark.parametrize(("moment", "is_taken"), [("2026-01-31", False), ("2026-02-03", True)])
    def test_what_was_spooled_before_comes_in_no_more(
        self, shop: Billing, tmp_path: Path, moment: str, is_taken: bool
    ) -> None:
        """Ends without a key, in a spool that somebody restored: the ledger can't tell any more whether it has them."""
        archive(shop, tmp_path)
        of = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)
        end = AcceptedEnd(
            UUID(int=(of << 80) | (7 << 76) | (2 << 62)),
            WalletId("ann"),
            shop.usage("ann", idempotency_key=None),
            Price(1, 0),
            Deduction.COVERED,
            0,
        )
        with shop.container.engine.begin() as connection:
            assert bool(inbox.insert(connection, [end], were_kept=True)) == is_taken


class TestStopped:
    """It may stop anywhere; the same command goes on."""

    def test_while_it_writes(self, shop: Billing, tmp_path: Path) -> None:
        def failing(export: Any) -> Any:
            yield next(iter(export.blocks))
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            list(shop.container.archives.archive(FEBRUARY, tmp_path, failing, "csv"))
        assert list(tmp_path.iterdir()) == []
        assert len(archive(shop, tmp_path)) == 1

    def test_while_it_removes(self, shop: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archives, "REMOVED_AT_ONCE", 2)
        remove, calls = store.remove, []

        def stopping(*arguments: Any) -> int:
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return remove(*arguments)

        monkeypatch.setattr(store, "remove", stopping)
        before = report(shop)
        with pytest.raises(KeyboardInterrupt):
            archive(shop, tmp_path)
        assert entries(shop) == 12
        assert quick(shop.container).run(is_full=True).drifted_count == 0
        [done] = archive(shop, tmp_path)
        assert (done.month, entries(shop)) == (JANUARY, 8)
        assert report(shop) == before

    @pytest.mark.parametrize("damage", ["missing", "changed"])
    def test_without_its_file_nothing_is_removed(
        self, shop: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        monkeypatch.setattr(ArchiveService, "_remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            archive(shop, tmp_path)
        monkeypatch.undo()
        path = tmp_path / "ledger-2026-01.csv"
        kept = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(kept[:-2] + b"9\n")
        with pytest.raises(ArchiveRefused, match="isn't the file that was sealed"):
            archive(shop, tmp_path)
        assert entries(shop) == 14
        path.write_bytes(kept)
        assert [done.month for done in archive(shop, tmp_path)] == [JANUARY]


class TestRefused:
    def test_a_month_that_isnt_over_for_long(self, shop: Billing, tmp_path: Path) -> None:
        this_month = (datetime.now(UTC) + timedelta(days=31)).date().replace(day=1)
        with pytest.raises(Invalid):
            archive(shop, tmp_path, this_month)

    def test_a_ledger_that_doesnt_add_up(self, shop: Billing, tmp_path: Path) -> None:
        tamper(shop, "UPDATE token_transactions SET amount_micros = 1 WHERE kind = 'top_up' AND wallet_id = 'bob'")
        with pytest.raises(ArchiveRefused, match="wallet bob doesn't add up"):
            archive(shop, tmp_path)

    def test_roll_ups_that_arent_right(self, shop: Billing, tmp_path: Path) -> None:
        tamper(shop, "UPDATE usage_daily SET runs = runs + 1 WHERE day < '2026-02-01'")
        with pytest.raises(ArchiveRefused, match="roll-ups of 2026-01-17"):
            archive(shop, tmp_path)
        assert entries(shop) == 14

    def test_a_spool_that_isnt_drained(self, shop: Billing, tmp_path: Path) -> None:
        shop.container.redis_client.hset("tokentill:spool", "x", "y")
        with pytest.raises(ArchiveRefused, match="1 ends are spooled"):
            archive(shop, tmp_path)
        shop.container.redis_gate.close(OSError())
        with pytest.raises(Unavailable):
            archive(shop, tmp_path)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM token_transactions WHERE id = 7",
            "DELETE FROM token_transactions",
            "UPDATE token_transactions SET reason = 'x'",
            "TRUNCATE token_transactions",
        ],
    )
    def test_the_ledger_lets_nothing_go_that_isnt_archived(self, shop: Billing, tmp_path: Path, statement: str) -> None:
        for _ in range(2):
            with pytest.raises(sa.exc.DBAPIError, match="append-only"):
                shop.execute_in_postgres(statement)
            archive(shop, tmp_path)
