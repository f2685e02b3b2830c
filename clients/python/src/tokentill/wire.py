"""What goes over the wire: bodies checked before they are sent, answers checked before they are believed.

Amounts of tokens are read as `int`, or as `Decimal` where they have decimals; a float never touches one.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from tokentill.errors import (
    AuthenticationError,
    ConflictError,
    FeatureNotAvailableError,
    HoldNotFoundError,
    ReversalRefusedError,
    TokenProcessError,
    UnavailableError,
    ValidationError,
    WalletNotFoundError,
)

Amount: TypeAlias = int | Decimal

ACCESS_ABLE = "access-able"
RETURN_ABLE = "return-able"


@dataclass(frozen=True)
class Start:
    """The server's answer to a start. `token` is what the user can spend now; `process_id` names this run.

    `away`: the server couldn't be asked, and the run may go on without it (`token` is then 0).
    """

    user_id: str
    token: Amount
    status: str
    process_id: str | None = None
    hold_token: Amount | None = None
    expires_at: str | None = None
    away: bool = False

    @property
    def access_able(self) -> bool:
        return self.status == ACCESS_ABLE


@dataclass(frozen=True)
class Hold:
    """The server's answer to an extension: the hold as it is now. `token` is what is free beside it."""

    token: Amount
    hold_token: Amount
    expires_at: str
    status: str


@dataclass(frozen=True)
class End:
    """The server's answer to an end: what it cost and what is left. `replayed`: it had been billed before."""

    user_id: str
    token: Amount
    cost: Amount
    status: str
    replayed: bool = False

    @property
    def return_able(self) -> bool:
        return self.status == RETURN_ABLE


@dataclass(frozen=True)
class Reversal:
    """The server's answer to a reversal. `token` is what the run had cost and costs no more: `posted_token`
    of it went back to the balance, and the debt changed by `debt_token`. `replayed`: it was reversed before.
    """

    user_id: str
    token: Amount
    posted_token: Amount
    debt_token: Amount
    reference: str
    replayed: bool = False


@dataclass(frozen=True)
class Estimate:
    """What an end would answer now: `token` is what would be left. `price_id` None: by the default rule."""

    token: Amount
    cost: Amount
    base_cost: Amount
    profit: Amount
    price_id: int | None
    profit_rule_id: int | None
    status: str

    @property
    def return_able(self) -> bool:
        return self.status == RETURN_ABLE


def start_body(
    user_id: str,
    feature_endpoint_id: str,
    hold_token: Amount | None,
    hold_seconds: int | None,
    model: str | None = None,
) -> str:
    body = _ids(user_id=user_id, feature_endpoint_id=feature_endpoint_id)
    if model:
        body["model"] = model
    return _with_hold(body, hold_token, hold_seconds)


def extend_body(user_id: str, process_id: str, hold_token: Amount | None, hold_seconds: int | None) -> str:
    body = _ids(user_id=user_id, process_id=process_id)
    if hold_token is None and hold_seconds is None:
        raise ValidationError("Name hold_token or hold_seconds", errors={"hold_token": ["Missing."]})
    return _with_hold(body, hold_token, hold_seconds)


def reverse_body(
    user_id: str, reference: str, reason: str, process_id: str | None, idempotency_key: str | None
) -> str:
    body = _ids(user_id=user_id, reference=reference, reason=reason)
    keys = {"process_id": process_id, "idempotency_key": idempotency_key}
    given = {name: value for name, value in keys.items() if value is not None}
    if not given:
        raise ValidationError(
            "Name process_id or idempotency_key", errors={name: ["Missing."] for name in keys}
        )
    return json.dumps({**body, **_ids(**given)})


def _with_hold(body: dict[str, Any], hold_token: Amount | None, hold_seconds: int | None) -> str:
    if hold_seconds is not None:
        body["hold_seconds"] = hold_seconds
    text = json.dumps(body)
    # Spliced in as text: the json module would turn a Decimal into a float.
    return text if hold_token is None else f'{text[:-1]}, "hold_token": {_plain_number(hold_token)}}}'


def end_body(
    *,
    user_id: str,
    feature_endpoint_id: str,
    input_token: int | None,
    output_token: int | None,
    model: str | None = None,
    process_id: str | None = None,
    cached_input_token: int | None = None,
    cache_write_token: int | None = None,
    reasoning_token: int | None = None,
    requests: int | None = None,
) -> str:
    body: dict[str, Any] = _ids(user_id=user_id, feature_endpoint_id=feature_endpoint_id)
    body["input_token"] = token_count("input_token", input_token)
    body["output_token"] = token_count("output_token", output_token)
    parts = {
        "cached_input_token": token_count("cached_input_token", cached_input_token),
        "cache_write_token": token_count("cache_write_token", cache_write_token),
        "reasoning_token": token_count("reasoning_token", reasoning_token),
    }
    # Left out where they say nothing: the guide's body has none of them.
    body.update({name: count for name, count in parts.items() if count > 0})
    # One request goes without saying, unless nothing else was used.
    if token_count("requests", requests) > (1 if body["input_token"] + body["output_token"] else 0):
        body["requests"] = token_count("requests", requests)
    if model:
        body["model"] = str(model)
    if process_id:
        body["process_id"] = process_id
    return json.dumps(body)


