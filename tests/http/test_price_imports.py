"""Price lists over the admin API: a dry run first, prices once somebody has approved it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.catalog import usage_impact
from app.http.routes.price_imports import LIST_BYTES_MAX
from app.stores.postgres import catalog as catalog_store
from app.stores.postgres import price_imports as store
from app.stores.postgres.catalog import announce_change_since
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.http.admin import Admin, data, failure
from tests.support import FEATURE, Billing

GPT = {"mode": "chat", "litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06}
LONG = {**GPT, "input_cost_per_token_above_200k_tokens": 2e-06}


def body(listed: Any, **fields: Any) -> dict[str, Any]:
    return {"format": "litellm", "tokens_per_dollar": 1_000, "list": listed, "dated_ids": False, **fields}


def drafted(admin: Admin, listed: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return data(admin.post("/price-imports", body(listed, **fields)), 201)


def approved(admin: Admin, draft: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return data(admin.post(f"/price-imports/{draft['id']}/approve", fields), 201)


def prices(till: Billing) -> list[Any]:
    with till.container.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT * FROM prices ORDER BY id")))


def run(client: FlaskClient, user_id: str = "u", **fields: Any) -> dict[str, Any]:
    """An end, as a service server reports it."""
    answer = client.post(
        "/api/token-process/end",
        json={"user_id": user_id, "feature_endpoint_id": FEATURE, "input_token": 0, "output_token": 0, **fields},
        headers={"x-server-api-key": SERVER_KEY},
    )
    assert answer.status_code == 200, answer.json
    found: dict[str, Any] = json.loads(answer.data, parse_float=Decimal)["data"]
    return found


def test_a_dry_run_shows_prices_and_changes_none(till: Billing, admin: Admin) -> None:
    draw = {"mode": "image_generation", "output_cost_per_image": 0.04}
    draft = drafted(admin, {"gpt-5": LONG, "draw": draw})
    assert draft["state"] == "draft"
    assert draft["counts"] == {
        "changed": 0,
        "new": 1,
        "unchanged": 0,
        "kept": 0,
        "skipped": 1,
        "jumps": 0,
        "rounded": 0,
        "free": 0,
    }
    assert draft["new"] == [
        {
            "model": "gpt-5",
            "price_id": None,
            "today_price_id": None,
            "jump": False,
            "input_per_million": 1_000,
            "output_per_million": 4_000,
            "cached_input_per_million": None,
            "cache_write_per_million": None,
            "reasoning_per_million": None,
            "per_request": None,
            "tiers": [{"above_input_token": 200_000, "input_per_million": 2_000}],
            "changes": [],
        }
    ]
    assert draft["skipped"] == {"draw": "mode image_generation"}
    assert prices(till) == []
    assert data(admin.get(f"/price-imports/{draft['id']}")) == draft


def test_approving_makes_prices_that_are_billed(till: Billing, admin: Admin, client: FlaskClient) -> None:
    before = run(client, model="gpt-5", input_token=1_000, output_token=8)
    done = approved(admin, drafted(admin, {"gpt-5": GPT}))
    assert (done["state"], done["approved_by"]) == ("approved", "admin")
    # By the default rule 8 / 4 and 10 %; by the price 1 + 0.032 and 10 %, at once in the process that approved it.
    assert before["cost"] == Decimal("2.2")
    assert run(client, model="gpt-5", input_token=1_000, output_token=8)["cost"] == Decimal("1.1352")
    till.settle_everything()
    [price] = prices(till)
    assert [row["price_id"] for row in done["new"]] == [price.id]
    assert till.ledger("u")[-1].price_id == price.id


def test_approving_again_answers_the_same(till: Billing, admin: Admin) -> None:
    draft = drafted(admin, {"gpt-5": GPT})
    first = approved(admin, draft)
    again = admin.post(f"/price-imports/{draft['id']}/approve", {})
    assert data(again) == first
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(prices(till)) == 1


def test_many_approvals_at_once_make_one_version(till: Billing, admin: Admin, app: Flask) -> None:
    draft = drafted(admin, {f"model-{number}": GPT for number in range(50)})

    def approve(_: int) -> int:
        with app.test_client() as client:
            answer = client.post(
                f"/api/admin/price-imports/{draft['id']}/approve", headers={"x-admin-api-key": ADMIN_KEY}
            )
            return answer.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(approve, range(4)))
    assert statuses == [200, 200, 200, 201]
    assert len(prices(till)) == 50
    assert len({price.effective_from for price in prices(till)}) == 1


def test_changes_are_shown_with_old_new_and_percent(till: Billing, admin: Admin) -> None:
    approved(admin, drafted(admin, {"gpt-5": GPT, "same": GPT, "gone": GPT}))
    draft = drafted(admin, {"gpt-5": {**GPT, "input_cost_per_token": 1.2e-06}, "same": GPT})
    assert draft["counts"] | {"changed": 1, "unchanged": 1, "kept": 1, "new": 0, "jumps": 0} == draft["counts"]
    [row] = draft["changed"]
    assert row["changes"] == [
        {
            "kind": "input_per_million",
            "above_input_token": 0,
            "old": 1_000,
            "new": 1_200,
            "percent": 20,
            "jump": False,
        }
    ]
    assert [kept["model"] for kept in draft["kept"]] == ["gone"]
    assert row["today_price_id"] == prices(till)[0].id


def test_a_jump_has_to_be_allowed(till: Billing, admin: Admin) -> None:
    approved(admin, drafted(admin, {"gpt-5": GPT, "gpt-6": GPT}))
    draft = drafted(admin, {"gpt-5": {**GPT, "output_cost_per_token": 6.1e-06}, "gpt-6": GPT})
    assert draft["counts"]["jumps"] == 1
    refused = failure(admin.post(f"/price-imports/{draft['id']}/approve", {}), 409, "prices_jump")
    assert refused["errors"] == {"allow_jumps": ["Not allowed, and these jump: gpt-5."]}
    assert len(prices(till)) == 2
    approved(admin, draft, allow_jumps=True)
    assert len(prices(till)) == 3


def test_a_draft_is_outdated_once_its_prices_are_others(till: Billing, admin: Admin) -> None:
    first, second = (drafted(admin, {"gpt-5": {**GPT, "input_cost_per_token": cost}}) for cost in (1e-06, 1.1e-06))
    approved(admin, first)
    refused = failure(admin.post(f"/price-imports/{second['id']}/approve", {}), 409, "price_import_outdated")
    assert refused["errors"] == {"model": ["Priced anew meanwhile: gpt-5."]}
    assert len(prices(till)) == 1
    assert data(admin.get(f"/price-imports/{second['id']}"))["state"] == "draft"
    # What the list doesn't name has no say.
    third = drafted(admin, {"gpt-6": GPT})
    approved(admin, drafted(admin, {"gpt-7": GPT}))
    approved(admin, third)


def test_a_draft_is_outdated_once_its_moment_has_passed(till: Billing, admin: Admin) -> None:
    draft = drafted(admin, {"gpt-5": GPT}, effective_from="2100-01-01T00:00:00Z")
    till.execute_in_postgres("UPDATE price_imports SET effective_from = now() - interval '1 second'")
    failure(admin.post(f"/price-imports/{draft['id']}/approve", {}), 409, "price_import_outdated")
    assert prices(till) == []


def test_prices_of_a_later_moment_wait_for_it(till: Billing, admin: Admin, client: FlaskClient) -> None:
    approved(admin, drafted(admin, {"gpt-5": GPT}, effective_from="2100-01-01T00:00:00Z"))
    assert run(client, model="gpt-5", output_token=40)["cost"] == 11
    assert prices(till)[0].effective_from.year == 2100


def test_two_prices_from_one_moment_on_are_refused(till: Billing, admin: Admin) -> None:
    moment = {"effective_from": "2100-01-01T00:00:00Z"}
    approved(admin, drafted(admin, {"gpt-5": GPT}, **moment))
    dearer = {"gpt-5": {**GPT, "input_cost_per_token": 1.1e-06}}
    refused = failure(admin.post("/price-imports", body(dearer, **moment)), 409, "already_exists")
    assert refused["errors"] == {"effective_from": ["There are other prices from this moment on: gpt-5."]}
    assert drafted(admin, {"gpt-5": GPT}, **moment)["counts"]["unchanged"] == 1
    # One that was drafted before the other was made is outdated by it.
    later = {"effective_from": "2100-01-02T00:00:00Z"}
    draft = drafted(admin, dearer, **later)
    data(admin.post("/prices", {"model": "gpt-5", "input_per_million": 1, "output_per_million": 1, **later}), 201)
    failure(admin.post(f"/price-imports/{draft['id']}/approve", {}), 409, "price_import_outdated")
    assert len(prices(till)) == 2


def test_an_approval_makes_all_prices_or_none(till: Billing, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes between: whoever changes the catalog meanwhile has it looked at anew, a failure takes all back."""
    draft = drafted(admin, {"gpt-5": GPT, "gpt-6": GPT})

    def fail(*_: Any, **__: Any) -> None:
        assert len(prices(till)) == 0
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patched:
        patched.setattr(store, "mark_approved", fail)
        assert admin.post(f"/price-imports/{draft['id']}/approve", {}).status_code == 500
    assert prices(till) == []

    interfere = iter([True, False])

    def announce(connection: sa.Connection, version: int) -> bool:
        if next(interfere):
            till.execute_in_postgres("UPDATE system_state SET catalog_version = catalog_version + 1")
        return announce_change_since(connection, version)

    monkeypatch.setattr(catalog_store, "announce_change_since", announce)
    approved(admin, draft)
    assert len(prices(till)) == 2
    assert list(interfere) == []


