"""Compares what the server has in Postgres and Redis with what the clients were told.

`check` is a pure function of the book and a snapshot, which is taken when nothing moves any more. It finds:

- `lost`: an end that was answered 200 and is neither in the ledger nor, with its amount, in the inbox
- `double`: an end or top-up that was billed or posted more than once, or is in the ledger and in the inbox
- `ghost`: a row that no client ever asked for
- `conservation`: a ledger that doesn't add up to its balance, entry by entry, or to what the clients know
- `overdraft`: a balance below the wallet's limit
- `cache`: a cached wallet that isn't posted - unsettled - held, or whose debt is wrong
- `stuck`: an end still waiting, or a debt that the wallet could pay
- `poison`: a spoilt end that isn't a dead letter, or an unreadable spool entry that wasn't put aside
- `price`: an amount that doesn't follow from the price and the profit rule that were pinned with it
- `aside`: an end that was put aside although nothing is wrong with it
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from redis import Redis

from tests.faults import corrections
from tests.faults.book import MICROS, Book, End, PricedEnd, Violation
from tests.faults.prices import BILL_COLUMNS, Bill, Tariff, bill_of, check_bill, read_tariff

POISON_PREFIX = "poison-"
# `last_error` of an end whose key had been used with another body while nobody could know that.
REUSED = "idempotency_key_reused"
SPOOL = "tokentill:spool"


@dataclass(frozen=True, slots=True)
class Entry:
    id: int
    user_id: str
    kind: str
    amount_micros: int
    balance_after_micros: int
    reference: str | None
    bill: Bill | None = None
    end_id: str | None = None
    corrects: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the inbox."""

    id: str
    user_id: str
    state: str
    cost_micros: int
    key: str | None
    error: str | None = None
    bill: Bill | None = None
    kind: str = "usage"
    corrects: str | None = None
    reference: str | None = None

    @property
    def is_asked(self) -> bool:
        """Whether it was sent as an end of its own, and not under another end's key."""
        return self.error != REUSED


@dataclass(frozen=True, slots=True)
class Stored:
    posted_micros: int
    overdraft_micros: int


@dataclass(frozen=True, slots=True)
class Cached:
    """A wallet's hash in Redis, if it is of the current epoch."""

    available_micros: int
    held_micros: int
    debt_micros: int
    # Ids and entries of the ends marked on the cached wallet.
    marks: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Snapshot:
    wallets: dict[str, Stored] = field(default_factory=dict)
    ledger: list[Entry] = field(default_factory=list)
    inbox: list[Waiting] = field(default_factory=list)
    cached: dict[str, Cached] = field(default_factory=dict)
    aside: set[str] = field(default_factory=set)
    spooled: int = 0
    tariff: Tariff = field(default_factory=Tariff)
    corrections: list[corrections.Stored] = field(default_factory=list)


def take(connection: psycopg.Connection[Any], redis: Redis) -> Snapshot:
    snapshot = Snapshot()
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for user_id, *amounts in connection.execute(
            "SELECT user_id, posted_micros, overdraft_limit_micros FROM wallets"
        ):
            snapshot.wallets[user_id] = Stored(*amounts)
        snapshot.tariff = read_tariff(connection)
        for row in connection.execute(f"""
            SELECT id, user_id, kind, amount_micros, balance_after_micros, reference, end_id::text, corrects::text,
                {", ".join(BILL_COLUMNS)}
            FROM token_transactions ORDER BY id
        """):
            # The amount of a correction is a difference, not a bill.
            bill = bill_of(row[8:]) if row[2] == "usage" else None
            snapshot.ledger.append(Entry(*row[:6], bill, *row[6:8]))
        for row in connection.execute(f"""
            SELECT id::text, user_id, state, cost_micros, idempotency_key, last_error, kind, corrects::text, reference,
                {", ".join(BILL_COLUMNS)}
            FROM end_inbox ORDER BY id
        """):
            bill = bill_of(row[9:]) if row[6] == "usage" else None
            snapshot.inbox.append(Waiting(*row[:6], bill, *row[6:9]))
        for row in connection.execute(
            "SELECT reference, kind, end_id::text, user_id, amount_micros FROM corrections ORDER BY id"
        ):
            snapshot.corrections.append(corrections.Stored(*row))
        for [entry] in connection.execute("SELECT convert_from(field, 'UTF8') FROM spool_aside"):
            snapshot.aside.add(entry)
        [epoch] = connection.execute("SELECT cache_epoch FROM system_state").fetchone() or [0]
    snapshot.spooled = redis.hlen(SPOOL)  # type: ignore[assignment]
    for user_id in snapshot.wallets:
        wallet: Any = redis.hgetall(f"tokentill:{{{user_id}}}:wallet")
        if wallet.get("epoch") and int(wallet["epoch"]) >= epoch:
            marks = tuple((name[2:], value) for name, value in wallet.items() if name.startswith("p:"))
            snapshot.cached[user_id] = Cached(int(wallet["available"]), int(wallet["held"]), int(wallet["debt"]), marks)
    return snapshot


