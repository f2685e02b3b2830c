"""Lists and reports as tables: CSV that is exact and safe in a spreadsheet, Parquet, and how streaming ends."""

from __future__ import annotations

import csv
import importlib.util
import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from app.domain.keys import Caller
from app.domain.postings import Posting, PostingKind
from app.operations import exports
from app.stores.postgres.engine import allow_seconds
from app.stores.postgres.exports import copying
from app.wire import tables
from tests.http.admin import Admin, assert_invalid, failure
from tests.processes import wait_until
from tests.support import FEATURE, Billing

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    for user in ("ann", "=bob"):
        billing.wallet(user, tokens=100)
    billing.container.end.end_all(
        [
            billing.usage("ann", model="small", output_tokens=1, idempotency_key="run-1"),
            billing.usage("=bob", model="-large", output_tokens=80, idempotency_key='a "quoted", run'),
        ]
    )
    billing.settle_everything()
    billing.container.postings.post(
        Posting("ann", PostingKind.ADJUSTMENT, -1, "@ref", "+1 for you", caller=Caller("＝sum"))
    )
    return billing


def table(answer: TestResponse) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def parquet(answer: TestResponse) -> pa.Table:
    assert answer.status_code == 200, answer.text
    return pq.read_table(io.BytesIO(answer.data))


def fill(billing: Billing, count: int) -> None:
    """So many entries of nothing, past the triggers."""
    with billing.container.engine.begin() as connection:
        allow_seconds(connection, 60)
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(
            sa.text("""
                INSERT INTO token_transactions (wallet_id, user_id, kind, amount_micros, balance_after_micros,
                    base_cost_micros, profit_micros, cost_micros, model, reference, created_at)
                SELECT 'ann', 'ann', 'usage', 0, 0, 0, 0, 0, 'model', repeat('x', 100), now()
                FROM generate_series(1, :count)
            """),
            {"count": count},
        )


def running(billing: Billing) -> int:
    with billing.container.engine.connect() as connection:
        return int(
            connection.execute(
                sa.text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'")
            ).scalar_one()
        )


def get(admin: Admin, path: str, accept: str = CSV, **query: Any) -> TestResponse:
    return admin.get(path, accept=accept, **query)