def test_prices_of_one_feature_alone(till: Billing, admin: Admin) -> None:
    approved(admin, drafted(admin, {"gpt-5": GPT}))
    draft = drafted(admin, {"gpt-5": {**GPT, "input_cost_per_token": 1.2e-06}}, feature_endpoint_id=FEATURE)
    # New there, beside what its runs cost today.
    [row] = draft["new"]
    assert (row["today_price_id"], row["changes"][0]["percent"]) == (prices(till)[0].id, 20)
    approved(admin, draft)
    assert [price.feature_endpoint_id for price in prices(till)] == [None, FEATURE]
    missing = failure(admin.post("/price-imports", body({"gpt-5": GPT}, feature_endpoint_id="none")), 404, "not_found")
    assert list(missing["errors"]) == ["feature_endpoint_id"]


def test_dated_ids_cost_what_their_family_costs(till: Billing, admin: Admin, client: FlaskClient) -> None:
    approved(admin, drafted(admin, {"gpt-5": GPT}, dated_ids=True))
    assert [price.model for price in prices(till)] == ["gpt-5", "gpt-5-202*"]
    assert run(client, model="gpt-5-2025-08-07", input_token=1_000)["cost"] == Decimal("1.1")
    assert run(client, model="gpt-5-mini", output_token=40)["cost"] == 11


