"""What errors say about a store: only those about the store itself close its gate."""

from __future__ import annotations

import psycopg
import psycopg.errors
import pytest
import sqlalchemy as sa
from redis import exceptions
from redis._parsers.base import BaseParser

from app.access.gate import Gate, StoreState
from app.stores.failures import Failure
from app.stores.postgres import failures as postgres
from app.stores.redis import failures as redis

AWAY, CANNOT_WRITE, REFUSED = Failure.AWAY, Failure.CANNOT_WRITE, Failure.REFUSED


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("READONLY You can't write against a read only replica.", CANNOT_WRITE),
        ("READONLY You can't write against a read only replica. script: 4a, on @user_script:9.", CANNOT_WRITE),
        ("NOREPLICAS Not enough good replicas to write.", CANNOT_WRITE),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk.", CANNOT_WRITE),
        ("OOM command not allowed when used memory > 'maxmemory'.", CANNOT_WRITE),
        ("LOADING Redis is loading the dataset in memory", CANNOT_WRITE),
        ("BUSY Redis is busy running a script.", CANNOT_WRITE),
        ("NOAUTH Authentication required.", CANNOT_WRITE),
        ("NOPERM this user has no permissions to run the 'set' command", CANNOT_WRITE),
        (
            "ERR Error running script (call to f_4a): @user_script:8: @user_script: 8: -OOM command not allowed",
            CANNOT_WRITE,
        ),
        ("ERR max number of clients reached", AWAY),
        ("ERR Error running script (call to f_4a): @user_script:8: user_script:8: attempt to index a nil", REFUSED),
        ("ERR value is not an integer or out of range script: 4a, on @user_script:17.", REFUSED),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", REFUSED),
        ("NOSCRIPT No matching script. Please use EVAL.", REFUSED),
    ],
)
def test_what_redis_answers(answer: str, failure: Failure) -> None:
    error = BaseParser.parse_error(answer)
    assert redis.failure_of(error) is failure
    # As redis-py words it when the call was one of many.
    error.args = (f"Command # 1 (SET key BUSY) of pipeline caused error: {error.args[0]}",)
    assert redis.failure_of(error) is failure


@pytest.mark.parametrize("kind", [exceptions.ConnectionError, exceptions.TimeoutError, OSError])
def test_a_redis_that_does_not_answer_is_away(kind: type[Exception]) -> None:
    assert redis.failure_of(kind("gone")) is AWAY


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        ("25006", CANNOT_WRITE),
        ("53100", CANNOT_WRITE),
        ("53200", CANNOT_WRITE),
        ("53300", CANNOT_WRITE),
        ("58030", CANNOT_WRITE),
        ("57P01", AWAY),
        ("57P03", AWAY),
        ("08006", AWAY),
        ("28P01", AWAY),
        ("40P01", REFUSED),
        ("55P03", REFUSED),
        ("57014", REFUSED),
        ("54000", REFUSED),
        ("25P03", REFUSED),
        ("22003", REFUSED),
        ("42P01", REFUSED),
    ],
)
def test_what_postgres_answers(state: str, failure: Failure) -> None:
    cause = psycopg.errors.lookup(state)("refused")
    assert postgres.failure_of(cause) is failure
    assert postgres.failure_of(sa.exc.DBAPIError("SELECT 1", {}, cause)) is failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (psycopg.OperationalError("connection failed: Connection refused"), AWAY),
        (psycopg.OperationalError("connection failed: FATAL:  sorry, too many clients already"), CANNOT_WRITE),
        (postgres.NoAnswer("no answer in time"), AWAY),
        (psycopg.errors.ConnectionTimeout("timeout"), AWAY),
        (sa.exc.TimeoutError("QueuePool limit reached"), REFUSED),
        (sa.exc.InvalidRequestError("ours"), REFUSED),
    ],
)
def test_errors_that_carry_no_state(error: Exception, failure: Failure) -> None:
    assert postgres.failure_of(error) is failure


def test_a_gate_closes_for_what_is_about_its_store() -> None:
    gate = Gate("redis", redis.failure_of, is_watched=True)
    gate.close(BaseParser.parse_error("WRONGTYPE Operation against a key"))
    assert gate.is_open
    gate.close(exceptions.ConnectionError("gone"))
    assert gate.state is StoreState.DOWN
    gate.open()
    assert gate.is_open


def test_a_store_that_takes_only_the_probe_is_tried_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("app.access.gate.time.monotonic", lambda: now)
    gate = Gate("redis", redis.failure_of, is_watched=True)
    gate.close(BaseParser.parse_error("OOM command not allowed when used memory > 'maxmemory'."))
    gate.open()
    assert gate.state is StoreState.REFUSES_WRITES
    now += 1
    gate.open()
    assert gate.is_open
