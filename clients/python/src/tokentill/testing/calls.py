"""The server's calls, carried out on a `State`: one function each, from a body to the answer's `data`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tokentill.testing.bodies import HOLD_SECONDS_MAX, Body, Refused, checked_key, invalid
from tokentill.testing.prices import Cost, RunUsage, cost_of, tokens
from tokentill.testing.state import Account, Answered, Hold, MemoryEnd, State, Wallet
from tokentill.wire import ACCESS_ABLE, RETURN_ABLE

HOLD_SECONDS = 900
HOLDS_MAX = 1_000
BATCH_ENDS_MAX = 1_000


@dataclass(frozen=True)
class Answer:
    data: dict[str, Any]
    replayed: bool = False


@dataclass(frozen=True)
class _End:
    user_id: str
    feature_id: str
    usage: RunUsage
    model: str | None
    process_id: str | None

    @property
    def free(self) -> bool:
        return self.usage.input_token == self.usage.output_token == self.usage.requests == 0


def start(state: State, fields: Any, key: str | None) -> Answer:
    body = Body(fields)
    user_id, feature_id = body.text("user_id"), body.text("feature_endpoint_id")
    model = body.text("model", required=False) or None
    hold_micros = body.amount_micros("hold_token")
    hold_seconds = body.count("hold_seconds", least=1, most=HOLD_SECONDS_MAX) or HOLD_SECONDS
    body.check()
    if key is not None and (before := state.starts.get((user_id, key))) is not None:
        return _again(before, fields)
    if not (user_id in state.wallets and state.wallets[user_id].active):
        raise Refused(404, "wallet_not_found", "User wallet not found")
    if _is_unpriced(state, feature_id, model):
        refusal = {"user_id": user_id, "status": "not-access-able"}
        raise Refused(403, "model_not_priced", "No price covers this model", data=refusal)
    wallet = state.wallet(user_id)
    data = {"user_id": user_id, "token": tokens(wallet.spendable_micros), "status": "not-access-able"}
    feature, package = state.features.get(feature_id), state.packages[wallet.package_id]
    if feature is None or (package is not None and feature_id not in package):
        raise _no_feature(data)
    if hold_micros and len(wallet.holds) >= HOLDS_MAX:
        raise Refused(429, "too_many_holds", "The wallet has too many open holds")
    if not wallet.debts_micros and wallet.room_micros >= max(feature.min_micros, hold_micros):
        process_id = str(uuid.uuid4())
        state.user_of_process[process_id] = user_id
        data.update(status=ACCESS_ABLE, process_id=process_id)
        if hold_micros:
            hold = Hold(hold_micros, state.now() + timedelta(seconds=hold_seconds))
            wallet.holds[process_id] = hold
            data.update(token=tokens(wallet.spendable_micros), **_hold_data(hold))
    if key is not None:
        state.starts[user_id, key] = Answered(fields, data)
    return Answer(data)


def end(state: State, fields: Any, key: str | None) -> Answer:
    ended = _read_end(state, fields)
    used = [("key", key), ("process", ended.process_id)]
    keys = [(kind, name) for kind, name in used if name is not None]
    for each in keys:
        if (before := state.ended.get(each)) is not None:
            return _again(before, fields)
    _check_owner(state, ended.process_id or "", ended.user_id)
    wallet = state.wallet(ended.user_id)
    own_hold = wallet.holds.pop(ended.process_id or "", None)
    cost = _cost(state, ended)
    covered = wallet.deduct(cost.cost_micros, own_hold.amount_micros if own_hold else 0)
    data = _deducted(ended.user_id, wallet, cost, covered=covered)
    if not ended.free:
        billed = _memory_end(ended, key, cost)
        state.ends.append(billed)
        account = Account(billed, cost.cost_micros, state.now())
        state.accounts.update(dict.fromkeys(keys, account))
        state.ended.update(dict.fromkeys(keys, Answered(fields, data)))
    return Answer(data)


def end_batch(state: State, fields: Any, _key: str | None) -> Answer:
    ends = fields.get("ends") if isinstance(fields, Mapping) else None
    if not isinstance(ends, list) or not 1 <= len(ends) <= BATCH_ENDS_MAX:
        raise invalid(ends=f"Must be a list of 1 to {BATCH_ENDS_MAX} ends.")
    return Answer({"results": [_batch_result(state, each) for each in ends]})


def _batch_result(state: State, fields: Any) -> dict[str, Any]:
    try:
        if not isinstance(fields, dict):
            raise invalid(end="Must be a JSON object.")
        own = {name: value for name, value in fields.items() if name != "idempotency_key"}
        answer = end(state, own, checked_key(fields.get("idempotency_key"), "idempotency_key"))
    except Refused as refused:
        return refused.body()
    result = {"success": True, "status": 200, "message": "Token process ended", "data": answer.data}
    return {**result, "idempotent_replayed": True} if answer.replayed else result


def estimate(state: State, fields: Any, _key: str | None) -> Answer:
    ended = _read_end(state, fields)
    wallet = state.wallet(ended.user_id)
    holds = dict(wallet.holds)
    own_hold = holds.pop(ended.process_id or "", None)
    trial = replace(wallet, holds=holds, debts_micros=list(wallet.debts_micros))
    cost = _cost(state, ended)
    covered = trial.deduct(cost.cost_micros, own_hold.amount_micros if own_hold else 0)
    parts = {
        "base_cost": tokens(cost.base_micros),
        "profit": tokens(cost.profit_micros),
        "price_id": cost.price_id,
        "profit_rule_id": cost.profit_rule_id,
    }
    answer = _deducted(ended.user_id, trial, cost, covered=covered)
    del answer["user_id"]
    return Answer({**answer, **parts})


def reverse(state: State, fields: Any, _key: str | None) -> Answer:
    body = Body(fields)
    user_id, reference, reason = body.text("user_id"), body.text("reference"), body.text("reason")
    keys = [("process", body.text("process_id", required=False))]
    keys.append(("key", body.text("idempotency_key", required=False)))
    if all(fields.get(name) is None for name in ("process_id", "idempotency_key")):
        for name in ("process_id", "idempotency_key"):
            body.errors[name] = ["Give process_id, idempotency_key or both."]
    body.check()
    found = [state.accounts.get((kind, name)) for kind, name in keys if name]
    account = found[0]
    if account is None or account is not found[-1] or account.end.user_id != user_id:
        raise Refused(404, "not_found", "End not found")
    if (before := account.reversals.get(reference)) is not None:
        if before.body != reason:
            raise Refused(409, "idempotency_conflict", "This reference was used with another body")
        return Answer(before.data, replayed=True)
    seconds = state.features[account.end.feature_endpoint_id].reversal_seconds
    if not seconds or state.now() - account.accepted_at > timedelta(seconds=seconds):
        message = "This run can't be reversed by its service any more"
        raise Refused(403, "reversal_not_allowed", message)
    if account.reversed:
        raise Refused(409, "exceeds_original", "This run has nothing left to give back")
    account.reversed = True
    cost, owed = tokens(account.cost_micros), state.wallet(user_id).give_back(account.cost_micros)
    data = {
        "user_id": user_id,
        "token": cost,
        "posted_token": 0 if owed else cost,
        "debt_token": -cost if owed else 0,
        "reference": reference,
    }
    account.reversals[reference] = Answered(reason, data)
    return Answer(data)


def cancel(state: State, fields: Any, _key: str | None) -> Answer:
    body = Body(fields)
    user_id, process_id = body.text("user_id"), body.text("process_id")
    body.check()
    _check_owner(state, process_id, user_id)
    wallet = state.wallet(user_id)
    if ("process", process_id) in state.ended:
        raise Refused(409, "already_ended", "This process has ended already")
    wallet.holds.pop(process_id, None)
    return Answer({"user_id": user_id, "process_id": process_id, "token": tokens(wallet.spendable_micros)})


def extend_hold(state: State, fields: Any, key: str | None) -> Answer:
    body = Body(fields)
    user_id, process_id = body.text("user_id"), body.text("process_id")
    more_micros = body.amount_micros("hold_token")
    more_seconds = body.count("hold_seconds", least=1, most=HOLD_SECONDS_MAX) or 0
    body.check()
    if not more_micros and not more_seconds:
        neither = "Give hold_token, hold_seconds or both."
        raise invalid(hold_token=neither, hold_seconds=neither)
    _check_owner(state, process_id, user_id)
    wallet = state.wallet(user_id)
    if key is not None and (before := state.extensions.get((user_id, key))) is not None:
        return _again(before, fields)
    hold = wallet.holds.get(process_id)
    if hold is None:
        raise Refused(404, "hold_not_found", "No open hold of this process")
    # More tokens are granted as to a start; time alone takes nothing from anybody.
    may_start = wallet.active and not wallet.debts_micros
    granted = not more_micros or (may_start and wallet.room_micros >= more_micros)
    if granted:
        hold.amount_micros += more_micros
        latest = state.now() + timedelta(seconds=HOLD_SECONDS_MAX)
        wanted = min(hold.expires_at + timedelta(seconds=more_seconds), latest)
        hold.expires_at = max(hold.expires_at, wanted)
    status = ACCESS_ABLE if granted else "not-access-able"
    about = {"user_id": user_id, "process_id": process_id, "token": tokens(wallet.spendable_micros)}
    data = {**about, "status": status, **_hold_data(hold)}
    if key is not None and granted:
        state.extensions[user_id, key] = Answered(fields, data)
    return Answer(data)


CALLS = {
    "start": ("Token process started", start),
    "end": ("Token process ended", end),
    "end/reverse": ("Token process reversed", reverse),
    "end/batch": ("Token processes ended", end_batch),
    "estimate": ("Token process estimated", estimate),
    "cancel": ("Token process cancelled", cancel),
    "hold/extend": ("Hold extended", extend_hold),
}


def _check_owner(state: State, process_id: str, user_id: str) -> None:
    if state.user_of_process.get(process_id, user_id) != user_id:
        raise Refused(409, "process_id_of_another_user", "This process id belongs to another user")


def _read_end(state: State, fields: Any) -> _End:
    body = Body(fields)
    user_id, feature_id = body.text("user_id"), body.text("feature_endpoint_id")
    model = body.text("model", required=False) or None
    process_id = body.text("process_id", required=False) or None
    usage = body.usage()
    body.check()
    if feature_id not in state.features:
        raise _no_feature({})
    return _End(user_id, feature_id, usage, model, process_id)


def _cost(state: State, ended: _End) -> Cost:
    if ended.free:
        return Cost(0, 0, None)
    return cost_of(
        ended.usage, ended.feature_id, ended.model, state.prices, state.profit_rules, at=state.now()
    )


def _is_unpriced(state: State, feature_id: str, model: str | None) -> bool:
    """Whether a start may not be made because no price in force covers its model."""
    feature = state.features.get(feature_id)
    if model is None or feature is None or not feature.refuses_unpriced:
        return False
    nothing = RunUsage(0, 0)
    return cost_of(nothing, feature_id, model, state.prices, [], at=state.now()).price_id is None


def _deducted(user_id: str, wallet: Wallet, cost: Cost, *, covered: bool) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "token": tokens(wallet.spendable_micros),
        "cost": tokens(cost.cost_micros),
        "status": RETURN_ABLE if covered else "not-return-able",
    }


def _again(before: Answered, fields: Any) -> Answer:
    if before.body != fields:
        raise Refused(409, "idempotency_conflict", "This key was used with another body")
    return Answer(before.data, replayed=True)


def _hold_data(hold: Hold) -> dict[str, Any]:
    expires_at = hold.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"hold_token": tokens(hold.amount_micros), "expires_at": expires_at}


def _no_feature(data: dict[str, Any]) -> Refused:
    message = "Feature endpoint is not available in your package"
    return Refused(403, "feature_not_available", message, data=data)


def _memory_end(ended: _End, key: str | None, cost: Cost) -> MemoryEnd:
    return MemoryEnd(
        user_id=ended.user_id,
        feature_endpoint_id=ended.feature_id,
        **vars(ended.usage),
        model=ended.model,
        process_id=ended.process_id,
        idempotency_key=key,
        base_cost=tokens(cost.base_micros),
        profit=tokens(cost.profit_micros),
        cost=tokens(cost.cost_micros),
        price_id=cost.price_id,
    )
