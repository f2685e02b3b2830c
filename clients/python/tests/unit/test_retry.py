from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import pytest

from tests.unit.fake import URL, Clock, Fake, failure
from tokentill import AuthenticationError, TokenProcess, UnavailableError, ValidationError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


TRANSIENT = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("hung up"),
    failure(500),
    failure(503),
    httpx.Response(502, text="<html>"),
]


@pytest.mark.parametrize(
    "fault", TRANSIENT, ids=lambda fault: getattr(fault, "status_code", None) or str(fault)
)
def test_transient_failures_are_repeated_with_the_same_key(
    clock: Clock, fault: httpx.Response | Exception
) -> None:
    fake = Fake(answers=[fault, fault])
    with fake.client() as client:
        assert client.end("u", "f", 1, 40).cost == 11
    keys = [call.headers["idempotency-key"] for call in fake.calls]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len({str(call.body) for call in fake.calls}) == 1


def test_each_run_has_a_key_of_its_own() -> None:
    fake = Fake()
    with fake.client() as client:
        client.end("u", "f", 1, 40)
        client.end("u", "f", 1, 40)
        client.end("u", "f", 1, 40, idempotency_key="mine")
    keys = [call.headers["idempotency-key"] for call in fake.calls]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 429])
def test_refusals_are_not_repeated(clock: Clock, status: int) -> None:
    fake = Fake(answers=[failure(status)])
    with fake.client() as client, pytest.raises(Exception, match=f"says {status}"):
        client.end("u", "f", 1, 40)
    assert len(fake.calls) == 1
    assert clock.pauses == []


def test_pauses_double_with_jitter_up_to_a_cap(clock: Clock) -> None:
    with Fake(answers=[failure(503)] * 8).client() as client:
        client.end("u", "f", 1, 40)
    full = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(0.5 * most <= pause <= most for pause, most in zip(clock.pauses, full, strict=True))


def test_time_limit_bounds_all_attempts(clock: Clock) -> None:
    fake = Fake(answers=[failure(503)] * 1000)
    with fake.client(total_timeout_seconds=5) as client, pytest.raises(UnavailableError):
        client.end("u", "f", 1, 40)
    assert 2.5 < clock.now - 1_000 <= 5


def test_the_last_attempt_gets_no_more_than_what_is_left(clock: Clock) -> None:
    allowed: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        allowed.append(request.extensions["timeout"]["read"])
        clock.now += 3
        return failure(503)

    transport = httpx.MockTransport(answer)
    with (
        TokenProcess(URL, "key", timeout_seconds=4, total_timeout_seconds=7, transport=transport) as client,
        pytest.raises(UnavailableError),
    ):
        client.end("u", "f", 1, 40)
    assert allowed[0] == 4
    assert allowed[-1] < 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(clock: Clock, form: str) -> None:
    value = "7"
    if form == "date":
        value = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=8), usegmt=True)
    with Fake(answers=[failure(503, headers={"Retry-After": value})]).client() as client:
        client.end("u", "f", 1, 40)
    assert 6 <= clock.pauses[0] <= 8


def test_a_retry_after_beyond_the_limit_gives_up_at_once(clock: Clock) -> None:
    fake = Fake(answers=[failure(503, headers={"Retry-After": "3600"})])
    with fake.client() as client, pytest.raises(UnavailableError) as caught:
        client.end("u", "f", 1, 40)
    assert caught.value.retry_after_seconds == 3600
    assert (len(fake.calls), clock.pauses) == (1, [])


@pytest.mark.parametrize("value", ["soon", "-1", "", "1e9999"])
def test_an_unreadable_retry_after_is_ignored(clock: Clock, value: str) -> None:
    with Fake(answers=[failure(503, headers={"Retry-After": value})]).client() as client:
        client.end("u", "f", 1, 40)
    assert clock.pauses[0] <= 0.1


def test_start_and_cancel_are_repeated_too(clock: Clock) -> None:
    fake = Fake(answers=[failure(503), None, failure(503), None])
    with fake.client() as client:
        assert client.start("u", "f").process_id == "p-1"
        client.cancel("u", "p-1")
    assert fake.paths() == ["start", "start", "cancel", "cancel"]


def test_the_asyncio_client_follows_the_same_policy() -> None:
    fake = Fake(answers=[httpx.ConnectError("refused"), failure(503, headers={"Retry-After": "0"})])

    async def work() -> None:
        async with fake.async_client() as client:
            assert (await client.end("u", "f", 1, 40)).cost == 11
            with pytest.raises(ValidationError):
                await client.end("u", "f", -1, 40)
            fake.answers = [failure(401)]
            with pytest.raises(AuthenticationError):
                await client.start("u", "f")

    asyncio.run(work())
    assert len({call.headers["idempotency-key"] for call in fake.of("end")}) == 1
    assert fake.paths() == ["end", "end", "end", "start"]


def test_a_batch_is_cut_to_size_and_each_end_answered_on_its_own() -> None:
    fake = Fake()
    ends = [{"user_id": "u", "feature_endpoint_id": "f", "output_token": n} for n in range(1, 1_201)]
    with fake.client() as client:
        items = client.end_batch(ends)
    assert [len(call.body["ends"]) for call in fake.calls] == [500, 500, 200]
    assert len(items) == 1_200
    assert len({end["idempotency_key"] for call in fake.calls for end in call.body["ends"]}) == 1_200


def test_long_ends_make_smaller_batches() -> None:
    fake = Fake()
    ends = [{"user_id": "u" * 4_000, "feature_endpoint_id": "f", "output_token": 1}] * 500
    with fake.client() as client:
        client.end_batch(ends)
    assert len(fake.calls) > 1
    assert all(len(str(call.body)) < 1024 * 1024 for call in fake.calls)
