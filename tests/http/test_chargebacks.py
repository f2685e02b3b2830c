"""Chargebacks over the admin API: a wallet gives back what it has, whole, or owes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from app.billing.start import StartRequest
from app.domain.corrections import Chargeback
from app.domain.wallets import Access
from tests.http.admin import Admin, assert_invalid, data, failure
from tests.support import FEATURE, Billing, assert_conserved

DISPUTE = {"reference": "dispute-1", "reason": "Card disputed"}


def test_what_the_wallet_has(admin: Admin, till: Billing) -> None:
    answer = data(admin.post("/wallets/u/chargebacks", {"token": 15, **DISPUTE}), 201)
    assert (answer["kind"], answer["token"], answer["posted_token"], answer["debt_token"]) == (
        "chargeback",
        -15,
        -15,
        0,
    )
    [entry] = answer["transactions"]
    assert (entry["kind"], entry["token"], entry["balance_after"], entry["reference"], entry["reason"]) == (
        "chargeback",
        -15,
        5,
        "dispute-1",
        "Card disputed",
    )
    assert (entry["cost"], entry["base_cost"], entry["profit"], entry["feature_endpoint_id"]) == (None,) * 4
    assert data(admin.get("/wallets/u"))["token"] == 5
    assert_conserved(till, "u")


def test_more_than_the_wallet_has_is_owed_and_collected(admin: Admin, till: Billing) -> None:
    first = data(admin.post("/wallets/u/chargebacks", {"token": 100, **DISPUTE}), 201)
    assert (first["posted_token"], first["debt_token"], first["transactions"]) == (0, 100, [])
    wallet = data(admin.get("/wallets/u"))
    assert (wallet["token"], wallet["posted_token"], wallet["debt_token"]) == (-80, 20, 100)
    assert till.cached_spendable_micros("u") in (None, -80_000_000)
    assert till.container.start.start(StartRequest("u", FEATURE)).access is Access.DENIED
    assert till.cached_spendable_micros("u") == -80_000_000
    [owed] = data(admin.get("/failed-ends", user_id="u"))["items"]
    assert data(admin.get("/failed-ends", kind="chargeback"))["items"] == [owed]
    assert data(admin.get("/failed-ends", kind="usage"))["items"] == []
    assert (owed["id"], owed["kind"], owed["feature_endpoint_id"], owed["cost"]) == (
        first["charge_id"],
        "chargeback",
        None,
        100,
    )
    data(admin.post("/wallets/u/top-ups", {"token": 79, "reference": "r"}), 201)
    till.container.collection.collect("u", seconds=5)
    assert data(admin.get("/wallets/u"))["debt_token"] == 100
    data(admin.post("/wallets/u/top-ups", {"token": 1, "reference": "s"}), 201)
    till.container.collection.collect("u", seconds=5)
    wallet = data(admin.get("/wallets/u"))
    assert (wallet["token"], wallet["posted_token"], wallet["debt_token"]) == (0, 0, 0)
    assert [entry.kind for entry in till.ledger("u")] == ["top_up", "top_up", "top_up", "chargeback"]
    assert data(admin.post("/wallets/u/chargebacks", {"token": 100, **DISPUTE}), 200) == first
    assert_conserved(till, "u")


def test_stands_behind_what_is_owed_already(admin: Admin, till: Billing, owed: str) -> None:
    till.settle_everything()
    answer = data(admin.post("/wallets/u/chargebacks", {"token": 5, **DISPUTE}), 201)
    assert answer["debt_token"] == 5
    data(admin.post("/wallets/u/top-ups", {"token": 14, "reference": "r"}), 201)
    till.container.collection.collect("u", seconds=5)
    assert [(entry.kind, entry.amount_micros) for entry in till.ledger("u")[2:]] == [("usage", -33_000_000)]
    assert data(admin.get("/wallets/u"))["debt_token"] == 5


def test_down_to_the_overdraft_limit(admin: Admin, till: Billing) -> None:
    data(admin.patch("/wallets/u", {"overdraft_limit_token": 10}))
    answer = data(admin.post("/wallets/u/chargebacks", {"token": 30, **DISPUTE}), 201)
    assert (answer["posted_token"], answer["debt_token"]) == (-30, 0)
    assert data(admin.get("/wallets/u"))["posted_token"] == -10


def test_can_be_replayed_and_written_off(admin: Admin, till: Billing) -> None:
    charge_id = data(admin.post("/wallets/u/chargebacks", {"token": 100, **DISPUTE}), 201)["charge_id"]
    assert data(admin.post(f"/failed-ends/{charge_id}/replay", {}))["state"] == "retrying"
    written_off = data(admin.post(f"/failed-ends/{charge_id}/write-off", {"reason": "Gone"}), 201)
    assert (written_off["token"], written_off["balance_after"]) == (100, 120)
    assert [(entry.kind, entry.reference) for entry in till.ledger("u")[1:]] == [
        ("write_off", None),
        ("chargeback", "dispute-1"),
    ]
    assert data(admin.get("/wallets/u"))["token"] == 20
    assert_conserved(till, "u")


def test_is_no_end_to_correct(admin: Admin, till: Billing) -> None:
    charge_id = data(admin.post("/wallets/u/chargebacks", {"token": 100, **DISPUTE}), 201)["charge_id"]
    failure(admin.post(f"/ends/{charge_id}/reversals", DISPUTE), 409, "correction_of_correction")


def test_a_reference_is_used_once_in_a_wallet(admin: Admin, till: Billing) -> None:
    first = data(admin.post("/wallets/u/chargebacks", {"token": 5, **DISPUTE}), 201)
    again = admin.post("/wallets/u/chargebacks", {"token": 5, **DISPUTE})
    assert data(again, 200) == first
    assert again.headers["Idempotent-Replayed"] == "true"
    for path, body in (
        ("chargebacks", {"token": 6, **DISPUTE}),
        ("chargebacks", {"token": 5, "reference": "dispute-1", "reason": "Other"}),
        ("top-ups", {"token": 5, **DISPUTE}),
        ("chargebacks", {"token": 20, "reference": "opening"}),
    ):
        failure(admin.post(f"/wallets/u/{path}", body), 409, "idempotency_conflict")
    till.wallet("v")
    data(admin.post("/wallets/v/chargebacks", {"token": 6, **DISPUTE}), 201)


def test_many_at_once(till: Billing) -> None:
    def charge_back(i: int) -> bool:
        asked = Chargeback("u", 7_000_000, f"dispute-{i % 4}")
        return till.container.corrections.charge_back(asked).replayed

    with ThreadPoolExecutor(8) as pool:
        replayed = list(pool.map(charge_back, range(16)))
    assert replayed.count(False) == 4
    found = till.balance("u")
    assert (found.posted_micros, found.debt_micros) == (6_000_000, 14_000_000)
    assert till.cached_spendable_micros("u") in (None, found.spendable_micros)
    assert_conserved(till, "u")


def test_bad_requests(admin: Admin, till: Billing) -> None:
    assert_invalid(admin.post("/wallets/u/chargebacks", {}), "token", "reference")
    for token in (0, -1, None, "5", True, 1e-7):
        assert_invalid(admin.post("/wallets/u/chargebacks", {"token": token, **DISPUTE}), "token")
    failure(admin.post("/wallets/nobody/chargebacks", {"token": 1, **DISPUTE}), 404, "wallet_not_found")


def test_more_than_anybody_may_owe(admin: Admin, till: Billing) -> None:
    for i in range(9):
        data(admin.post("/wallets/u/chargebacks", {"token": 1_000_000_000, "reference": f"r{i}"}), 201)
    body = {"token": 1_000_000_000, "reference": "r9"}
    failure(admin.post("/wallets/u/chargebacks", body), 409, "balance_out_of_range")