def check(book: Book, snapshot: Snapshot) -> list[Violation]:
    return [
        *_ends(book, snapshot),
        *_top_ups(book, snapshot),
        *corrections.check(book, snapshot),
        *_conservation(book, snapshot),
        *_prices(book, snapshot),
        *_rest(snapshot),
        *_cache(snapshot),
        *_poison(snapshot),
        *_aside(book, snapshot),
        *_reused(book, snapshot),
    ]


def check_ledger(snapshot: Snapshot) -> list[Violation]:
    """What must hold at every moment, not only at rest."""
    return [*_chains(snapshot), *_overdrafts(snapshot)]


def _ends(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    billed: Mapping[str, list[Entry]] = defaultdict(list)
    waiting: Mapping[str, list[Waiting]] = defaultdict(list)
    for entry in snapshot.ledger:
        if entry.kind == "usage":
            billed[entry.reference or ""].append(entry)
    for row in snapshot.inbox:
        if row.error != REUSED and row.kind == "usage":
            waiting[row.key or ""].append(row)
    for key in (billed.keys() | waiting.keys()) - book.ends.keys():
        if not key.startswith(POISON_PREFIX):
            yield Violation("ghost", f"key {key!r} was never sent: {billed.get(key)} {waiting.get(key)}", key)
    for end in book.ends.values():
        entries, rows = billed.get(end.key, []), waiting.get(end.key, [])
        found = len(entries) + len(rows)
        if found > 1:
            yield Violation("double", f"{_named(end)} stands {found} times: {entries} {rows}", end.key)
        elif found == 0 and end.answer is not None:
            yield Violation("lost", f"{_named(end)} was answered {end.answer} and is nowhere", end.key)
        amounts = [(entry.user_id, -entry.amount_micros) for entry in entries]
        amounts += [(row.user_id, row.cost_micros) for row in rows]
        right = {(end.user_id, micros) for micros in _possible(book, end)}
        if isinstance(end, PricedEnd):
            # `_prices` checks each row against the price that it names.
            right = {(end.user_id, row.bill.cost_micros) for row in (*entries, *rows) if row.bill is not None}
        if not right.issuperset(amounts):
            yield Violation("amount", f"{_named(end)} stands as {entries} {rows}", end.key)


def _prices(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    for entry in snapshot.ledger:
        if entry.kind == "usage":
            yield from check_bill(book, entry.reference, entry.bill, snapshot.tariff)
    for row in snapshot.inbox:
        if row.kind == "usage" and not _is_poison(row.key):
            yield from check_bill(book, row.key, row.bill, snapshot.tariff)


def _top_ups(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    posted: Mapping[str, list[Entry]] = defaultdict(list)
    for entry in snapshot.ledger:
        if entry.kind == "top_up" and entry.reference != "opening":
            posted[entry.reference or ""].append(entry)
    for reference in posted.keys() - book.top_ups.keys():
        yield Violation("ghost", f"top-up {reference!r} was never sent", reference)
    for top_up in book.top_ups.values():
        entries = posted.get(top_up.reference, [])
        if len(entries) > 1:
            yield Violation("double", f"top-up {top_up.reference} was posted {len(entries)} times", top_up.reference)
        elif not entries and top_up.is_acknowledged:
            yield Violation("lost", f"top-up {top_up.reference} was answered and is nowhere", top_up.reference)
        for entry in entries:
            if (entry.user_id, entry.amount_micros) != (top_up.user_id, top_up.tokens * MICROS):
                yield Violation("amount", f"top-up {top_up.reference} was posted as {entry}", top_up.reference)


def _conservation(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    yield from _chains(snapshot)
    yield from _overdrafts(snapshot)
    # The same balance from the clients' side: opening + top-ups - ends, each counted once.
    known = {user_id: wallet.opening_micros for user_id, wallet in book.wallets.items()}
    for top_up in book.top_ups.values():
        if top_up.is_acknowledged:
            known[top_up.user_id] += top_up.tokens * MICROS
    for chargeback in book.chargebacks.values():
        if chargeback.is_acknowledged:
            known[chargeback.user_id] -= chargeback.tokens * MICROS
    standing = _standing(snapshot)
    for end in book.ends.values():
        corrected_micros = corrections.target_micros(book, end)
        if corrected_micros is not None:
            known[end.user_id] -= corrected_micros
        elif end.answer is not None:
            micros = standing.get(end.key)
            known[end.user_id] -= micros if micros in _possible(book, end) else end.cost_micros
    for user_id, micros in known.items():
        unsettled = sum(row.cost_micros for row in snapshot.inbox if row.is_asked and row.user_id == user_id)
        stored = snapshot.wallets[user_id].posted_micros - unsettled
        if stored != micros:
            yield Violation(
                "conservation", f"{user_id} has {stored} micros less its unsettled ends, its clients count {micros}"
            )


def _chains(snapshot: Snapshot) -> Iterator[Violation]:
    balances = dict.fromkeys(snapshot.wallets, 0)
    for entry in snapshot.ledger:
        balances[entry.user_id] += entry.amount_micros
        if entry.balance_after_micros != balances[entry.user_id]:
            yield Violation("conservation", f"{entry} should leave {balances[entry.user_id]}", entry.reference)
            balances[entry.user_id] = entry.balance_after_micros
    for user_id, wallet in snapshot.wallets.items():
        if wallet.posted_micros != balances[user_id]:
            yield Violation(
                "conservation", f"{user_id} has {wallet.posted_micros} micros, its ledger {balances[user_id]}"
            )


def _overdrafts(snapshot: Snapshot) -> Iterator[Violation]:
    for user_id, wallet in snapshot.wallets.items():
        if wallet.posted_micros < -wallet.overdraft_micros:
            yield Violation("overdraft", f"{user_id} has {wallet.posted_micros} micros")


def _rest(snapshot: Snapshot) -> Iterator[Violation]:
    for row in snapshot.inbox:
        if row.state == "accepted":
            yield Violation("stuck", f"{row} was never settled", row.key)
    for row in payable(snapshot):
        yield Violation("stuck", f"{row} could be paid and isn't", row.key)


def payable(snapshot: Snapshot) -> list[Waiting]:
    """Each wallet's oldest debt, where the wallet covers it."""
    oldest: dict[str, Waiting] = {}
    for row in snapshot.inbox:
        if row.state != "accepted" and row.is_asked and not _is_poison(row.key):
            oldest.setdefault(row.user_id, row)
    return [
        row
        for row in oldest.values()
        if row.user_id in snapshot.wallets
        and row.cost_micros
        <= snapshot.wallets[row.user_id].posted_micros + snapshot.wallets[row.user_id].overdraft_micros
    ]


def _cache(snapshot: Snapshot) -> Iterator[Violation]:
    for user_id, cached in snapshot.cached.items():
        rows = [row for row in snapshot.inbox if row.user_id == user_id]
        covered = snapshot.wallets[user_id].posted_micros - sum(row.cost_micros for row in rows)
        debt = sum(row.cost_micros for row in rows if row.state != "accepted")
        if cached.available_micros != covered:
            text = f"{user_id} has {cached.available_micros} in Redis, {covered} in Postgres; marked {cached.marks}"
            yield Violation("cache", text)
        if cached.debt_micros != debt:
            yield Violation("cache", f"{user_id} has a debt of {cached.debt_micros} in Redis, {debt} in Postgres")
        if cached.held_micros != 0:
            yield Violation("cache", f"{user_id} has {cached.held_micros} held when every hold has expired")


def _poison(snapshot: Snapshot) -> Iterator[Violation]:
    for row in snapshot.inbox:
        if _is_poison(row.key) and row.state != "dead":
            yield Violation("poison", f"{row} isn't dead", row.key)
    for entry in snapshot.ledger:
        if _is_poison(entry.reference):
            yield Violation("poison", f"{entry} was billed", entry.reference)


def _aside(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    for entry in book.poisoned_entries - snapshot.aside:
        yield Violation("poison", f"entry {entry} of the spool isn't kept aside", entry)
    for entry in snapshot.aside - book.poisoned_entries:
        yield Violation("aside", f"entry {entry} of the spool was put aside", entry)
    if snapshot.spooled:
        yield Violation("stuck", f"{snapshot.spooled} entries stand in the spool")


def _reused(book: Book, snapshot: Snapshot) -> Iterator[Violation]:
    """Of two bodies accepted under one key one is billed and the other put aside with its amount.

    Whichever reached Postgres first is billed: while it was away, Redis couldn't know of the other.
    """
    aside = [row for row in snapshot.inbox if row.error == REUSED]
    amounts_aside = {(row.user_id, row.cost_micros) for row in aside}
    standing = _standing(snapshot)
    for key, micros in book.maybe_reused.items():
        end = book.ends[key]
        accepted = [end.cost_micros, *([micros] if key in book.reused else [])]
        for cost_micros in accepted:
            if standing.get(key) != cost_micros and (end.user_id, cost_micros) not in amounts_aside:
                yield Violation("lost", f"{cost_micros} under {key} was accepted and is nowhere", key)
    possible = {
        (book.ends[key].user_id, micros) for key in book.maybe_reused for micros in _possible(book, book.ends[key])
    }
    for row in aside:
        if row.state != "dead" or (row.user_id, row.cost_micros) not in possible:
            yield Violation("ghost", f"{row} was put aside and nobody sent it")


def _possible(book: Book, end: End) -> set[int]:
    """The amounts that may be billed under an end's key."""
    if isinstance(end, PricedEnd):
        return end.told_micros
    return {end.cost_micros, book.maybe_reused.get(end.key, end.cost_micros)}


def _standing(snapshot: Snapshot) -> dict[str | None, int]:
    """Key -> the amount that is billed or waits under it."""
    return {
        **{row.key: row.cost_micros for row in snapshot.inbox if row.kind == "usage"},
        **{entry.reference: -entry.amount_micros for entry in snapshot.ledger if entry.kind == "usage"},
    }


def _is_poison(key: str | None) -> bool:
    return key is not None and key.startswith(POISON_PREFIX)


def _named(end: End) -> str:
    return f"end {end.key} of {end.user_id} ({end.cost_micros} micros, accepted under {end.phase})"