def token_count(name: str, value: Any) -> int:
    """A count of tokens; None counts as 0. ValidationError for anything but a whole number >= 0."""
    if value is None:
        return 0
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        whole = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValidationError(
            f"{name} is not a count of tokens", errors={name: [f"Not a whole number >= 0: {value!r}."]}
        )
    return whole


def parse(status: int, text: str) -> dict[str, Any]:
    """The envelope of a success. Raises the error that stands for anything else."""
    try:
        body = json.loads(text, parse_float=_amount)
    except ValueError:
        body = None
    if isinstance(body, dict) and body.get("success") is True and 200 <= status < 300:
        return body
    raise error_from(status, body)


def error_from(status: int, body: Any) -> TokenProcessError:
    """The error for an answer that isn't a success; `body` is its JSON, or None where it had none."""
    if not (isinstance(body, dict) and body.get("success") is False):
        # Not the server's words: a proxy's page, another service, a cut answer.
        message = f"The answer (HTTP {status}) is not Tokentill's. Is TOKEN_SERVER_URL right?"
        kind = UnavailableError if status >= 500 or 200 <= status < 300 else TokenProcessError
        return kind(message, status=status)
    code = body.get("code") or _CODES.get(status) or f"http_{status}"
    errors, data = body.get("errors"), body.get("data")
    kind = UnavailableError if status >= 500 else _ERRORS.get(status, TokenProcessError)
    kind = _ERRORS_BY_CODE.get(str(code), kind)
    return kind(
        str(body.get("message") or f"HTTP {status}"),
        status=status,
        code=str(code),
        errors=errors if isinstance(errors, Mapping) else None,
        request_id=body.get("request_id"),
        data=data if isinstance(data, Mapping) else None,
    )


def parse_start(envelope: Mapping[str, Any]) -> Start:
    data = envelope.get("data") or {}
    try:
        return Start(
            user_id=data["user_id"],
            token=data["token"],
            status=data["status"],
            process_id=data.get("process_id"),
            hold_token=data.get("hold_token"),
            expires_at=data.get("expires_at"),
        )
    except (KeyError, TypeError):
        raise UnavailableError("The answer to start is incomplete") from None


def parse_hold(envelope: Mapping[str, Any]) -> Hold:
    data = envelope.get("data") or {}
    try:
        return Hold(data["token"], data["hold_token"], data["expires_at"], data["status"])
    except (KeyError, TypeError):
        raise UnavailableError("The answer to hold/extend is incomplete") from None


def parse_end(envelope: Mapping[str, Any], *, replayed: bool = False) -> End:
    data = envelope.get("data") or {}
    try:
        return End(
            user_id=data["user_id"],
            token=data["token"],
            cost=data["cost"],
            status=data["status"],
            replayed=replayed or envelope.get("idempotent_replayed") is True,
        )
    except (KeyError, TypeError):
        raise UnavailableError("The answer to end is incomplete") from None


def parse_reversal(envelope: Mapping[str, Any], *, replayed: bool = False) -> Reversal:
    data = envelope.get("data") or {}
    try:
        return Reversal(
            user_id=data["user_id"],
            token=data["token"],
            posted_token=data["posted_token"],
            debt_token=data["debt_token"],
            reference=data["reference"],
            replayed=replayed,
        )
    except (KeyError, TypeError):
        raise UnavailableError("The answer to end/reverse is incomplete") from None


def parse_estimate(envelope: Mapping[str, Any]) -> Estimate:
    data = envelope.get("data") or {}
    try:
        return Estimate(**{name: data[name] for name in Estimate.__dataclass_fields__})
    except (KeyError, TypeError):
        raise UnavailableError("The answer to estimate is incomplete") from None


_ERRORS: dict[int, type[TokenProcessError]] = {
    400: ValidationError,
    401: AuthenticationError,
    403: FeatureNotAvailableError,
    404: WalletNotFoundError,
    409: ConflictError,
    413: ValidationError,
    415: ValidationError,
}
_ERRORS_BY_CODE = {
    "not_found": TokenProcessError,
    "hold_not_found": HoldNotFoundError,
    "reversal_not_allowed": ReversalRefusedError,
    "exceeds_original": ReversalRefusedError,
    "written_off": ReversalRefusedError,
}
# For servers that name no code, such as the one the guide was written for.
_CODES = {
    400: "validation_failed",
    401: "unauthorized",
    403: "feature_not_available",
    404: "wallet_not_found",
    409: "idempotency_conflict",
}


def _ids(**ids: str) -> dict[str, Any]:
    for name, value in ids.items():
        if not isinstance(value, str) or not value:
            raise ValidationError(f"{name} is missing", errors={name: ["A string that isn't empty."]})
    return dict(ids)


def _amount(text: str) -> Amount:
    number = Decimal(text)
    # Looked at before it becomes an integer: 1e999999999 would fill the memory.
    return int(number) if number.adjusted() < 30 and number == number.to_integral_value() else number


def _plain_number(value: Amount) -> str:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or number <= 0:
        raise ValidationError("hold_token is not a number > 0", errors={"hold_token": [repr(value)]})
    return format(number, "f")
