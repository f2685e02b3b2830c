"""An error says how its call is repeated, and goes on saying so wherever it is carried."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import json
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import celery
import celery.signals
import pytest
from celery.contrib.testing.worker import start_worker

from tests.unit.fake import Fake, failure
from tokentill import (
    AuthenticationError,
    ConflictError,
    HoldRefusedError,
    InsufficientTokensError,
    OutboxFullError,
    TokenProcessError,
    UnavailableError,
    UsageUnreadableError,
    ValidationError,
    errors,
)

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TokenProcessError)
]


def fails(call: Any) -> TokenProcessError:
    with pytest.raises(TokenProcessError) as caught:
        call()
    return caught.value


CALLS = {
    "start": lambda client: client.start("u", "f", hold_token=Decimal("1.5"), hold_seconds=60),
    "end": lambda client: client.end("u", "f", 1, 40, model="m", process_id="p"),
    "end_batch": lambda client: client.end_batch(
        [{"user_id": "u", "feature_endpoint_id": "f", "output_token": 4}]
    ),
    "cancel": lambda client: client.cancel("u", "p"),
    "extend_hold": lambda client: client.extend_hold("u", "p", hold_token=5),
}


@pytest.mark.parametrize("fault", [failure(503), failure(401), failure(400, "validation_failed")])
@pytest.mark.parametrize("operation", CALLS)
def test_it_says_which_call_to_repeat_and_with_which_key(operation: str, fault: Any) -> None:
    fake = Fake(answers=[fault] * 99)
    with fake.client(total_timeout_seconds=0.01, breaker_failures=99) as client:
        error = fails(lambda: CALLS[operation](client))
        assert error.operation == operation
        assert error.repeat is not None
        first = fake.calls[0]
        fake.answers = []
        if operation == "extend_hold":
            fake.answers = [hold_answer()]
        # Carried through JSON, as a task's arguments are.
        repeat = json.loads(json.dumps(error.repeat, default=str))
        getattr(client, error.operation)(**repeat)
    again = fake.calls[-1]
    assert (again.path, again.body) == (first.path, first.body)
    assert again.headers.get("idempotency-key") == first.headers.get("idempotency-key")
    if operation in {"start", "end"}:
        assert error.idempotency_key == first.headers["idempotency-key"]


def hold_answer() -> Any:
    from tests.unit.fake import success

    return success(
        {"token": 1, "hold_token": 10, "expires_at": "2030-01-01T00:00:00Z", "status": "access-able"}
    )


def test_each_end_of_a_batch_says_it_for_itself() -> None:
    from tests.unit.fake import success

    refused = {"success": False, "status": 404, "message": "no", "code": "wallet_not_found"}
    fake = Fake(answers=[success({"results": [refused]})])
    with fake.client() as client:
        [item] = client.end_batch([{"user_id": "u", "feature_endpoint_id": "f", "output_token": 4}])
        assert item.error is not None
        assert item.error.repeat is not None
        assert item.error.operation == "end"
        client.end(**item.error.repeat)
    assert fake.calls[-1].headers["idempotency-key"] == item.error.idempotency_key


def test_a_queued_end_needs_no_repeating(tmp_path: Path) -> None:
    fake = Fake(answers=[failure(503)] * 99)
    with fake.client(outbox=tmp_path / "outbox.db", background=False, total_timeout_seconds=0.01) as client:
        error = fails(lambda: client.end("u", "f", 1, 40))
        assert (error.queued, error.repeat) == (True, None)
        assert error.idempotency_key == fake.calls[0].headers["idempotency-key"]


def test_what_is_refused_before_it_is_sent_has_its_arguments_too() -> None:
    with Fake().client() as client:
        error = fails(lambda: client.end("", "f", 1, 40, idempotency_key="mine"))
        assert (error.operation, error.idempotency_key) == ("end", "mine")
        assert isinstance(error, ValidationError)


def full(kind: type[TokenProcessError]) -> TokenProcessError:
    error = kind(
        "It failed",
        status=503,
        code="a_code",
        errors={"field": ["why"]},
        request_id="r-1",
        data={"token": Decimal("12.5"), "status": "not-access-able"},
    )
    error.operation, error.idempotency_key = "end", "key-1"
    error.repeat = {"user_id": "u", "output_token": 40}
    error.queued = True
    if isinstance(error, UnavailableError):
        error.retry_after_seconds = 7.5
    return error


def same(one: TokenProcessError, other: Any) -> None:
    assert type(other) is type(one)
    assert str(other) == str(one)
    for name in ("message", "status", "code", "errors", "request_id", "token", "operation"):
        assert getattr(other, name) == getattr(one, name), name
    for name in ("idempotency_key", "repeat", "queued"):
        assert getattr(other, name) == getattr(one, name), name
    assert getattr(other, "retry_after_seconds", None) == getattr(one, "retry_after_seconds", None)


WRONG = {
    "end": lambda client: client.end("u", "f", -1, 40),
    "estimate": lambda client: client.estimate("u", "f", -1, 40),
    "end_batch": lambda client: client.end_batch([{"user_id": "u", "input_token": -1}]),
}


@pytest.mark.parametrize("operation", WRONG)
def test_what_is_wrong_says_which_call_it_was(operation: str) -> None:
    fake = Fake()
    with fake.client() as client:
        error = fails(lambda: WRONG[operation](client))
    assert error.operation == operation
    assert isinstance(error, ValidationError)
    assert '"input_token": -1' in json.dumps(error.repeat)
    assert fake.calls == []


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling_and_copying(kind: type[TokenProcessError]) -> None:
    error = full(kind)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        same(error, pickle.loads(pickle.dumps(error, protocol)))  # noqa: S301
    same(error, copy.copy(error))
    same(kind(), pickle.loads(pickle.dumps(kind())))  # noqa: S301


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_plain_json(kind: type[TokenProcessError]) -> None:
    error = full(kind)
    same(error, kind(*json.loads(json.dumps(error.args))))


def test_a_result_that_cannot_be_pickled_does_not_come_along() -> None:
    error = UsageUnreadableError("It failed")
    error.result, error.seen = {"text": "hi"}, [{"pieces": 3}]
    assert pickle.loads(pickle.dumps(error)).result == {"text": "hi"}  # noqa: S301
    error.result = threading.Lock()
    carried = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (carried.result, carried.seen) == (None, [{"pieces": 3}])


def test_an_error_crosses_a_process_pool() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        future = pool.submit(raise_full, "InsufficientTokensError")
        with pytest.raises(InsufficientTokensError) as caught:
            future.result(timeout=60)
    same(full(InsufficientTokensError), caught.value)


def raise_full(name: str) -> None:
    raise full(getattr(errors, name))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[celery.Celery]:
    """Celery as it is unless told otherwise: results are JSON."""
    folder = tmp_path_factory.mktemp("results")
    app = celery.Celery("test", broker="memory://", backend=f"file://{folder}")

    app.task(raise_full, name="fail")

    def leave_logging_alone(**_: Any) -> None:
        """Connected, it keeps the worker from taking over the tests' logging."""

    celery.signals.setup_logging.connect(leave_logging_alone, weak=False)
    with start_worker(app, perform_ping_check=False, loglevel="ERROR"):
        yield app


@pytest.mark.parametrize(
    "kind",
    [
        InsufficientTokensError,
        HoldRefusedError,
        UnavailableError,
        AuthenticationError,
        ConflictError,
        OutboxFullError,
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_errors_survive_celerys_json(app: celery.Celery, kind: type[TokenProcessError]) -> None:
    result = app.send_task("fail", [kind.__name__])
    with pytest.raises(kind) as caught:
        result.get(timeout=20)
    same(full(kind), caught.value)


def test_asyncio_says_it_too() -> None:
    async def work() -> TokenProcessError:
        async with Fake(answers=[failure(401)]).async_client() as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.end("u", "f", 1, 40, idempotency_key="mine")
        return caught.value

    assert asyncio.run(work()).idempotency_key == "mine"
