"""The inbox: accepted ends that aren't in the ledger yet, and the keys of all ends with their first answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from app.domain.ends import AcceptedEnd, EndRequest, EndState
from app.domain.errors import WalletBusy
from app.domain.reasons import FailureReason
from app.domain.wallets import Deduction, WalletId
from app.stores.postgres import settlement
from app.stores.postgres.arrays import id_array, moment_array, number_array, text_array

# One statement for any number of rows. An end with keys is inserted only if its keys are new. Keys are inserted in one
# order, so that two batches with the same keys wait for each other instead of deadlocking.
_INSERT = sa.text("""
    WITH given AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:wallet_ids AS text[]), CAST(:user_ids AS text[]), CAST(:features AS text[]),
            CAST(:models AS text[]), CAST(:inputs AS bigint[]), CAST(:outputs AS bigint[]),
            CAST(:process_ids AS text[]), CAST(:keys AS text[]), CAST(:request_ids AS text[]), CAST(:rules AS bigint[]),
            CAST(:bases AS bigint[]), CAST(:profits AS bigint[]), CAST(:costs AS bigint[]), CAST(:states AS text[]),
            CAST(:hashes AS text[]), CAST(:spendables AS bigint[]), CAST(:deductions AS text[]),
            CAST(:actors AS text[]), CAST(:moments AS timestamptz[]), CAST(:prices AS bigint[]),
            CAST(:cached AS bigint[]), CAST(:written AS bigint[]), CAST(:reasonings AS bigint[]),
            CAST(:request_counts AS bigint[])
        ) AS given (
            id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens, process_id,
            idempotency_key, request_id, profit_rule_id, base_cost_micros, profit_micros, cost_micros, state,
            payload_hash, spendable_micros, deduction, actor, decided_at, price_id, cached_input_tokens,
            cache_write_tokens, reasoning_tokens, requests
        )
    ), remembered AS (
        INSERT INTO end_keys (
            end_id, user_id, idempotency_key, process_id, payload_hash, cost_micros, spendable_micros, deduction
        )
        SELECT id, user_id, idempotency_key, process_id, payload_hash, cost_micros, spendable_micros, deduction
        FROM given WHERE idempotency_key IS NOT NULL OR process_id IS NOT NULL
        ORDER BY idempotency_key, process_id
        ON CONFLICT DO NOTHING
        RETURNING end_id
    )
    INSERT INTO end_inbox (
        id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens, process_id, idempotency_key,
        request_id, profit_rule_id, base_cost_micros, profit_micros, cost_micros, state, last_error, actor, accepted_at,
        price_id, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests
    )
    SELECT id, wallet_id, user_id, feature_endpoint_id, model, input_tokens, output_tokens, process_id, idempotency_key,
        request_id, profit_rule_id, base_cost_micros, profit_micros, cost_micros, state,
        CASE WHEN state = 'retrying' THEN 'insufficient_tokens' END,
        -- The clock of the process that decided may be ahead of Postgres's.
        actor, least(now(), decided_at),
        price_id, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests
    FROM given
    WHERE id IN (SELECT end_id FROM remembered) OR (
        idempotency_key IS NULL AND process_id IS NULL
        -- An end that was kept elsewhere since before the last archive of the ledger has long been recorded.
        AND (decided_at IS NULL OR id > (SELECT archived_end_id FROM system_state))
    )
    ON CONFLICT (id) DO NOTHING
    RETURNING id
""")

_FIND_KEYS = sa.text("""
    SELECT end_id, idempotency_key, process_id, payload_hash, cost_micros, spendable_micros, deduction, user_id
    FROM end_keys
    WHERE idempotency_key = ANY(CAST(:keys AS text[])) OR process_id = ANY(CAST(:process_ids AS text[]))
""")


# Each subquery reads one partial index, which its ORDER BY selects, and only up to the bound. The oldest end comes
# first by id, because an id begins with its time.
COUNTED_MAX = 10_000
_SUMMARY = sa.text("""
    SELECT
        (SELECT count(*) FROM (
            SELECT 1 FROM end_inbox WHERE state = 'accepted' ORDER BY id LIMIT :counted_max
        ) AS ends) AS accepted,
        (SELECT count(*) FROM (
            SELECT 1 FROM end_inbox WHERE state = 'retrying' ORDER BY wallet_id, id LIMIT :counted_max
        ) AS ends) AS retrying,
        (SELECT count(*) FROM (
            SELECT 1 FROM end_inbox WHERE state = 'dead' ORDER BY id LIMIT :counted_max
        ) AS ends) AS dead,
        (
            SELECT CAST(extract(epoch FROM now() - accepted_at) AS bigint) FROM end_inbox
            WHERE state = 'accepted' ORDER BY id LIMIT 1
        ) AS oldest_seconds
""")
_ESTIMATES = sa.text("""
    SELECT
        (SELECT reltuples FROM pg_class WHERE oid = to_regclass('end_inbox_to_settle')) AS accepted,
        (SELECT reltuples FROM pg_class WHERE oid = to_regclass('end_inbox_retrying_of_wallet')) AS retrying,
        (SELECT reltuples FROM pg_class WHERE oid = to_regclass('end_inbox_dead')) AS dead
