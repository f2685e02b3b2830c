"""The examples of the API's description as one story: each call with what it needs from those before, in the order in
which it is run. What is answered stands in `app/http/openapi/examples.json`, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.bootstrap import Container
from tests.support import Billing


@dataclass(frozen=True, slots=True)
class Step:
    """A call, by its operation's id. Texts may name in braces what earlier answers had under `keeps`: a name -> where
    in the answer it stands.
    """

    operation: str
    body: Any = None
    title: str = ""
    path: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    keeps: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What happens between two calls: what workers do."""

    work: Callable[[Billing], Any]


def _works(work: Callable[[Container], Any]) -> Meanwhile:
    return Meanwhile(lambda billing: work(billing.container))


A_MINUTE = """
    INSERT INTO samples (minute, accepted, settled, lag_median_seconds, lag_p95_seconds, backlog, backlog_age_seconds,
        pending_micros, retrying, retrying_micros, dead, dead_micros, debt_micros, oldest_debt_seconds,
        liability_micros, overdrawn_micros, wallets, held_micros)
    VALUES ('2026-01-31T12:00Z', 1200, 1198, 0.25, 0.75, 2, 0.5, 3500000, 1, 112500000, 0, 0, 112500000, 4000,
        480000000, 0, 2, 0)
"""
SETTLED = Meanwhile(lambda billing: billing.settle_everything())
RUN = {"user_id": "alice", "feature_endpoint_id": "chat"}
DOCS = {"name": "gpt-5", "mode": "chat", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05}


def _end(input_token: int, output_token: int, **more: Any) -> dict[str, Any]:
    return {**RUN, "input_token": input_token, "output_token": output_token, **more}