def test_usage_of_30_days_is_priced_anew_by_model_and_user(
    till: Billing, admin: Admin, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_impact, "ENTRIES_PER_STATEMENT", 2)
    for user_id in ("v", "w"):
        till.wallet(user_id, tokens=1_000)
        run(client, user_id, model="gpt-5", input_token=200_000, output_token=40)
        run(client, user_id, model="gpt-5", input_token=200_001, output_token=40)
        run(client, user_id, model="other", output_token=40)
        till.settle_everything()
    run(client, "v", model="gpt-5", output_token=400)
    till.settle_everything()
    _make_older(till, "v", output_tokens=400, days=31)

    usage = drafted(admin, {"gpt-5": LONG})["usage"]
    # Old: 40 / 4 = 10 tokens a run, and 10 %. New: 200 + 0.16 tokens, and 400.002 + 0.16 for the longer one, and 10 %.
    each = {"runs": 2, "old_cost": 22, "new_cost": Decimal("660.3542")}
    assert usage["by_user"] == [{"user_id": user_id, **each} for user_id in ("v", "w")]
    both = {"runs": 4, "old_cost": 44, "new_cost": Decimal("1320.7084")}
    assert usage["by_model"] == [{"feature_endpoint_id": FEATURE, "model": "gpt-5", **both}]
    assert {name: usage[name] for name in both} == both
    assert (usage["models"], usage["users"]) == (1, 2)