@pytest.mark.usefixtures("shop")
class TestCsv:
    def test_the_ledger_oldest_first(self, admin: Admin) -> None:
        answer = get(admin, "/transactions")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="transactions.csv"'
        rows = table(answer)
        json_rows = admin.items("/transactions")[::-1]
        assert [row["id"] for row in rows] == [str(row["id"]) for row in json_rows]
        for name in ("kind", "end_id", "created_at", "accepted_at", "token", "balance_after", "base_cost"):
            assert [row[name] for row in rows] == ["" if row[name] is None else str(row[name]) for row in json_rows], (
                name
            )

    def test_amounts_are_exact_and_unguarded(self, admin: Admin) -> None:
        rows = table(get(admin, "/transactions", kind="usage"))
        assert {(row["token"], row["cost"]) for row in rows} == {("-22", "22"), ("-0.275", "0.275")}
        [row] = table(get(admin, "/transactions", kind="adjustment"))
        assert row["token"] == "-0.000001"

    def test_no_cell_is_a_formula(self, admin: Admin) -> None:
        rows = table(get(admin, "/transactions"))
        by_kind = {(row["user_id"], row["kind"]): row for row in rows}
        bought = by_kind["'=bob", "usage"]
        assert (bought["model"], bought["reference"]) == ("'-large", 'a "quoted", run')
        adjusted = by_kind["ann", "adjustment"]
        assert (adjusted["reference"], adjusted["reason"], adjusted["actor"]) == ("'@ref", "'+1 for you", "'＝sum")
        assert {row["user_id"] for row in table(get(admin, "/wallets"))} == {"ann", "'=bob"}

    def test_filters_hold(self, admin: Admin) -> None:
        assert len(table(get(admin, "/transactions", user_id="ann", kind="usage"))) == 1
        assert len(table(get(admin, "/wallets/ann/transactions"))) == 3
        assert table(get(admin, "/transactions", model="it's; DROP TABLE wallets --%s")) == []
        failure(get(admin, "/wallets/nobody/transactions"), 404, "wallet_not_found")

    def test_usage(self, admin: Admin) -> None:
        rows = table(get(admin, "/usage", group_by="model,user_id"))
        assert [(row["model"], row["user_id"], row["runs"], row["net"]) for row in rows] == [
            ("'-large", "'=bob", "1", "22"),
            ("small", "ann", "1", "0.275"),
        ]
        [row] = table(get(admin, "/usage"))
        assert (row["runs"], row["cost"]) == ("2", "22.275")

    @pytest.mark.parametrize(
        "path",
        ["/feature-endpoints", "/packages", "/profit-rules", "/wallets", "/failed-ends", "/wallets/ann/holds"],
    )
    def test_every_list(self, admin: Admin, path: str) -> None:
        rows = table(get(admin, path))
        items = admin.items(path)
        assert len(rows) == len(items)
        if items:
            assert list(rows[0]) == list(items[0])
        answer = get(admin, path)
        assert answer.text.split("\n")[0].count(",") > 1

    @pytest.mark.parametrize("path", ["/transactions", "/usage", "/wallets"])
    @pytest.mark.parametrize("name", ["limit", "cursor"])
    def test_a_table_has_no_pages(self, admin: Admin, path: str, name: str) -> None:
        assert_invalid(get(admin, path, **{name: "1"}), name)

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html", "text/csv;q=0.5, application/json", ""])
    def test_others_get_json(self, admin: Admin, accept: str) -> None:
        assert get(admin, "/usage", accept).get_json()["success"]


class TestManyPages:
    def test_a_list_is_fetched_to_its_end(self, admin: Admin, billing: Billing) -> None:
        billing.catalog()
        with billing.container.engine.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO wallets (wallet_id, user_id) SELECT n, n FROM"
                        " (SELECT CAST(n AS text) AS n FROM generate_series(1, 2500) AS n) AS ids")
            )  # fmt: skip
        rows = table(get(admin, "/wallets"))
        assert len({row["user_id"] for row in rows}) == 2_500

    def test_an_export_comes_in_blocks(self, admin: Admin, billing: Billing) -> None:
        billing.catalog()
        billing.wallet("ann")
        fill(billing, 20_000)
        answer = get(admin, "/transactions", kind="usage")
        blocks = list(answer.iter_encoded())
        assert len(blocks) > 10
        assert b"".join(blocks).count(b"\n") == 20_001
        found = parquet(get(admin, "/transactions", PARQUET, kind="usage"))
        assert found.num_rows == 20_000
        assert len(set(found["id"].to_pylist())) == 20_000


