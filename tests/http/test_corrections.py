"""Reversals and amendments over the admin API: whatever became of the end, the ledger explains every number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient

from app.billing.start import StartRequest
from app.domain.errors import WalletBusy
from app.domain.wallets import Access
from tests.http.admin import PREFIX, Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved, collect_now

REVERSAL = {"reference": "ticket-1", "reason": "Empty answer"}
PRICE = {"input_per_million": 1_000_000, "output_per_million": 2_000_000, "cached_input_per_million": 100_000}
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def amendment(output_tokens: int, reference: str = "ticket-1") -> dict[str, Any]:
    return {"reference": reference, "reason": "Recounted", "input_token": 10, "output_token": output_tokens}


def end_of(till: Billing, output_tokens: int = 40, **fields: Any) -> str:
    """The id of a new end of the wallet `u`; 40 output tokens cost 11."""
    before = {end.id for end in till.inbox("u")}
    till.container.end.end(till.usage("u", output_tokens=output_tokens, **fields))
    [new] = [end.id for end in till.inbox("u") if end.id not in before]
    return str(new)


def settled_end(till: Billing, output_tokens: int = 40, **fields: Any) -> str:
    end_id = end_of(till, output_tokens, **fields)
    till.settle_everything()
    return end_id


def entries(till: Billing, end_id: str) -> list[tuple[str, int]]:
    """Kind and tokens of what the ledger says of an end, oldest first."""
    return [
        (entry.kind, entry.amount_micros // 1_000_000)
        for entry in till.ledger("u")
        if UUID(end_id) in (entry.end_id, entry.corrects)
    ]


def balance(till: Billing) -> tuple[int, int, int]:
    """Posted, pending and debt in tokens, once the cache is held to them."""
    found = till.balance("u")
    assert till.cached_spendable_micros("u") in (None, found.spendable_micros)
    assert_conserved(till, "u")
    return tuple(micros // 1_000_000 for micros in (found.posted_micros, found.pending_micros, found.debt_micros))  # type: ignore[return-value]


def debt(till: Billing) -> str:
    """An end of 33 tokens in a wallet of 20, settled as debt."""
    end_id = end_of(till, 120)
    till.settle_everything()
    assert balance(till) == (20, 0, 33)
    return end_id


def dead(till: Billing) -> str:
    end_id = debt(till)
    till.execute("UPDATE end_inbox SET state = 'dead'")
    return end_id


class TestReversal:
    def test_of_a_settled_end(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till, model="large", process_id="run-1")
        response = admin.post(f"/ends/{end_id}/reversals", REVERSAL)
        reversed_ = data(response, 201)
        assert "Idempotent-Replayed" not in response.headers
        [entry] = reversed_["transactions"]
        assert (
            entry.items()
            >= {
                "kind": "reversal",
                "token": 11,
                "base_cost": -10,
                "profit": -1,
                "cost": -11,
                "input_token": -10,
                "output_token": -40,
                "model": "large",
                "feature_endpoint_id": FEATURE,
                "process_id": "run-1",
                "corrects": end_id,
                "end_id": None,
                "reference": "ticket-1",
                "reason": "Empty answer",
                "actor": "admin",
                "balance_after": 20,
            }.items()
        )
        assert (
            reversed_.items()
            >= {
                "kind": "reversal",
                "user_id": "u",
                "corrects": end_id,
                "token": 11,
                "posted_token": 11,
                "debt_token": 0,
                "cost_before": 11,
                "cost": 0,
                "input_token": 0,
                "output_token": 0,
            }.items()
        )
        assert data(admin.get("/wallets/u/transactions"))["items"][0] == entry
        assert balance(till) == (20, 0, 0)

    def test_of_an_accepted_end(self, admin: Admin, till: Billing) -> None:
        end_id = end_of(till)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        assert (reversed_["posted_token"], reversed_["debt_token"]) == (11, 0)
        assert entries(till, end_id) == [("usage", -11), ("reversal", 11)]
        assert balance(till) == (20, 0, 0)
        till.settle_everything()
        assert balance(till) == (20, 0, 0)

    @pytest.mark.parametrize("make", [debt, dead])
    def test_of_a_debt_or_a_dead_letter(self, admin: Admin, till: Billing, make: Any) -> None:
        end_id = make(till)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        assert (reversed_["token"], reversed_["posted_token"], reversed_["debt_token"]) == (33, 0, -33)
        assert entries(till, end_id) == [("reversal", 33), ("usage", -33)]
        assert [entry["balance_after"] for entry in reversed_["transactions"]] == [53, 20]
        assert till.inbox("u") == []
        assert balance(till) == (20, 0, 0)
        assert till.container.start.start(StartRequest("u", FEATURE)).access is Access.GRANTED

    def test_of_an_end_that_was_not_covered_and_no_message_reached(self, admin: Admin, till: Billing) -> None:
        end_id = end_of(till, 120)
        data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        assert entries(till, end_id) == [("reversal", 33), ("usage", -33)]
        assert balance(till) == (20, 0, 0)

    def test_of_a_dead_letter_whose_quote_disagrees(self, admin: Admin, till: Billing, disagreeing: str) -> None:
        reversed_ = data(admin.post(f"/ends/{disagreeing}/reversals", REVERSAL), 201)
        # The cost that was promised counts.
        assert reversed_["token"] == 10
        assert balance(till) == (20, 0, 0)

    def test_what_stands_behind_a_reversed_debt_is_collected(self, admin: Admin, till: Billing) -> None:
        large = debt(till)
        small = settled_end(till)
        assert balance(till) == (20, 0, 44)
        data(admin.post(f"/ends/{large}/reversals", REVERSAL), 201)
        till.container.collection.collect("u", seconds=5)
        assert entries(till, small) == [("usage", -11)]
        assert balance(till) == (9, 0, 0)

    def test_of_an_end_without_a_cost(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till, 0)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        assert [entry["input_token"] for entry in reversed_["transactions"]] == [-10]
        assert balance(till) == (20, 0, 0)

    def test_repeated(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        first = data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        again = admin.post(f"/ends/{end_id}/reversals", REVERSAL)
        assert data(again, 200) == first
        assert again.headers["Idempotent-Replayed"] == "true"
        assert balance(till) == (20, 0, 0)

    def test_the_same_reference_with_another_body(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        failure(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reason": "Else"}), 409, "idempotency_conflict")
        failure(admin.post(f"/ends/{end_id}/amendments", amendment(20)), 409, "idempotency_conflict")
        # A reference belongs to its end.
        data(admin.post(f"/ends/{settled_end(till)}/reversals", REVERSAL), 201)

    def test_never_more_than_the_run_took(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        data(admin.post(f"/ends/{end_id}/amendments", amendment(20)), 201)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reference": "ticket-2"}), 201)
        assert (reversed_["cost_before"], reversed_["token"]) == (5.5, 5.5)
        failure(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reference": "ticket-3"}), 409, "exceeds_original")
        assert balance(till) == (20, 0, 0)

    def test_the_key_of_a_reversed_end_still_answers_as_first(self, admin: Admin, till: Billing) -> None:
        request = till.usage("u", output_tokens=40, process_id="run-1")
        first = till.container.end.end(request)
        [end] = till.inbox("u")
        data(admin.post(f"/ends/{end.id}/reversals", REVERSAL), 201)
        for _ in range(2):
            again = till.container.end.end(request)
            assert (again.replayed, again.cost_micros, again.spendable_micros, again.deduction) == (
                True,
                first.cost_micros,
                first.spendable_micros,
                first.deduction,
            )
            till.container.redis_client.flushall()
        till.settle_everything()
        assert balance(till) == (20, 0, 0)

    def test_of_a_correction(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        charged = data(admin.post(f"/ends/{end_id}/amendments", amendment(200)), 201)
        assert charged["debt_token"] == 44
        for _ in range(2):
            failure(admin.post(f"/ends/{charged['charge_id']}/reversals", REVERSAL), 409, "correction_of_correction")
            till.execute("UPDATE wallets SET overdraft_limit_micros = 100000000")
            collect_now(till.container, "u")
        assert balance(till) == (-35, 0, 0)

    def test_of_a_written_off_end(self, admin: Admin, till: Billing) -> None:
        end_id = debt(till)
        data(admin.post(f"/failed-ends/{end_id}/write-off", {"reason": "Gone"}), 201)
        failure(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 409, "written_off")
        failure(admin.post(f"/ends/{end_id}/amendments", amendment(1)), 409, "written_off")

    def test_of_an_end_without_a_wallet(self, admin: Admin, till: Billing) -> None:
        end_id = debt(till)
        till.execute("UPDATE end_inbox SET wallet_id = 'nobody', state = 'dead', last_error = 'wallet_missing'")
        failure(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 404, "wallet_not_found")

    def test_of_a_wallet_that_is_locked(self, till: Billing, admin: Admin) -> None:
        end_id = settled_end(till)
        with till.container.engine.begin() as connection:
            connection.exec_driver_sql("SELECT 1 FROM wallets WHERE user_id = 'u' FOR UPDATE")
            failure(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 503, WalletBusy.code)
        data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)


class TestAmendment:
    @pytest.mark.parametrize("make", [settled_end, end_of])
    def test_down_and_up(self, admin: Admin, till: Billing, make: Any) -> None:
        end_id = make(till)
        down = data(admin.post(f"/ends/{end_id}/amendments", amendment(20)), 201)
        assert (down["cost_before"], down["cost"], down["token"]) == (11, 5.5, 5.5)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(60, "ticket-2")), 201)
        assert (up["cost_before"], up["cost"], up["token"], up["posted_token"]) == (5.5, 16.5, -11, -11)
        [entry] = up["transactions"]
        assert (entry["kind"], entry["token"], entry["output_token"], entry["input_token"], entry["corrects"]) == (
            "amendment",
            -11,
            40,
            0,
            end_id,
        )
        assert sum(entry.amount_micros for entry in till.ledger("u")[1:]) == -16_500_000
        assert till.balance("u").posted_micros == 3_500_000
        assert till.inbox("u") == []
        listed = data(admin.get(f"/ends/{end_id}/corrections"))["items"]
        assert listed == [down, up]

    def test_up_beyond_the_balance_is_debt_and_collected(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 201)
        assert (up["posted_token"], up["debt_token"], up["transactions"]) == (0, 11, [])
        assert balance(till) == (9, 0, 11)
        assert till.container.start.start(StartRequest("u", FEATURE)).access is Access.DENIED
        [owed] = data(admin.get("/failed-ends"))["items"]
        assert (owed["id"], owed["kind"], owed["corrects"], owed["cost"], owed["state"], owed["reference"]) == (
            up["charge_id"],
            "amendment",
            end_id,
            11,
            "retrying",
            "ticket-1",
        )
        data(admin.post("/wallets/u/top-ups", {"token": 2, "reference": "r"}), 201)
        till.container.collection.collect("u", seconds=5)
        assert entries(till, end_id) == [("usage", -11), ("amendment", -11)]
        assert balance(till) == (0, 0, 0)
        # Its answer stays what it was.
        assert data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 200) == up

    def test_up_within_the_overdraft_limit(self, admin: Admin, till: Billing) -> None:
        data(admin.patch("/wallets/u", {"overdraft_limit_token": 5}))
        end_id = settled_end(till)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 201)
        assert (up["posted_token"], up["debt_token"]) == (-11, 0)
        assert balance(till) == (-2, 0, 0)

    def test_up_leaves_what_accepted_ends_were_promised(self, admin: Admin, till: Billing) -> None:
        first, second = settled_end(till, 4), end_of(till, 60)
        up = data(admin.post(f"/ends/{first}/amendments", amendment(20)), 201)
        assert up["debt_token"] == Decimal("4.4")
        till.settle_everything()
        assert entries(till, second) == [("usage", -17)]

    def test_of_a_debt_down(self, admin: Admin, till: Billing) -> None:
        end_id = debt(till)
        down = data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 201)
        # What is owed now is more than there is: it waits as what the amendment charges.
        assert (down["cost_before"], down["cost"], down["debt_token"], down["posted_token"]) == (33, 22, -11, 0)
        assert entries(till, end_id) == [("amendment", 33), ("usage", -33)]
        assert balance(till) == (20, 0, 22)
        data(admin.post("/wallets/u/top-ups", {"token": 2, "reference": "r"}), 201)
        till.container.collection.collect("u", seconds=5)
        assert entries(till, end_id) == [("amendment", 33), ("usage", -33), ("amendment", -22)]
        assert balance(till) == (0, 0, 0)

    def test_of_a_debt_down_to_what_there_is(self, admin: Admin, till: Billing) -> None:
        end_id = debt(till)
        down = data(admin.post(f"/ends/{end_id}/amendments", amendment(40)), 201)
        assert (down["token"], down["debt_token"], down["posted_token"]) == (22, -33, -11)
        assert entries(till, end_id) == [("amendment", 33), ("usage", -33), ("amendment", -11)]
        assert balance(till) == (9, 0, 0)

    def test_of_a_debt_up(self, admin: Admin, till: Billing) -> None:
        end_id = debt(till)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(160)), 201)
        assert (up["debt_token"], up["posted_token"]) == (11, 0)
        assert balance(till) == (20, 0, 44)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reference": "ticket-2"}), 201)
        assert (reversed_["token"], reversed_["debt_token"]) == (44, -44)
        assert entries(till, end_id) == [("reversal", 11), ("amendment", -11), ("reversal", 33), ("usage", -33)]
        assert balance(till) == (20, 0, 0)

    def test_what_an_amendment_charged_is_given_up_first(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 201)
        assert balance(till) == (9, 0, 11)
        down = data(admin.post(f"/ends/{end_id}/amendments", amendment(20, "ticket-2")), 201)
        assert (down["cost_before"], down["cost"], down["debt_token"], down["posted_token"]) == (22, 5.5, -11, 5.5)
        assert till.balance("u").posted_micros == 14_500_000
        assert till.balance("u").debt_micros == 0

    def test_what_it_charges_can_be_written_off(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(80)), 201)
        written_off = data(admin.post(f"/failed-ends/{up['charge_id']}/write-off", {"reason": "Goodwill"}), 201)
        assert (written_off["token"], written_off["corrects"]) == (11, end_id)
        assert balance(till) == (9, 0, 0)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reference": "ticket-2"}), 201)
        assert (reversed_["cost_before"], reversed_["token"]) == (11, 11)
        assert balance(till) == (20, 0, 0)

    def test_at_the_profit_that_was_pinned(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        data(admin.post("/profit-rules", {"percentage": 100}), 201)
        up = data(admin.post(f"/ends/{end_id}/amendments", amendment(60)), 201)
        assert up["cost"] == 16.5

    def test_that_changes_no_cost(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        body = {**amendment(40), "input_token": 25}
        same = data(admin.post(f"/ends/{end_id}/amendments", body), 201)
        assert [(entry["token"], entry["input_token"]) for entry in same["transactions"]] == [(0, 15)]
        assert balance(till) == (9, 0, 0)

    def test_after_a_reversal(self, admin: Admin, till: Billing) -> None:
        end_id = settled_end(till)
        data(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 201)
        again = data(admin.post(f"/ends/{end_id}/amendments", amendment(20, "ticket-2")), 201)
        assert (again["cost_before"], again["cost"], again["token"]) == (0, 5.5, -5.5)


class TestBadRequests:
    @pytest.mark.parametrize("kind", ["reversals", "amendments"])
    @pytest.mark.parametrize("end_id", [UNKNOWN, "1", "x"])
    def test_unknown_end(self, admin: Admin, till: Billing, kind: str, end_id: str) -> None:
        failure(admin.post(f"/ends/{end_id}/{kind}", amendment(1)), 404, "not_found")
        failure(admin.get(f"/ends/{end_id}/corrections"), 404, "not_found")

    def test_each_field(self, admin: Admin, till: Billing) -> None:
        path = f"/ends/{settled_end(till)}"
        assert_invalid(admin.post(f"{path}/reversals", {}), "reference", "reason")
        assert_invalid(admin.post(f"{path}/amendments", {}), "reference", "reason", "input_token", "output_token")
        for field in ("reference", "reason"):
            for value in (None, "", 5, "x" * 1_001, "a\nb", True):
                assert_invalid(admin.post(f"{path}/reversals", {**REVERSAL, field: value}), field)
        kinds = (
            "input_token",
            "output_token",
            "cached_input_token",
            "cache_write_token",
            "reasoning_token",
            "requests",
        )
        for field in kinds:
            for value in (None, -1, 1.5, "5", True, 10**12):
                assert_invalid(admin.post(f"{path}/amendments", {**amendment(40), field: value}), field)

    def test_parts_that_cannot_be(self, admin: Admin, till: Billing) -> None:
        path = f"/ends/{settled_end(till)}/amendments"
        assert_invalid(admin.post(path, {**amendment(40), "cached_input_token": 11}), "cached_input_token")
        assert_invalid(admin.post(path, {**amendment(40), "reasoning_token": 41}), "reasoning_token")
        both = {"cached_input_token": 6, "cache_write_token": 6}
        assert_invalid(admin.post(path, {**amendment(40), **both}), *both)

    def test_actor(self, client: FlaskClient, admin_headers: dict[str, str], till: Billing) -> None:
        path = f"{PREFIX}/ends/{settled_end(till)}/reversals"
        headers = {**admin_headers, "X-Actor": ""}
        assert_invalid(client.post(path, json={}, headers=headers), "reference", "reason", "X-Actor")
        named = client.post(path, json=REVERSAL, headers={**admin_headers, "X-Actor": "alice"})
        assert data(named, 201)["actor"] == "admin/alice"

    def test_an_end_that_redis_still_keeps(self, admin: Admin, till: Billing) -> None:
        end_id = str(uuid4())
        till.container.redis_client.hset("tokentill:spool", end_id, "kept")
        failure(admin.post(f"/ends/{end_id}/reversals", REVERSAL), 503, "temporarily_unavailable")


class TestPinnedPrice:
    """At the rate card that the run was accepted at, by kind of its usage, whatever was followed since."""

    def test_by_kind(self, admin: Admin, till: Billing) -> None:
        price_id = data(admin.post("/prices", {**PRICE, "model": "large"}), 201)["id"]
        till.container.end.end(till.usage("u", output_tokens=2, cached_input_tokens=5, model="large"))
        till.settle_everything()
        end_id = str(till.ledger("u")[-1].end_id)
        # 5 + 0.5 + 4, and 10 % of it.
        assert entries(till, end_id) == [("usage", -11)]
        data(admin.post("/prices", {**PRICE, "model": "large", "output_per_million": 9_000_000}), 201)
        body = {**amendment(1), "cached_input_token": 10, "requests": 2}
        amended = data(admin.post(f"/ends/{end_id}/amendments", body), 201)
        # 1 + 2, and 10 % of it.
        assert (amended["cost_before"], amended["cost"], amended["price_id"]) == (
            Decimal("10.45"),
            Decimal("3.3"),
            price_id,
        )
        [entry] = amended["transactions"]
        kinds = ("input_token", "output_token", "cached_input_token", "reasoning_token", "requests")
        assert [entry[kind] for kind in kinds] == [0, -1, 5, 0, 1]
        assert (entry["token"], entry["price_id"]) == (Decimal("7.15"), price_id)
        reversed_ = data(admin.post(f"/ends/{end_id}/reversals", {**REVERSAL, "reference": "ticket-2"}), 201)
        assert [reversed_["transactions"][0][kind] for kind in kinds] == [-10, -1, -10, 0, -2]
        assert balance(till) == (20, 0, 0)
