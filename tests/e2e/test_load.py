"""Many clients, one hot wallet, repeated keys, two workers: every wallet exact, nothing billed twice."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from stack.embedded import PostgresServer
from tests import processes
from tests.conftest import SERVER_KEY
from tests.support import FEATURE, Billing, assert_conserved

pytestmark = pytest.mark.long

ENDS = 2_000
CLIENTS = 16
OPENING_TOKENS = 1_000_000


def test_two_thousand_ends_settle_exactly(
    billing: Billing, environment: dict[str, str], tmp_path: Path, postgres_server: PostgresServer
) -> None:
    rng = random.Random(20_260)
    billing.catalog(basis_points=1_000)
    users = ["hot"] + [f"user-{i}" for i in range(50)]
    for user in users:
        billing.wallet(user, tokens=OPENING_TOKENS)

    calls = []
    expected_micros: dict[str, int] = defaultdict(int)
    for i in range(ENDS):
        user = "hot" if rng.random() < 0.3 else rng.choice(users[1:])
        output_tokens = rng.randint(1, 400)
        # 10 % on a quarter of a token for each output token.
        expected_micros[user] += output_tokens * 275_000
        body = {
            "user_id": user,
            "feature_endpoint_id": FEATURE,
            "input_token": 1,
            "output_token": output_tokens,
        }
        calls += [(f"key-{i}", body)] * (2 if i % 3 == 0 else 1)
    rng.shuffle(calls)

    with (
        processes.worker(environment, tmp_path, "one"),
        processes.worker(environment, tmp_path, "two"),
        processes.beat(environment, tmp_path),
        processes.web(environment, tmp_path) as (url, _),
        httpx.Client(
            base_url=url,
            headers={"x-server-api-key": SERVER_KEY},
            limits=httpx.Limits(max_connections=CLIENTS),
        ) as client,
    ):

        def send(call: tuple[str, dict[str, object]]) -> tuple[str, int, dict[str, object], bool]:
            key, body = call
            response = client.post("/api/token-process/end", json=body, headers={"Idempotency-Key": key})
            return key, response.status_code, response.json(), "Idempotent-Replayed" in response.headers

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(send, calls))
        processes.wait_until(lambda: not billing.inbox_size(), what="settlement", seconds=20)

        assert {status for _, status, _, _ in answers} == {200}
        first_of = {}
        for key, _, body, _ in answers:
            assert first_of.setdefault(key, body) == body
        assert sum(replayed for *_, replayed in answers) == len(calls) - ENDS
        for user in users:
            posted_micros = OPENING_TOKENS * 1_000_000 - expected_micros[user]
            assert billing.balance(user).posted_micros == posted_micros
            assert billing.cached_spendable_micros(user) in (None, posted_micros)
        assert sum(len(billing.ledger(user)) - 1 for user in users) == ENDS
        assert_conserved(billing, *users)
    assert "deadlock" not in postgres_server.log_path.read_text()
