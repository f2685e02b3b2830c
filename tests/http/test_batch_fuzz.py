"""`/end/batch` under any input: each end is answered and billed as the single call would have done it.

Every example runs twice, in one batch for the wallets of `a` and call by call for their twins of `b`, which must end
up the same to the micro-token and to the word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from tests.support import FEATURE, Billing, assert_conserved

pytestmark = pytest.mark.long

END = "/api/token-process/end"
BATCH = "/api/token-process/end/batch"

# Each run of the suite tries the same examples; `derandomize=False, max_examples=2_000` goes looking for others.
RELAXED = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

# Replaced by a name of the example's own: wallets, keys and runs are new in each.
OWN = "own:"
OWN_NAMES = {
    "user_id": ["rich", "poor", "unknown"],
    "idempotency_key": ["k1", "k2", "k3", "a b", "255", "256"],
    "process_id": ["k1", "p1", "p2", "ünï", "128", "129"],
}
KEYS = ("idempotency_key", "process_id")
ODD_NUMBERS = [True, False, 7, -1, 1.5, 4e1, 10**15, 10**18, 2**63, 10**400]
ODD_TEXTS = ["", " ", "7", "x" * 128, "x" * 129, "a\x00b", "a\nb", "\ud800", "ünï", "\u202e"]
ODD = st.sampled_from([None, *ODD_NUMBERS, *ODD_TEXTS, [], ["x"], {}, {"a": 1}])
BAD_KEYS = {
    "Must be a string.": [True, False, 7, 1.5, [], {"a": 1}],
    "Must have 1 to 255 characters.": [""],
    "Must not contain control characters.": ["a\x00b", "a\nb", "\ud800"],
}
ODD_KEYS = st.sampled_from([None, *(key for keys in BAD_KEYS.values() for key in keys)])
USAGE = st.one_of(st.integers(0, 400), st.sampled_from([0, 2**31, 40.0]))


def own(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([OWN + name for name in OWN_NAMES[name]])


ENDS = st.fixed_dictionaries(
    {
        "user_id": own("user_id"),
        "feature_endpoint_id": st.sampled_from([FEATURE] * 9 + ["feature-unknown"]),
        "input_token": USAGE,
        "output_token": USAGE,
    },
    optional={
        "idempotency_key": own("idempotency_key"),
        "process_id": own("process_id"),
        "model": st.sampled_from(["large", None]),
        "unheard_of": ODD,
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """An end with some fields missing or replaced."""
    end = draw(ENDS)
    for name in draw(st.lists(st.sampled_from([*end, "idempotency_key", "process_id", "model"]), max_size=3)):
        if draw(st.booleans()):
            end.pop(name, None)
        else:
            end[name] = draw(ODD_KEYS if name in KEYS else ODD)
    return end


BATCHES = st.lists(st.one_of(ENDS, ENDS, damaged(), ODD), min_size=1, max_size=12)


def named(value: Any, prefix: str) -> Any:
    """An end with its own names filled in; those of digits are that long.

    Keys are each wallet's own: whose end comes first when two share one depends on which of the wallets is cached.
    """
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    user_id = value.get("user_id")
    owner = user_id.removeprefix(OWN) if isinstance(user_id, str) and user_id.startswith(OWN) else "odd"
    for name, field in value.items():
        if isinstance(field, str) and field.startswith(OWN):
            rest = field.removeprefix(OWN)
            start = f"{prefix}{owner}-" if name in KEYS else prefix
            filled[name] = start.ljust(int(rest), "x") if rest.isdigit() else start + rest
    return filled


@pytest.fixture
def shop(billing: Billing) -> Billing:
    billing.catalog()
    return billing


@pytest.fixture
def prefixes(shop: Billing) -> Iterator[tuple[str, str]]:
    """Names of new twin wallets, each time they are asked for."""

    def make() -> Iterator[tuple[str, str]]:
        for i in count():
            for twin in "ab":
                shop.wallet(f"{twin}{i}-rich", tokens=1_000_000_000)
                shop.wallet(f"{twin}{i}-poor", tokens=50, overdraft_tokens=5)
            yield f"a{i}-", f"b{i}-"

    return make()


def test_a_batch_is_its_ends_one_by_one(
    shop: Billing, client: FlaskClient, server_headers: dict[str, str], prefixes: Iterator[tuple[str, str]]
) -> None:
    run = {"user_id": OWN + "rich", "feature_endpoint_id": FEATURE, "input_token": 1, "output_token": 4}
    repeated = {**run, "process_id": OWN + "p1"}

    @RELAXED
    @given(BATCHES)
    @example([{**run, "input_token": 0, "output_token": 0}, run, {**run, "input_token": 0, "output_token": 0}])
    @example([repeated, {**repeated, "idempotency_key": OWN + "k1"}])
    def check(ends: list[Any]) -> None:
        a, b = next(prefixes)
        response = client.post(BATCH, json={"ends": [named(end, a) for end in ends]}, headers=server_headers)
        assert response.status_code == 200, response.text
        results = response.get_json()["data"]["results"]
        assert len(results) == len(ends)
        for end, result in zip(ends, results, strict=True):
            event(str(result["status"]))
            result.pop("request_id", None)
            single = one_by_one(client, server_headers, named(end, b))
            assert json.loads(json.dumps(result).replace(a, b)) == single, end
        shop.settle_everything()
        for name in ("rich", "poor"):
            assert_conserved(shop, a + name, b + name)
            assert billed(shop, a + name, a, b) == billed(shop, b + name, b, b)

    check()


def one_by_one(client: FlaskClient, server_headers: dict[str, str], end: Any) -> dict[str, Any]:
    """What the single call answers, in the words of the batch call."""
    headers = dict(server_headers)
    if not isinstance(end, dict):
        return invalid({"end": ["Must be a JSON object."]})
    key = end.get("idempotency_key")
    reason = next((reason for reason, keys in BAD_KEYS.items() if key in keys), None)
    if reason is not None:
        # No header can carry such a key; one that is too long stands for it.
        headers["Idempotency-Key"] = "x" * 256
    elif key is not None:
        headers["Idempotency-Key"] = key
    response = client.post(END, json=end, headers=headers)
    answer: dict[str, Any] = response.get_json()
    answer.pop("request_id", None)
    if reasons := answer.get("errors", {}).pop("Idempotency-Key", None):
        answer["errors"]["idempotency_key"] = [reason] if reason else reasons
    if answer["success"]:
        answer["status"] = response.status_code
        if response.headers.get("Idempotent-Replayed"):
            answer["idempotent_replayed"] = True
    return answer


def invalid(errors: dict[str, Any]) -> dict[str, Any]:
    return {
        "success": False,
        "status": 400,
        "message": "Validation failed",
        "code": "validation_failed",
        "errors": errors,
    }


def billed(shop: Billing, user_id: str, prefix: str, other: str) -> list[tuple[Any, ...]]:
    """What stands in a wallet's ledger and inbox, without what is each entry's own."""
    ledger = [
        (row.kind, row.amount_micros, row.balance_after_micros, row.reference, row.process_id)
        for row in shop.ledger(user_id)
    ]
    inbox = [
        (row.state, row.cost_micros, row.last_error, row.idempotency_key, row.process_id) for row in shop.inbox(user_id)
    ]
    return [tuple(v.replace(prefix, other) if isinstance(v, str) else v for v in row) for row in [*ledger, *inbox]]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), ODD),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.just("ends"), st.text(max_size=4)), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps({"ends": value}).encode()),
    JSON.map(lambda value: json.dumps({"ends": [value]}).encode()),
    st.tuples(BATCHES, st.integers(0, 400), st.binary(max_size=3)).map(
        # A batch, cut off or with garbage in the middle.
        lambda drawn: (body := json.dumps({"ends": drawn[0]}).encode())[: drawn[1]] + drawn[2] + body[drawn[1] + 1 :]
    ),
)


def test_any_body_is_answered_in_the_envelope(
    shop: Billing, client: FlaskClient, server_headers: dict[str, str]
) -> None:
    @RELAXED
    @given(BODIES)
    def check(body: bytes) -> None:
        response = client.post(BATCH, data=body, headers=server_headers, content_type="application/json")
        event(str(response.status_code))
        answer = response.get_json()
        assert response.status_code in (200, 400)
        assert answer["success"] is (response.status_code == 200)
        if answer["success"]:
            results = answer["data"]["results"]
            # Wallets and features of these don't exist.
            assert {result["success"] for result in results} == {False}
            assert {result["status"] for result in results} <= {400, 403, 404}
        else:
            assert answer["status"] == 400

    check()
    assert shop.inbox_size() == 0