@pytest.mark.parametrize("beginnings_max", [0, 100])
def test_usage_of_dated_ids_is_priced_anew(
    till: Billing, admin: Admin, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, beginnings_max: int
) -> None:
    """Whether the ledger is asked for the models that change, or for all since there are too many."""
    monkeypatch.setattr(store, "BEGINNINGS_MAX", beginnings_max)
    for model in ("gpt_5", "gpt_5-2026-01-01", "gpt-5-2026-01-01", "gpt_5-mini", None):
        run(client, model=model, input_token=1_000)
    till.settle_everything()
    usage = drafted(admin, {"gpt_5": GPT}, dated_ids=True)["usage"]
    assert {each["model"] for each in usage["by_model"]} == {"gpt_5", "gpt_5-2026-01-01"}
    assert (usage["runs"], usage["old_cost"], usage["new_cost"]) == (2, 0, Decimal("2.2"))


def _make_older(till: Billing, user_id: str, *, output_tokens: int, days: int) -> None:
    # Only a superuser's session may step over the ledger's trigger.
    till.execute_in_postgres(f"""
        SET LOCAL session_replication_role = replica;
        UPDATE token_transactions SET created_at = created_at - interval '{days} days'
        WHERE user_id = '{user_id}' AND output_tokens = {output_tokens}
    """)


def test_there_may_have_been_no_usage(till: Billing, admin: Admin) -> None:
    usage = drafted(admin, {"gpt-5": GPT})["usage"]
    assert (usage["runs"], usage["by_model"], usage["by_user"]) == (0, [], [])


