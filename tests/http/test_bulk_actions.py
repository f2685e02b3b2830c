"""Bulk actions over the admin API: a frozen selection, a confirmation by its figures, an outcome for each end."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pytest

from app.domain.postings import Posting, PostingKind
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, collect_now

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
USERS = [f"user-{i}" for i in range(4)]


class Killed(BaseException):
    """What a process dies of."""


@pytest.fixture
def shop(till: Billing) -> Billing:
    """Four users, each with five debts of 11 tokens and two tokens to pay them."""
    for user_id in USERS:
        till.wallet(user_id, tokens=2)
    till.container.end.end_all([till.usage(user_id, model="large") for user_id in USERS for _ in range(5)])
    till.settle_everything()
    return till


def body(action: str = "write_off", **fields: Any) -> dict[str, Any]:
    asked = {"action": action, "reference": "inc-1", "reason": "Outage of the model", **fields}
    return asked if "ids" in asked or "filter" in asked else {**asked, "filter": {}}


def drafted(admin: Admin, action: str = "write_off", **fields: Any) -> dict[str, Any]:
    return data(admin.post("/bulk-actions", body(action, **fields)), 201)


def confirmed(admin: Admin, action: str = "write_off", **fields: Any) -> int:
    draft = drafted(admin, action, **fields)
    figures = {"ends": draft["ends"], "cost": draft["cost"]}
    assert data(admin.post(f"/bulk-actions/{draft['id']}/confirm", figures), 202)["state"] in ("running", "done")
    return int(draft["id"])


def work_off(shop: Billing, seconds: float = 60) -> bool:
    """What the worker does."""
    return shop.container.bulk_actions.work_off(seconds)


def shown(admin: Admin, number: int) -> dict[str, Any]:
    return data(admin.get(f"/bulk-actions/{number}"))


def outcomes(admin: Admin, number: int) -> dict[str | None, int]:
    return {each["outcome"]: each["ends"] for each in shown(admin, number)["outcomes"]}


def top_up(shop: Billing, user_id: str, tokens: int) -> None:
    posting = Posting(user_id, PostingKind.TOP_UP, tokens * 1_000_000, f"top-up-{tokens}")
    shop.container.postings.post(posting)


class TestDraft:
    def test_says_what_it_is_about_and_does_nothing(self, admin: Admin, shop: Billing) -> None:
        shop.execute("UPDATE end_inbox SET state = 'dead' WHERE user_id = 'user-3'")
        draft = drafted(admin)
        heads = ("action", "state", "selection", "ends", "cost", "users", "reference")
        assert {name: draft[name] for name in heads} == {
            "action": "write_off", "state": "draft", "selection": {"filter": {}}, "ends": 20, "cost": 220, "users": 4,
            "reference": "inc-1",
        }  # fmt: skip
        assert draft["by_state"] == [
            {"state": "retrying", "ends": 15, "cost": 165}, {"state": "dead", "ends": 5, "cost": 55},
        ]  # fmt: skip
        assert draft["by_user"] == [{"user_id": user_id, "ends": 5, "cost": 55} for user_id in USERS]
        assert draft["by_error"] == [{"last_error": "insufficient_tokens", "ends": 20, "cost": 220}]
        assert (draft["actor"], draft["confirmed_by"], draft["open"]) == ("admin", None, 20)
        assert not work_off(shop)
        assert shop.inbox_size() == 20
        assert shown(admin, draft["id"]) == draft
        assert [item["id"] for item in admin.items("/bulk-actions")] == [draft["id"]]

    @pytest.mark.parametrize(
        ("filter", "ends"),
        [
            ({"user_id": "user-1"}, 5),
            ({"user_id": "user-1", "state": "dead"}, 0),
            ({"feature_endpoint_id": FEATURE, "model": "large", "kind": "usage"}, 20),
            ({"package_id": "nope"}, 0),
            ({"last_error": "insufficient_tokens", "younger_than": "1h", "age": "under_1h"}, 20),
            ({"older_than": "1h"}, 0),
            ({"min_cost": 11, "max_cost": Decimal("11.5")}, 20),
            ({"from": "2000-01-01", "to": "2999-01-01T00:00:00Z"}, 20),
        ],
    )
    def test_every_filter_of_the_list(self, admin: Admin, shop: Billing, filter: dict[str, Any], ends: int) -> None:
        draft = drafted(admin, filter=filter)
        assert draft["ends"] == ends
        assert set(draft["selection"]["filter"]) == set(filter)

    def test_of_ids_only_those_that_have_failed(self, admin: Admin, shop: Billing) -> None:
        mine = [str(end.id) for end in shop.inbox("user-0")]
        draft = drafted(admin, ids=[*mine[:2], UNKNOWN, mine[0]])
        assert (draft["ends"], draft["selection"]) == (2, {"ids": sorted({*mine[:2], UNKNOWN})})

    def test_under_one_reference_there_is_one(self, admin: Admin, shop: Billing) -> None:
        first = drafted(admin)
        shop.container.end.end(shop.usage("user-0"))
        again = admin.post("/bulk-actions", body())
        assert (data(again), again.headers["Idempotent-Replayed"]) == (first, "true")
        for slip in ({"reason": "Another"}, {"filter": {"user_id": "user-1"}}, {"action": "replay"}):
            failure(admin.post("/bulk-actions", body() | slip), 409, "idempotency_conflict")

    def test_what_is_refused(self, admin: Admin, shop: Billing) -> None:
        assert_invalid(admin.post("/bulk-actions", {}), "action", "reference", "reason")
        for slip, field in (
            ({"action": "delete"}, "action"), ({"reference": ""}, "reference"), ({"reason": "a\nb"}, "reason"),
            ({"filters": {}}, "filters"), ({"filter": {"user": "u"}}, "filter.user"), ({"user_id": "u"}, "user_id"),
            ({"filter": {"state": "accepted"}}, "filter.state"), ({"filter": {"older_than": "1"}}, "filter.older_than"),
            ({"filter": {"last_error": "x"}}, "filter.last_error"), ({"filter": {"min_cost": "1"}}, "filter.min_cost"),
            ({"filter": {"min_cost": 2, "max_cost": 1}}, "filter.max_cost"), ({"filter": {"age": 1}}, "filter.age"),
            ({"filter": {"from": "2030-01-02", "to": "2030-01-01"}}, "filter.to"),
            ({"filter": {"to": "x"}}, "filter.to"),
        ):  # fmt: skip
            assert_invalid(admin.post("/bulk-actions", body() | slip), field)
        for ids in ([], ["x"], "x", [1], [UNKNOWN.upper()], [UNKNOWN] * 1_001):
            assert_invalid(admin.post("/bulk-actions", body(ids=ids)), "ids")
        both = {**body(), "ids": [UNKNOWN]}
        neither = {name: value for name, value in both.items() if name not in ("ids", "filter")}
        for asked in (both, neither):
            assert_invalid(admin.post("/bulk-actions", asked), "filter")
        assert admin.items("/bulk-actions") == []
        for number in (999, 2**64):
            for path in ("", "/ends"):
                failure(admin.get(f"/bulk-actions/{number}{path}"), 404, "not_found")
            failure(admin.post(f"/bulk-actions/{number}/confirm", {"ends": 0, "cost": 0}), 404, "not_found")
            failure(admin.post(f"/bulk-actions/{number}/cancel", {}), 404, "not_found")


class TestConfirmation:
    def test_states_the_figures(self, admin: Admin, shop: Billing) -> None:
        number = drafted(admin)["id"]
        path = f"/bulk-actions/{number}/confirm"
        for figures, fields in (
            ({"ends": 19, "cost": 220}, ["ends"]), ({"ends": 20, "cost": Decimal("220.000001")}, ["cost"]),
            ({"ends": 0, "cost": 0}, ["cost", "ends"]),
        ):  # fmt: skip
            assert sorted(failure(admin.post(path, figures), 409, "figures_differ")["errors"]) == fields
        assert_invalid(admin.post(path, {}), "ends", "cost")
        assert_invalid(admin.post(path, {"ends": True, "cost": "220", "sure": True}), "ends", "cost", "sure")
        assert shown(admin, number)["state"] == "draft"
        assert data(admin.post(path, {"ends": 20, "cost": 220}), 202)["state"] == "running"

    def test_who_asked_and_who_confirmed(self, admin: Admin, shop: Billing) -> None:
        admin._headers = {**admin._headers, "X-Actor": "ann"}
        draft = drafted(admin)
        admin._headers["X-Actor"] = "ben"
        data(admin.post(f"/bulk-actions/{draft['id']}/confirm", {"ends": 20, "cost": 220}), 202)
        work_off(shop)
        done = shown(admin, draft["id"])
        assert (done["actor"], done["confirmed_by"]) == ("admin/ann", "admin/ben")
        assert {entry.actor for entry in shop.ledger("user-0") if entry.kind == "write_off"} == {"admin/ben"}


class TestWriteOff:
    def test_every_end_as_a_single_one_would_be(self, admin: Admin, shop: Billing) -> None:
        # The single one, for its entries.
        [single, *_] = shop.inbox("user-0")
        data(admin.post(f"/failed-ends/{single.id}/write-off", {"reason": "Outage of the model"}), 201)
        number = confirmed(admin)
        work_off(shop)
        done = shown(admin, number)
        assert (done["state"], done["open"], done["outcomes"]) == (
            "done", 0, [{"outcome": "written_off", "ends": 19, "cost": 209}],
        )  # fmt: skip
        assert done["finished_at"] is not None
        assert shop.inbox_size() == 0
        assert_conserved(shop, *USERS)
        single_pair, *pairs = _pairs(shop, *USERS)
        assert len(pairs) == 19
        for pair in pairs:
            for entry, like in zip(pair, single_pair, strict=True):
                differ = {name for name in like if entry[name] != like[name]}
                of_its_own = {"id", "wallet_id", "user_id", "end_id", "created_at", "accepted_at"}
                # A write-off of many says by which action it was made.
                assert differ <= of_its_own | {"reference", "request_id"}
        # Reports have it, wallets owe nothing, and start again.
        usage = data(admin.get("/usage", group_by="user_id"))["items"]
        assert [(item["runs"], item["cost"], item["written_off"], item["net"]) for item in usage] == [
            (5, 55, 55, 0)
        ] * 4
        for user_id in USERS:
            wallet = data(admin.get(f"/wallets/{user_id}"))
            assert (wallet["token"], wallet["posted_token"], wallet["debt_token"]) == (2, 2, 0)
        data(admin.post("/reconciliations", {}), 202)
        shop.container.reconciliation.run_requested()
        assert data(admin.get("/reconciliations/1"))["drifted_count"] == 0
        # A second run does nothing.
        ledgers = [shop.ledger(user_id) for user_id in USERS]
        data(admin.post(f"/bulk-actions/{number}/confirm", {"ends": 19, "cost": 209}), 202)
        assert not work_off(shop)
        assert [shop.ledger(user_id) for user_id in USERS] == ledgers

    def test_what_became_settled_or_written_off_meanwhile(self, admin: Admin, shop: Billing) -> None:
        draft = drafted(admin)
        top_up(shop, "user-0", 20)
        collect_now(shop.container, "user-0")
        [written, corrected, waiting, *_] = (end.id for end in shop.inbox("user-1"))
        data(admin.post(f"/failed-ends/{written}/write-off", {"reason": "Gone"}), 201)
        data(admin.post(f"/ends/{corrected}/reversals", {"reference": "r", "reason": "Empty"}), 201)
        shop.execute(f"UPDATE end_inbox SET cost_micros = cost_micros + 1 WHERE id = '{waiting}'")
        shop.execute("UPDATE end_inbox SET wallet_id = 'nobody' WHERE user_id = 'user-2'")
        shop.execute("UPDATE bulk_action_ends SET wallet_id = 'nobody' WHERE user_id = 'user-2'")
        failed_later = shop.container.end.end(shop.usage("user-3"))
        assert failed_later.deduction == "not-return-able"
        data(admin.post(f"/bulk-actions/{draft['id']}/confirm", {"ends": 20, "cost": 220}), 202)
        work_off(shop)
        assert outcomes(admin, draft["id"]) == {
            "written_off": 10, "already_settled": 2, "already_written_off": 1, "corrected": 1, "changed": 1,
            "refused": 5,
        }  # fmt: skip
        assert shown(admin, draft["id"])["state"] == "done"
        [refused, *_] = admin.items(f"/bulk-actions/{draft['id']}/ends", outcome="refused")
        assert (refused["user_id"], refused["detail"]) == ("user-2", "wallet_not_found")
        # What failed after the draft isn't meant.
        assert len(shop.inbox("user-3")) == 1
        assert_conserved(shop, "user-0", "user-1", "user-3")

    def test_what_stands_behind_it_is_collected(self, admin: Admin, shop: Billing) -> None:
        [first, *_] = shop.inbox("user-0")
        shop.container.end.end(shop.usage("user-0", output_tokens=4))
        shop.settle_everything()
        number = confirmed(admin, filter={"user_id": "user-0", "min_cost": 2})
        work_off(shop)
        assert outcomes(admin, number) == {"written_off": 5}
        shop.container.collection.collect(first.wallet_id, seconds=5)
        assert (shop.inbox("user-0"), shop.balance("user-0").posted_micros) == ([], 900_000)

    def test_ends_and_tables(self, admin: Admin, shop: Billing) -> None:
        number = confirmed(admin)
        work_off(shop)
        items = admin.items(f"/bulk-actions/{number}/ends", limit=3)
        assert len(items) == 20
        assert {(item["outcome"], item["cost"], item["state"]) for item in items} == {("written_off", 11, "retrying")}
        assert admin.items(f"/bulk-actions/{number}/ends", outcome="settled") == []
        assert_invalid(admin.get(f"/bulk-actions/{number}/ends", outcome="gone?"), "outcome")
        table = admin.get(f"/bulk-actions/{number}/ends", accept="text/csv").text.splitlines()
        assert (len(table), table[0].split(",")[:3]) == (21, ["end_id", "user_id", "cost"])
        assert len(admin.get("/bulk-actions", accept="text/csv").text.splitlines()) == 2

    def test_killed_half_way_it_goes_on(self, admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.operations.bulk_actions.ENDS_PER_BATCH", 3)
        number = confirmed(admin)
        announce, announced = shop.container.wallet_changes.announce, []

        def die(*args: Any) -> None:
            if len(announced) == 3:
                raise Killed
            announced.append(args)
            announce(*args)

        # In the worst moment: after the commit, before anybody heard of it.
        monkeypatch.setattr(shop.container.wallet_changes, "announce", die)
        with pytest.raises(Killed):
            work_off(shop)
        half = outcomes(admin, number)
        assert 0 < half["written_off"] < 20
        monkeypatch.setattr(shop.container.wallet_changes, "announce", announce)
        work_off(shop)
        assert outcomes(admin, number) == {"written_off": 20}
        assert len(_pairs(shop, *USERS)) == 20
        assert_conserved(shop, *USERS)
        # The copy that nobody told is brought up to it by the sweep.
        shop.container.stale_copies.refresh(older_than_seconds=0)
        assert {shop.cached_spendable_micros(user_id) for user_id in USERS} <= {2_000_000, None}

    def test_from_many_processes_at_once_each_is_done_once(self, admin: Admin, shop: Billing) -> None:
        first = confirmed(admin, reference="a")
        second = confirmed(admin, reference="b")
        threads = [threading.Thread(target=work_off, args=(shop,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        work_off(shop)
        assert outcomes(admin, first) == {"written_off": 20}
        assert outcomes(admin, second) == {"already_written_off": 20}
        assert_conserved(shop, *USERS)

    def test_a_locked_wallet_makes_only_its_own_ends_wait(self, admin: Admin, shop: Billing) -> None:
        number = confirmed(admin)
        with shop.container.export_engine.begin() as operator:
            operator.exec_driver_sql("SELECT 1 FROM wallets WHERE wallet_id = 'user-1' FOR UPDATE")
            assert not work_off(shop)
            assert outcomes(admin, number) == {"written_off": 15, None: 5}
        work_off(shop)
        assert outcomes(admin, number) == {"written_off": 20}


class TestReplay:
    def test_each_says_what_came_of_it(self, admin: Admin, shop: Billing) -> None:
        # user-0 can pay all by now, user-1 two of five, user-2 nothing; one of user-3 is broken.
        for user_id, posted in (("user-0", 60), ("user-1", 25)):
            shop.execute_in_postgres(f"UPDATE wallets SET posted_micros = {posted}000000 WHERE user_id = '{user_id}'")
        [broken, *_] = shop.inbox("user-3")
        shop.execute(
            f"UPDATE end_inbox SET state = 'dead', last_error = 'too_slow', profit_micros = 0 WHERE id = '{broken.id}'"
        )
        number = confirmed(admin, "replay")
        work_off(shop)
        view = shown(admin, number)
        assert (view["state"], view["open"], view["awaited"]) == ("running", 20, 20)
        # The workers'.
        shop.settle_everything()
        for user_id in USERS:
            shop.container.collection.collect(user_id, seconds=5)
        work_off(shop)
        assert shown(admin, number)["state"] == "done"
        assert outcomes(admin, number) == {"settled": 7, "failed_again": 13}
        again = admin.items(f"/bulk-actions/{number}/ends", outcome="failed_again")
        details = {(item["user_id"], item["detail"]) for item in again}
        assert details == {
            ("user-1", "insufficient_tokens"), ("user-2", "insufficient_tokens"), ("user-3", "insufficient_tokens"),
            ("user-3", "quote_disagrees"),
        }  # fmt: skip

    def test_many_of_one_wallet_are_tried_together(
        self, admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Only so many of a wallet's debts are counted in a try: those behind them were tried with it.
        monkeypatch.setattr(shop.container.collection, "_batch_size", 2)
        number = confirmed(admin, "replay", filter={"user_id": "user-2"})
        work_off(shop)
        assert outcomes(admin, number) == {None: 5}
        shop.container.collection.collect("user-2", seconds=5)
        work_off(shop)
        assert outcomes(admin, number) == {"failed_again": 5}

    def test_settled_before_its_turn(self, admin: Admin, shop: Billing) -> None:
        number = confirmed(admin, "replay", filter={"user_id": "user-0"})
        top_up(shop, "user-0", 100)
        collect_now(shop.container, "user-0")
        work_off(shop)
        assert (outcomes(admin, number), shown(admin, number)["state"]) == ({"already_settled": 5}, "done")


class TestCancel:
    def test_a_draft(self, admin: Admin, shop: Billing) -> None:
        number = drafted(admin)["id"]
        assert data(admin.post(f"/bulk-actions/{number}/cancel", {}))["state"] == "cancelled"
        refused = admin.post(f"/bulk-actions/{number}/confirm", {"ends": 20, "cost": 220})
        failure(refused, 409, "bulk_action_cancelled")
        work_off(shop)
        assert (outcomes(admin, number), shop.inbox_size()) == ({"cancelled": 20}, 20)

    def test_half_way(self, admin: Admin, shop: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.operations.bulk_actions.ENDS_PER_BATCH", 3)
        number = confirmed(admin)
        service = shop.container.bulk_actions
        work_on, worked = service._work_on, []

        def cancel_in_between(*args: Any) -> int:
            if len(worked) == 2:
                data(admin.post(f"/bulk-actions/{number}/cancel", {}))
            worked.append(args)
            return work_on(*args)

        monkeypatch.setattr(service, "_work_on", cancel_in_between)
        work_off(shop)
        found = outcomes(admin, number)
        assert set(found) == {"written_off", "cancelled"}
        assert sum(found.values()) == 20
        assert shop.inbox_size() == found["cancelled"]
        assert shown(admin, number)["state"] == "cancelled"

    def test_replays_are_looked_after(self, admin: Admin, shop: Billing) -> None:
        number = confirmed(admin, "replay")
        work_off(shop)
        assert data(admin.post(f"/bulk-actions/{number}/cancel", {}))["state"] == "cancelling"
        for user_id in USERS:
            shop.container.collection.collect(user_id, seconds=5)
        work_off(shop)
        assert (outcomes(admin, number), shown(admin, number)["state"]) == ({"failed_again": 20}, "cancelled")


def _pairs(shop: Billing, *user_ids: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Write-offs, each with the entry that it makes good."""
    pairs = []
    for user_id in user_ids:
        entries = [entry._asdict() for entry in shop.ledger(user_id) if entry.end_id is not None]
        assert [entry["kind"] for entry in entries] == ["write_off", "usage"] * (len(entries) // 2)
        for written, billed in zip(entries[::2], entries[1::2], strict=True):
            assert written["end_id"] == billed["end_id"]
            assert written["balance_after_micros"] - written["amount_micros"] == billed["balance_after_micros"]
            pairs.append(({**written}, {**billed, "reference": None}))
    return pairs
