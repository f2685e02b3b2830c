"""Corrections and chargebacks: what clients request, and whether the server's books agree.

The client that sent an end corrects it, one correction after the other. The first is a reversal as a service server
requests it, whose answer has the end's id; then follow amendments and reversals by that id, as operators request them.
A run's final cost is what its last correction says.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.faults.book import INTERNAL_ERROR, MICROS, Book, Chargeback, Correction, End, PricedEnd, Violation

if TYPE_CHECKING:
    from tests.faults.auditor import Entry, Snapshot, Waiting
    from tests.faults.load import Caller

REASON = "Chaos"


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of `corrections`."""

    reference: str
    kind: str
    end_id: str | None
    user_id: str
    amount_micros: int


def next_of(book: Book, end: End, rng: random.Random) -> Correction | None:
    """The next correction to request for an end. None while the last one is unanswered."""
    done = book.corrections_of(end.key)
    if end.answer is None or any(not correction.is_acknowledged for correction in done):
        return None
    reference = f"correction-{end.key}-{len(done)}"
    if not done:
        return Correction(reference, end.key, end.user_id, "reverse", 0)
    if isinstance(end, PricedEnd) or len(done) > 4:
        return None
    if done[-1].output_tokens and rng.random() < 0.3:
        return Correction(reference, end.key, end.user_id, "reversals", 0)
    return Correction(reference, end.key, end.user_id, "amendments", rng.randint(1, 500))


def send(caller: Caller, correction: Correction) -> None:
    book = caller.book
    body: dict[str, Any] = {"reference": correction.reference, "reason": REASON}
    if correction.kind == "reverse":
        path = "/api/token-process/end/reverse"
        body |= {"user_id": correction.user_id, "idempotency_key": correction.key}
    else:
        path = f"/api/admin/ends/{book.end_ids[correction.key]}/{correction.kind}"
        if correction.kind == "amendments":
            body |= {"input_token": 3, "output_token": correction.output_tokens}
    data = _sent(caller, path, body, f"correction {correction.reference} to {correction.output_tokens}")
    if data is None:
        return
    if correction.answer not in (None, data):
        text = f"correction {correction.reference} was answered {correction.answer}, then {data}"
        book.violate("replay", text, correction.key)
    correction.answer = data
    book.end_ids[correction.key] = data["corrects"]


def send_chargeback(caller: Caller, chargeback: Chargeback) -> None:
    path = f"/api/admin/wallets/{chargeback.user_id}/chargebacks"
    body = {"token": chargeback.tokens, "reference": chargeback.reference, "reason": REASON}
    data = _sent(caller, path, body, f"chargeback {chargeback.reference} {chargeback.tokens}")
    if data is None:
        return
    if chargeback.answer not in (None, data):
        text = f"chargeback {chargeback.reference} was answered {chargeback.answer}, then {data}"
        caller.book.violate("replay", text, chargeback.reference)
    chargeback.answer = data


def _sent(caller: Caller, path: str, body: dict[str, Any], what: str) -> dict[str, Any] | None:
    """The answer's data; None where no answer came or the request was refused."""
    status, answered, via = caller.call(path, body)
    caller.book.note(f"{what} via {via}: {status or 'no answer'}")
    if status in (200, 201):
        data: dict[str, Any] = answered["data"]
        return data
    if status == INTERNAL_ERROR:
        caller.book.violate("crash", f"{what} was answered 500 {answered.get('request_id')}")
    elif 0 < status < 500:
        caller.book.violate("refused", f"{what} was answered {status} {answered.get('message')}")
    return None


def check(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    stored: Mapping[str, list[Stored]] = defaultdict(list)
    for row in snapshot.corrections:
        stored[row.reference].append(row)
    for reference in stored.keys() - book.corrections.keys() - book.chargebacks.keys():
        yield Violation("ghost", f"correction {reference!r} was never asked for: {stored[reference]}", reference)
    for each in (*book.corrections.values(), *book.chargebacks.values()):
        found = stored.get(each.reference, [])
        if len(found) > 1:
            yield Violation("double", f"{each} was made {len(found)} times", each.reference)
        elif not found and each.is_acknowledged:
            yield Violation("lost", f"{each} was answered and is nowhere", each.reference)
    yield from _accounts(book, snapshot, stored)
    yield from _chargebacks(book, snapshot)


def target_micros(book: Book, end: End) -> int | None:
    """The cost of an end by its last answered correction. None: it has none."""
    done = [correction for correction in book.corrections_of(end.key) if correction.is_acknowledged]
    return None if not done else End(end.key, end.user_id, done[-1].output_tokens).cost_micros


def _accounts(book: Book, snapshot: Snapshot, stored: Mapping[str, Sequence[Stored]]) -> Iterator[Violation]:
    entries: Mapping[str, list[Entry]] = defaultdict(list)
    owed: Mapping[str, list[Waiting]] = defaultdict(list)
    known = set(book.end_ids.values())
    for entry in snapshot.ledger:
        if entry.kind == "usage" and entry.end_id is not None:
            entries[entry.end_id].append(entry)
        elif entry.corrects is not None:
            entries[entry.corrects].append(entry)
            if entry.corrects not in known:
                yield Violation("ghost", f"{entry} corrects an end that nobody corrected", entry.reference)
    for row in snapshot.inbox:
        if row.kind != "chargeback":
            owed[row.corrects or row.id].append(row)
    for key, end_id in book.end_ids.items():
        end = book.ends[key]
        taken = -sum(entry.amount_micros for entry in entries[end_id])
        waiting = sum(row.cost_micros for row in owed[end_id])
        target = target_micros(book, end)
        if target is not None and taken + waiting != target:
            text = f"end {key} should cost {target} by {book.corrections_of(key)}: {entries[end_id]} {owed[end_id]}"
            yield Violation("amount", text, key)
        if taken < 0:
            yield Violation("double", f"end {key} was given back {-taken} more than it took: {entries[end_id]}", key)


def _chargebacks(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    found: Mapping[str | None, list[tuple[str, int]]] = defaultdict(list)
    for entry in snapshot.ledger:
        if entry.kind == "chargeback":
            found[entry.reference].append((entry.user_id, -entry.amount_micros))
    for row in snapshot.inbox:
        if row.kind == "chargeback":
            found[row.reference].append((row.user_id, row.cost_micros))
    for reference in found.keys() - book.chargebacks.keys():
        yield Violation("ghost", f"chargeback {reference!r} was never asked for", reference)
    for chargeback in book.chargebacks.values():
        standing = found.get(chargeback.reference, [])
        if len(standing) > 1:
            yield Violation("double", f"{chargeback} stands {len(standing)} times: {standing}", chargeback.reference)
        elif not standing and chargeback.is_acknowledged:
            yield Violation("lost", f"{chargeback} was answered and is nowhere", chargeback.reference)
        elif any(each != (chargeback.user_id, chargeback.tokens * MICROS) for each in standing):
            yield Violation("amount", f"{chargeback} stands as {standing}", chargeback.reference)