@pytest.mark.usefixtures("shop")
class TestParquet:
    def test_the_ledger(self, admin: Admin) -> None:
        answer = get(admin, "/transactions", PARQUET)
        assert answer.headers["Content-Type"] == PARQUET
        found = parquet(answer)
        assert found.schema.field("token").type == pa.decimal128(38, 6)
        assert found.schema.field("created_at").type == pa.timestamp("ms", "UTC")
        rows = found.to_pylist()
        assert [row["id"] for row in rows] == [row["id"] for row in admin.items("/transactions")[::-1]]
        by_kind = {(row["user_id"], row["kind"]): row for row in rows}
        # Exact: nothing is guarded here.
        assert by_kind["=bob", "usage"]["model"] == "-large"
        assert by_kind["ann", "adjustment"]["token"] == Decimal("-0.000001")
        assert by_kind["ann", "adjustment"]["model"] is None
        assert isinstance(by_kind["ann", "usage"]["accepted_at"], datetime)
        assert by_kind["ann", "usage"]["accepted_at"].tzinfo is not None

    def test_usage_by_day(self, admin: Admin) -> None:
        [row] = parquet(get(admin, "/usage", PARQUET, group_by="day,price_id")).to_pylist()
        assert isinstance(row["day"], date)
        assert (row["price_id"], row["runs"], row["net"]) == (None, 2, Decimal("22.275"))
        assert abs((datetime.now(UTC).date() - row["day"]).days) <= 1

    def test_nothing(self, admin: Admin) -> None:
        found = parquet(get(admin, "/transactions", PARQUET, kind="chargeback"))
        assert (found.num_rows, found.schema.names[0]) == (0, "id")

    def test_lists(self, admin: Admin) -> None:
        [package] = parquet(get(admin, "/packages", PARQUET)).to_pylist()
        assert package["feature_endpoint_ids"] == f'["{FEATURE}"]'
        assert len(parquet(get(admin, "/wallets", PARQUET)).to_pylist()) == 2

    def test_without_pyarrow(self, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else find_spec(name, *rest)
        )
        answer = failure(get(admin, "/usage", PARQUET), 406, "not_acceptable")
        assert "pyarrow" in answer["message"]
        assert get(admin, "/usage", CSV).status_code == 200

    def test_row_groups(self, admin: Admin, monkeypatch: pytest.MonkeyPatch, shop: Billing) -> None:
        monkeypatch.setattr(tables, "GROUP_BYTES", 1)
        monkeypatch.setattr(copying, "BLOCK_BYTES", 1)
        file = pq.ParquetFile(io.BytesIO(get(admin, "/transactions", PARQUET).data))
        assert file.num_row_groups == file.metadata.num_rows == 5


class TestConnections:
    """Exports have their own, and give them back whatever becomes of them."""

    def test_who_stops_reading_ends_it(self, billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        billing.catalog()
        billing.wallet("ann")
        # More than the sockets' buffers take: otherwise Postgres is done before anything is read.
        fill(billing, 100_000)
        service = billing.container.exports
        for _ in range(5):
            export = service.transactions(exports.Entries(), exports.Style.EXACT)
            assert next(export.blocks)
            assert running(billing) == 1
            export.blocks.close()  # type: ignore[attr-defined]
        assert running(billing) == 0

    def test_a_few_at_once(self, admin: Admin, billing: Billing) -> None:
        billing.catalog()
        billing.wallet("ann")
        fill(billing, 20_000)
        service = billing.container.exports
        open_ones = [service.transactions(exports.Entries(), exports.Style.EXACT) for _ in range(2)]
        for export in open_ones:
            next(export.blocks)
        answer = failure(get(admin, "/transactions"), 503, "temporarily_unavailable")
        assert answer["message"] == "As many exports run as may; please try again"
        # Nobody else is kept from anything.
        assert admin.get("/transactions").status_code == 200
        for export in open_ones:
            export.blocks.close()  # type: ignore[attr-defined]
        assert len(table(get(admin, "/transactions"))) == 20_001

    def test_one_that_nobody_reads_is_cut_off(self, billing: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(copying, "LOOK_SECONDS", 0.05)
        monkeypatch.setattr(copying, "STALLED_SECONDS_MAX", 0.5)
        billing.catalog()
        billing.wallet("ann")
        fill(billing, 60_000)
        export = billing.container.exports.transactions(exports.Entries(), exports.Style.EXACT)
        next(export.blocks)
        wait_until(lambda: running(billing) == 0)
        with pytest.raises(Exception, match="closed"):
            list(export.blocks)
        assert next(billing.container.exports.transactions(exports.Entries(), exports.Style.EXACT).blocks)

    def test_postgres_away(self, admin: Admin, billing: Billing) -> None:
        billing.container.postgres_gate.close(OSError())
        failure(get(admin, "/usage"), 503, "temporarily_unavailable")