class TestRefusals:
    def test_nonsense_is_refused_with_all_its_rows(self, till: Billing, admin: Admin) -> None:
        models = {
            "negative": {**GPT, "input_cost_per_token": -1},
            "absent": {"mode": "chat", "input_cost_per_token": 1e-06},
            "text": {**GPT, "output_cost_per_token": "4e-06"},
            "fine": GPT,
        }
        refused = failure(admin.post("/price-imports", body(models)), 400, "price_list_refused")
        assert refused["message"] == "Price list refused: 3 problems"
        assert refused["errors"] == {
            "negative.input_cost_per_token": ["Must not be negative."],
            "absent.output_cost_per_token": ["Is absent."],
            "text.output_cost_per_token": ["Must be a number."],
        }
        assert admin.items("/price-imports") == []

    def test_a_nan_and_a_repeated_model_are_told_by_their_rows(self, till: Billing, admin: Admin) -> None:
        text = json.dumps(body({"gpt-5": GPT, "gpt-6": {**GPT, "input_cost_per_token": float("nan")}}))
        refused = failure(admin.post("/price-imports", text), 400, "price_list_refused")
        assert refused["errors"] == {"gpt-6.input_cost_per_token": ["Must be a finite number."]}
        twice = json.dumps(body({"gpt-5": GPT, "gpt-6": GPT})).replace("gpt-6", "gpt-5")
        refused = failure(admin.post("/price-imports", twice), 400, "price_list_refused")
        assert refused["errors"] == {"gpt-5": ["Stands here twice."]}

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"format": "csv"}, "format"),
            ({"format": None}, "format"),
            ({"tokens_per_dollar": 0}, "tokens_per_dollar"),
            ({"tokens_per_dollar": "1000"}, "tokens_per_dollar"),
            ({"tokens_per_dollar": -1}, "tokens_per_dollar"),
            ({"dated_ids": 1}, "dated_ids"),
            ({"strip_provider": "yes"}, "strip_provider"),
            ({"models": "gpt-5"}, "models"),
            ({"providers": [7]}, "providers.0"),
            ({"effective_from": "tomorrow"}, "effective_from"),
            ({"effective_from": "2020-01-01T00:00:00Z"}, "effective_from"),
        ],
    )
    def test_each_field_has_its_own_reason(
        self, till: Billing, admin: Admin, fields: dict[str, Any], name: str
    ) -> None:
        refused = failure(admin.post("/price-imports", body({"gpt-5": GPT}, **fields)), 400, "validation_failed")
        assert list(refused["errors"]) == [name]

    def test_a_body_that_is_no_list_or_too_large(self, till: Billing, admin: Admin) -> None:
        failure(admin.post("/price-imports", body([])), 400, "price_list_refused")
        failure(admin.post("/price-imports", "{"), 400, "invalid_json")
        failure(admin.post("/price-imports", "[]"), 400, "invalid_json")
        missing = failure(admin.post("/price-imports", {}), 400, "validation_failed")
        assert sorted(missing["errors"]) == ["format", "list", "tokens_per_dollar"]
        large = '{"format": "' + "x" * LIST_BYTES_MAX + '"}'
        assert admin.post("/price-imports", large).status_code == 413

    def test_what_is_not_there(self, till: Billing, admin: Admin) -> None:
        for number in ("1", "9" * 30):
            failure(admin.get(f"/price-imports/{number}"), 404, "not_found")
            failure(admin.post(f"/price-imports/{number}/approve", {}), 404, "not_found")

    def test_no_price_that_a_wallet_could_not_hold(self, till: Billing, admin: Admin) -> None:
        """By itself it could; with the profit of a rule that its runs could meet it couldn't."""
        dear = {"gpt-5": {**GPT, "input_cost_per_token": 0.009}}
        drafted(admin, dear, tokens_per_dollar=4_000)
        till.execute("UPDATE profit_rules SET basis_points = 1000000")
        till.announce_catalog()
        refused = failure(admin.post("/price-imports", body(dear, tokens_per_dollar=4_000)), 400, "price_list_refused")
        assert list(refused["errors"]) == ["gpt-5"]


def test_names_that_no_store_takes_are_shown_as_their_escapes(till: Billing, admin: Admin) -> None:
    draft = drafted(admin, {"gpt-5": GPT, "a\0b": {"mode": "image\ud800"}})
    assert draft["skipped"] == {"a\\x00b": "mode image\\ud800"}
    refused = failure(admin.post("/price-imports", body({"a\ud800": GPT})), 400, "price_list_refused")
    assert list(refused["errors"]) == ["a\\ud800"]


def test_a_list_of_imports_from_the_newest_on(till: Billing, admin: Admin) -> None:
    ids = [drafted(admin, {f"gpt-{number}": GPT})["id"] for number in range(3)]
    listed = admin.items("/price-imports", limit=2)
    assert [item["id"] for item in listed] == ids[::-1]
    assert "new" not in listed[0]


def test_models_dev_is_read_too(till: Billing, admin: Admin) -> None:
    models = {"gpt-5": {"cost": {"input": 1, "output": 4, "cache_read": 0.1}}}
    draft = drafted(admin, {"openai": {"models": models}}, format="models.dev", providers=["openai"])
    assert [row["cached_input_per_million"] for row in draft["new"]] == [100]