""")


@dataclass(frozen=True, slots=True)
class KnownEnd:
    """The answer that a key got when it was first used."""

    end_id: UUID
    user_id: str
    idempotency_key: str | None
    process_id: str | None
    payload_hash: str
    cost_micros: int
    spendable_micros: int
    deduction: Deduction


class KnownEnds:
    """Recorded ends, looked up by their keys."""

    def __init__(self, ends: Iterable[KnownEnd]) -> None:
        self._by_key: dict[str | None, KnownEnd] = {}
        self._by_process: dict[str | None, KnownEnd] = {}
        for end in ends:
            self._by_key[end.idempotency_key] = end
            self._by_process[end.process_id] = end

    def sharing_a_key_with(self, request: EndRequest) -> list[KnownEnd]:
        """At most two: the request's two keys may belong to different ends."""
        by_key = self._by_key.get(request.idempotency_key) if request.idempotency_key is not None else None
        by_process = self._by_process.get(request.process_id) if request.process_id is not None else None
        return [end for end in dict.fromkeys((by_key, by_process)) if end is not None]


def insert(connection: sa.Connection, ends: Sequence[AcceptedEnd], *, were_kept: bool = False) -> set[UUID]:
    """Record ends in one statement. Returns the ids that are new; an end that isn't among them was recorded before.

    Their time of acceptance is now; with `were_kept` (in the spool, say) it is the time that their ids carry.
    """
    requests = [end.request for end in ends]
    rows = connection.execute(
        _INSERT,
        {
            "ids": id_array(end.id for end in ends),
            "wallet_ids": text_array(end.wallet_id for end in ends),
            "user_ids": text_array(request.user_id for request in requests),
            "features": text_array(request.feature_endpoint_id for request in requests),
            "models": text_array(request.model for request in requests),
            "inputs": number_array(request.usage.input_tokens for request in requests),
            "outputs": number_array(request.usage.output_tokens for request in requests),
            "cached": number_array(request.usage.cached_input_tokens for request in requests),
            "written": number_array(request.usage.cache_write_tokens for request in requests),
            "reasonings": number_array(request.usage.reasoning_tokens for request in requests),
            "request_counts": number_array(request.usage.requests for request in requests),
            "process_ids": text_array(request.process_id for request in requests),
            "keys": text_array(request.idempotency_key for request in requests),
            "request_ids": text_array(request.request_id for request in requests),
            "prices": number_array(end.price.price_id for end in ends),
            "rules": number_array(end.price.profit_rule_id for end in ends),
            "bases": number_array(end.price.base_micros for end in ends),
            "profits": number_array(end.price.profit_micros for end in ends),
            "costs": number_array(end.price.cost_micros for end in ends),
            "states": text_array(end.state.value for end in ends),
            "hashes": text_array(request.payload_hash for request in requests),
            "spendables": number_array(end.spendable_micros for end in ends),
            "deductions": text_array(end.deduction.value for end in ends),
            "actors": text_array(request.actor for request in requests),
            "moments": moment_array(end.decided_at if were_kept else None for end in ends),
        },
    )
    return set(rows.scalars())


def find_keys(
    connection: sa.Connection, idempotency_keys: Collection[str], process_ids: Collection[str]
) -> list[KnownEnd]:
    """The recorded ends that have any of these keys."""
    rows = connection.execute(
        _FIND_KEYS, {"keys": text_array(idempotency_keys), "process_ids": text_array(process_ids)}
    )
    return [
        KnownEnd(
            row.end_id,
            row.user_id,
            row.idempotency_key,
            row.process_id,
            row.payload_hash,
            row.cost_micros,
            row.spendable_micros,
            Deduction(row.deduction),
        )
        for row in rows
    ]


def to_settle_before(
    connection: sa.Connection, seconds: float, after_id: UUID, limit: int, but_not: Collection[WalletId] = ()
) -> list[UUID]:
    """Ids after `after_id` of ends that have been unsettled for longer than `seconds`, oldest first."""
    rows = connection.execute(
        sa.text("""
            SELECT id FROM end_inbox
            WHERE (state = 'accepted' OR (state = 'retrying' AND NOT is_debt))
                AND accepted_at < now() - make_interval(secs => :seconds)
                AND id > :after_id AND wallet_id <> ALL(CAST(:but_not AS text[]))
            ORDER BY id LIMIT :limit
        """),
        {"seconds": seconds, "after_id": after_id, "limit": limit, "but_not": list(but_not)},
    )
    return list(rows.scalars())


def summary(connection: sa.Connection) -> tuple[dict[str, int], int]:
    """The number of ends in each state, and the age in seconds of the oldest accepted one.

    Counts are exact up to COUNTED_MAX; from there on they are Postgres's estimate from its last vacuum, where that is
    higher.
    """
    found = connection.execute(_SUMMARY, {"counted_max": COUNTED_MAX}).one()
    counts: dict[str, int] = {state.value: getattr(found, state) for state in EndState}
    if COUNTED_MAX in counts.values():
        estimates = connection.execute(_ESTIMATES).one()
        for state, ends in counts.items():
            if ends == COUNTED_MAX:
                counts[state] = max(ends, int(getattr(estimates, state) or 0))
    return counts, max(0, found.oldest_seconds or 0)


def bury_reused(connection: sa.Connection, ends: Sequence[AcceptedEnd]) -> None:
    """Record ends whose keys were used before with another body, as dead letters for an operator to look at.

    Raises WalletBusy where one of their wallets is locked. Then the transaction mustn't commit, or the ends would be
    billed.
    """
    requests = [replace(end.request, idempotency_key=None, process_id=None) for end in ends]
    unkeyed = [replace(end, request=request) for end, request in zip(ends, requests, strict=True)]
    insert(connection, unkeyed, were_kept=True)
    if not settlement.bury(connection, [end.id for end in ends], FailureReason.IDEMPOTENCY_KEY_REUSED):
        raise WalletBusy