STORY: tuple[Step | Meanwhile, ...] = (
    Step("healthz"),
    Step("readyz"),
    # The catalog
    Step("create_feature", {"id": "chat", "name": "Chat", "reversal_seconds": 3600}),
    Step("create_feature", {"id": "chat", "name": "Chat"}, "It exists already", status=409),
    Step("list_features"),
    Step("update_feature", {"min_token": 0.5}, path={"feature_id": "chat"}),
    Step("create_package", {"id": "basic", "name": "Basic", "feature_endpoint_ids": ["chat"]}),
    Step("list_packages"),
    Step("update_package", {"name": "Basic plan"}, path={"package_id": "basic"}),
    Step("create_profit_rule", {"percentage": 12.5, "feature_endpoint_id": "chat"}),
    Step("list_profit_rules", query={"feature_endpoint_id": "chat"}),
    Step("create_price", {"model": "gpt-5*", "input_per_million": 1250, "output_per_million": 10000}),
    Step("list_prices"),
    Step("estimate_price", {"feature_endpoint_id": "chat", "model": "gpt-5", "input_token": 1000, "output_token": 500}),
    Step(
        "import_prices",
        {
            "format": "litellm",
            "tokens_per_dollar": 1000,
            "list": {"gpt-5": DOCS},
            "models": ["gpt-5"],
            "dated_ids": False,
        },
        keeps={"import": "data.id"},
    ),
    Step("list_price_imports"),
    Step("show_price_import", path={"number": "{import}"}),
    Step("approve_price_import", {}, path={"number": "{import}"}),
    # A wallet
    Step("create_wallet", {"user_id": "alice", "package_id": "basic"}),
    Step("top_up_wallet", {"token": 500, "reference": "invoice-17"}, path={"user_id": "alice"}),
    Step(
        "top_up_wallet",
        {"token": 500, "reference": "invoice-17"},
        "The same again: nothing is done",
        path={"user_id": "alice"},
        status=200,
    ),
    Step(
        "top_up_wallet",
        {"token": 600, "reference": "invoice-17"},
        "Another body under the same reference",
        path={"user_id": "alice"},
        status=409,
    ),
    Step("show_wallet", path={"user_id": "alice"}),
    Step("show_wallet", None, "Nobody's", path={"user_id": "nobody"}, status=404),
    Step("list_wallets", query={"package_id": "basic"}),
    Step("update_wallet", {"overdraft_limit_token": 20}, path={"user_id": "alice"}),
    # Runs
    Step("start", RUN),
    Step("start", {**RUN, "hold_token": 25, "hold_seconds": 300}, "With a hold", keeps={"run": "data.process_id"}),
    Step("start", {**RUN, "user_id": "nobody"}, "No wallet", status=404),
    Step("extend_hold", {"user_id": "alice", "process_id": "{run}", "hold_token": 10}),
    Step("list_holds", path={"user_id": "alice"}),
    Step("estimate", _end(1000, 500, model="gpt-5")),
    Step("end", _end(12, 40), headers={"Idempotency-Key": "run-1"}),
    Step("end", _end(12, 40), "The same again: billed once", headers={"Idempotency-Key": "run-1"}),
    Step("end", _end(12, 50), "Another body under the same key", headers={"Idempotency-Key": "run-1"}, status=409),
    Step("end", _end(1000, 500, model="gpt-5", cached_input_token=400, process_id="{run}"), "Of a run with a hold"),
    Step("end", {**RUN, "input_token": -1}, "Something is wrong with it", status=400),
    Step(
        "end_batch",
        {"ends": [_end(10, 20, idempotency_key="run-2"), _end(-1, 20, idempotency_key="run-3")]},
    ),
    Step("start", {**RUN, "hold_token": 5}, "To be cancelled", keeps={"failed": "data.process_id"}),
    Step("cancel", {"user_id": "alice", "process_id": "{failed}"}),
    Step("start", {**RUN, "hold_token": 5}, "To be released", keeps={"stuck": "data.process_id"}),
    Step("release_hold", path={"user_id": "alice", "process_id": "{stuck}"}),
    SETTLED,
    Step(
        "reverse_own_run", {"user_id": "alice", "idempotency_key": "run-2", "reference": "r-1", "reason": "No answer"}
    ),
    Step("list_wallet_transactions", path={"user_id": "alice"}, query={"kind": "usage", "limit": 1}),
    Step(
        "list_transactions",
        query={"kind": "usage", "limit": 2},
        title="With the next page",
        keeps={"end": "data.items.1.end_id"},
    ),
    Step("show_end", path={"end_id": "{end}"}),
    Step(
        "amend_run",
        {"reference": "ticket-7", "reason": "Counted again", "input_token": 1000, "output_token": 400},
        path={"end_id": "{end}"},
    ),
    Step("reverse_run", {"reference": "ticket-8", "reason": "A bad answer"}, path={"end_id": "{end}"}),
    Step(
        "reverse_run",
        {"reference": "ticket-9", "reason": "Once more"},
        "Nothing is left to give back",
        path={"end_id": "{end}"},
        status=409,
    ),
    Step("list_corrections", path={"end_id": "{end}"}),
    Step("refund_wallet", {"token": 2.5, "reference": "goodwill-1", "reason": "Sorry"}, path={"user_id": "alice"}),
    Step("adjust_wallet", {"token": -0.25, "reference": "fix-1", "reason": "Typo"}, path={"user_id": "alice"}),
    # Debts
    Step("create_wallet", {"user_id": "bob", "package_id": "basic"}, "Another one"),
    Step("top_up_wallet", {"token": 10, "reference": "invoice-18"}, "A small one", path={"user_id": "bob"}),
    Step(
        "end", {**_end(0, 400), "user_id": "bob"}, "What the wallet doesn't cover", headers={"Idempotency-Key": "b-1"}
    ),
    Step("end", {**_end(0, 80), "user_id": "bob"}, "And more of it", headers={"Idempotency-Key": "b-2"}),
    SETTLED,
    Step("list_failed_ends", query={"user_id": "bob"}, keeps={"first": "data.items.0.id", "second": "data.items.1.id"}),
    Step("group_failed_ends", query={"group_by": "user_id"}),
    Step("list_debts", query={"group_by": "user_id"}),
    Step("replay_failed_end", path={"end_id": "{first}"}),
    Step("write_off_failed_end", {"reason": "Our mistake"}, path={"end_id": "{second}"}),
    Step(
        "draft_bulk_action",
        {"action": "replay", "filter": {"user_id": "bob"}, "reference": "night-1", "reason": "Paid by now"},
        keeps={"bulk": "data.id", "ends": "data.ends", "cost": "data.cost"},
    ),
    Step("confirm_bulk_action", {"ends": "{ends}", "cost": "{cost}"}, path={"number": "{bulk}"}),
    _works(lambda container: container.bulk_actions.work_off(5)),
    Step("show_bulk_action", path={"number": "{bulk}"}),
    Step("list_ends_of_bulk_action", path={"number": "{bulk}"}),
    Step(
        "draft_bulk_action",
        {"action": "write_off", "filter": {}, "reference": "night-2", "reason": "Too old"},
        "All there are",
        keeps={"another": "data.id"},
    ),
    Step("cancel_bulk_action", path={"number": "{another}"}),
    Step("list_bulk_actions"),
    Step("charge_back_wallet", {"token": 5, "reference": "dispute-1", "reason": "Disputed"}, path={"user_id": "bob"}),
    # Repricing
    Step(
        "create_repricing", {"price_id": 1, "reason": "A wrong price", "user_id": "alice"}, keeps={"again": "data.id"}
    ),
    _works(lambda container: container.repricings.work_off(5)),
    Step("show_repricing", path={"number": "{again}"}),
    Step("apply_repricing", path={"number": "{again}"}),
    Step("list_repricings"),
    # Top-ups of many
    Step(
        "create_top_up",
        {"package_id": "basic", "token": 5, "reference": "spring", "reason": "A present"},
        keeps={"many": "data.id"},
    ),
    Step("apply_top_up", path={"number": "{many}"}),
    _works(lambda container: container.top_ups.work_off(5)),
    Step("show_top_up", path={"number": "{many}"}),
    Step("list_top_up_wallets", path={"number": "{many}"}),
    Step("list_top_ups"),
    Step(
        "create_top_up",
        {"package_id": "basic", "fill_up_to_token": 900, "reference": "summer", "reason": "A slip"},
        "Up to so much",
        keeps={"slip": "data.id"},
    ),
    Step("discard_top_up", path={"number": "{slip}"}),
    Step(
        "create_top_up_schedule",
        {
            "package_id": "basic",
            "fill_up_to_token": 100,
            "period": "monthly",
            "day": 1,
            "starts_on": "2099-01-01",
            "reference": "monthly-100",
            "reason": "Included",
        },
        keeps={"schedule": "data.id"},
    ),
    Step("show_top_up_schedule", path={"number": "{schedule}"}),
    Step("list_top_up_schedules"),
    Step("pause_top_up_schedule", {"reason": "A holiday"}, path={"number": "{schedule}"}),
    Step("resume_top_up_schedule", {"reason": "Back again"}, path={"number": "{schedule}"}),
    Step("end_top_up_schedule", {"reason": "Sold no more"}, path={"number": "{schedule}"}),
    # Reports and upkeep
    Step("report_usage", query={"group_by": "feature_endpoint_id,model"}),
    Step("report_usage", None, "A day that there isn't", query={"from": "2030-02-30"}, status=400),
    Step("report_totals"),
    Meanwhile(lambda billing: billing.execute(A_MINUTE)),
    Step("list_samples", query={"limit": 1}),
    Step("request_reconciliation", {"full": True}, keeps={"check": "data.id"}),
    _works(lambda container: container.reconciliation.run_requested()),
    Step("show_reconciliation", path={"number": "{check}"}),
    Step("show_statement", path={"user_id": "alice"}, query={"limit": 2}),
    Step("list_balances", path={"user_id": "alice"}),
    # Webhooks
    Step(
        "create_webhook_endpoint",
        {"url": "https://shop.example.com/hooks", "event_types": ["wallet.low_balance", "topup.requested"]},
        keeps={"hook": "data.id"},
    ),
    Step("list_webhook_endpoints"),
    Step("show_webhook_endpoint", path={"number": "{hook}"}),
    Step("update_webhook_endpoint", {"description": "The shop"}, path={"number": "{hook}"}),
    Step("test_webhook_endpoint", path={"number": "{hook}"}, keeps={"event": "data.id"}),
    Step("list_webhook_events", query={"limit": 1}),
    Step("show_webhook_event", path={"event_id": "{event}"}),
    Step("replay_webhook_event", {}, path={"event_id": "{event}"}),
    Step("list_webhook_deliveries", query={"limit": 1}, keeps={"delivery": "data.items.0.id"}),
    Step("show_webhook_delivery", path={"number": "{delivery}"}),
    Step("replay_to_webhook_endpoint", {"from": "2026-01-01"}, path={"number": "{hook}"}),
    Step("set_low_balance_rule", {"package_id": "basic", "below_token": 50}),
    Step("list_low_balance_rules"),
    Step("set_auto_top_up_rule", {"user_id": "alice", "below_token": 100000, "token": 200, "requests_per_month": 3}),
    Step("list_auto_top_up_rules"),
    Step("show_balance_rules", path={"user_id": "alice"}),
    Step("resume_auto_top_up", path={"user_id": "alice"}),
    Step("list_top_up_requests", query={"user_id": "alice"}, keeps={"request": "data.items.0.id"}),
    Step("show_top_up_request", path={"request_id": "{request}"}),
    Step("decline_top_up_request", {"reason": "The card was refused"}, path={"request_id": "{request}"}),
    Step("remove_low_balance_rule", query={"package_id": "basic"}),
    Step("remove_auto_top_up_rule", query={"user_id": "alice"}),
    Step("rotate_webhook_secret", {}, path={"number": "{hook}"}),
    Step("disable_webhook_endpoint", path={"number": "{hook}"}),
    Step("enable_webhook_endpoint", path={"number": "{hook}"}),
    Step("delete_webhook_endpoint", path={"number": "{hook}"}),
    # Keys
    Step("create_key", {"name": "shop", "kind": "service"}, keeps={"key": "data.id"}),
    Step("list_keys", query={"kind": "service"}),
    Step("show_key", path={"key_id": "{key}"}),
    Step("rotate_key", {}, path={"key_id": "{key}"}, keeps={"new key": "data.id"}),
    Step("revoke_key", path={"key_id": "{key}"}),
    Step("list_audit_log", query={"limit": 2}),
)
