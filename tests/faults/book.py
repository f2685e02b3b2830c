"""What the clients did and were told: the model against which the auditor checks the server. Shared by all threads."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

MICROS = 1_000_000
PROFIT_BASIS_POINTS = 1_000
OPERATIONS_KEPT = 40
# After Postgres is back, how long it may take until every process has noticed.
NOTICED_SECONDS = 3.0
ATTEMPTS_SHOWN = 12
# A store that is away is answered by 503; 500 is a case that nobody thought of.
INTERNAL_ERROR = 500


@dataclass(frozen=True, slots=True)
class Violation:
    """`kind` is lost, double, or the name of a broken invariant."""

    kind: str
    text: str
    key: str | None = None


@dataclass(slots=True)
class WalletModel:
    user_id: str
    opening_micros: int
    overdraft_micros: int = 0
    # Whether the load's clients use it.
    is_public: bool = True


@dataclass(slots=True)
class End:
    """One end, sent until it has a definite answer, always with the same key and body."""

    key: str
    user_id: str
    output_tokens: int
    process_id: str | None = None
    phase: str = ""
    answer: dict[str, Any] | None = None
    refused_with: int | None = None
    attempts: list[str] = field(default_factory=list)

    @property
    def cost_micros(self) -> int:
        """The guide's formula, computed independently here: output_token / 4 * (1 + profit percentage / 100)."""
        return self.output_tokens * (10_000 + PROFIT_BASIS_POINTS) * 25

    @property
    def is_open(self) -> bool:
        return self.answer is None and self.refused_with is None


@dataclass(slots=True)
class PricedEnd(End):
    """An end with a model that has prices. Its client learns the cost from the answer."""

    model: str = ""
    # Input, output, cached input, cache writes, reasoning, requests.
    usage: tuple[int, ...] = ()
    # Has more than one cost only if the end was accepted again, while its key couldn't be known, after a change of
    # prices.
    told_micros: set[int] = field(default_factory=set)

    @property
    def cost_micros(self) -> int:
        return 0 if self.answer is None else round(self.answer["cost"] * MICROS)


@dataclass(slots=True)
class TopUp:
    reference: str
    user_id: str
    tokens: int
    is_acknowledged: bool = False


@dataclass(slots=True)
class Correction:
    """`key` is the end's key; `output_tokens` is what the run should have used."""

    reference: str
    key: str
    user_id: str
    kind: str
    output_tokens: int
    answer: dict[str, Any] | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.answer is not None


@dataclass(slots=True)
class Chargeback:
    reference: str
    user_id: str
    tokens: int
    answer: dict[str, Any] | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.answer is not None


class Book:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._operations: deque[str] = deque(maxlen=OPERATIONS_KEPT)
        self.phase = "warm-up"
        self.wallets: dict[str, WalletModel] = {}
        self.ends: dict[str, End] = {}
        self.top_ups: dict[str, TopUp] = {}
        self.corrections: dict[str, Correction] = {}
        self._corrections_of: dict[str, list[Correction]] = {}
        self.chargebacks: dict[str, Chargeback] = {}
        # Ids of ends, known from the answers to their corrections: key -> id.
        self.end_ids: dict[str, str] = {}
        self.acknowledged: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.violations: list[Violation] = []
        # Costs of ends that were accepted under another end's key while that key couldn't be known ...
        self.reused: dict[str, int] = {}
        # ... and also of ends for which that is possible, because no answer came.
        self.maybe_reused: dict[str, int] = {}
        self.answered_anew = 0
        # Unreadable entries that were put into the spool.
        self.poisoned_entries: set[str] = set()
        self.before_violation: list[str] = []
        self._postgres_away = 0
        self._postgres_back_at = 0.0

    def postgres_leaves(self) -> None:
        with self._lock:
            self._postgres_away += 1

    def postgres_returns(self) -> None:
        with self._lock:
            self._postgres_away -= 1
            self._postgres_back_at = time.monotonic()

    @property
    def knows_keys(self) -> bool:
        """Whether the server can know every key that it was ever given.

        Without Postgres it knows only the keys that Redis remembers, and takes any other end as new. Such an end is
        kept and billed once, but a repeat may be told another balance than the first call, and another body under a
        used key is only found, and put aside, once Postgres is back.
        """
        return not self._postgres_away and time.monotonic() > self._postgres_back_at + NOTICED_SECONDS

    @property
    def now(self) -> float:
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        with self._lock:
            self._operations.append(f"{self.now:8.2f}s  {text}")

    @property
    def operations(self) -> list[str]:
        """The operations before the first violation; without a violation the latest ones."""
        with self._lock:
            return self.before_violation or list(self._operations)

    def add_wallet(self, wallet: WalletModel) -> None:
        self.wallets[wallet.user_id] = wallet

    def add_end(self, end: End) -> End:
        with self._lock:
            end.phase = self.phase
            self.ends[end.key] = end
        return end

    def add_top_up(self, top_up: TopUp) -> TopUp:
        with self._lock:
            self.top_ups[top_up.reference] = top_up
        return top_up

    def add_correction(self, correction: Correction) -> Correction:
        with self._lock:
            self.corrections[correction.reference] = correction
            self._corrections_of.setdefault(correction.key, []).append(correction)
        return correction

    def add_chargeback(self, chargeback: Chargeback) -> Chargeback:
        with self._lock:
            self.chargebacks[chargeback.reference] = chargeback
        return chargeback

    def corrections_of(self, key: str) -> list[Correction]:
        """In the order in which they were requested."""
        with self._lock:
            return list(self._corrections_of.get(key, ()))

    def violate(self, kind: str, text: str, key: str | None = None) -> None:
        with self._lock:
            self._operations.append(f"{self.now:8.2f}s  VIOLATION {kind}: {text}")
            if not self.violations:
                # The operations before the first violation tell most about it.
                self.before_violation = list(self._operations)
            self.violations.append(Violation(kind, text, key))

    def count(self, path: str, status: int) -> None:
        with self._lock:
            self.statuses[f"{path.rsplit('/', 1)[-1]} {status or 'no answer'}"] += 1

    def answered(self, end: End, status: int, body: dict[str, Any], via: str, *, knew_keys: bool = True) -> None:
        """Record how an end was answered; status 0 means no answer."""
        self.note(f"end {end.key} {end.user_id} {end.output_tokens} via {via}: {status or 'no answer'}")
        end.attempts.append(f"{self.now:.2f}s via {via}: {status or 'no answer'} {body.get('data') or ''}")
        if status == INTERNAL_ERROR:
            self.violate("crash", f"end {end.key} was answered 500 {body.get('request_id')}", end.key)
        if status == 0 or status >= 500:
            return
        if status == 409 and end.key in self.maybe_reused and not (knew_keys and self.knows_keys):
            # Another body was accepted under this key while the first couldn't be known, and only that one is
            # remembered now.
            self.answered_anew += 1
            return
        if status != 200:
            end.refused_with = status
            self.violate("refused", f"end {end.key} was answered {status} {body.get('message')}", end.key)
            return
        data = body["data"]
        if isinstance(end, PricedEnd):
            end.told_micros.add(round(data["cost"] * MICROS))
        elif round(data["cost"] * MICROS) != end.cost_micros:
            self.violate("price", f"end {end.key} costs {end.cost_micros} micros, not {data['cost']}", end.key)
        with self._lock:
            first = end.answer
            if first is None:
                end.answer = data
                self.acknowledged[end.phase] += 1
                return
            if first != data and not (knew_keys and self.knows_keys):
                self.answered_anew += 1
                return
        if first != data:
            self.violate("replay", f"end {end.key} was answered {first}, then {data}", end.key)

    def open_ends(self) -> list[End]:
        with self._lock:
            return [end for end in self.ends.values() if end.is_open]

    def open_top_ups(self) -> list[TopUp]:
        with self._lock:
            return [top_up for top_up in self.top_ups.values() if not top_up.is_acknowledged]

    def open_corrections(self) -> list[Correction]:
        with self._lock:
            return [correction for correction in self.corrections.values() if not correction.is_acknowledged]

    def open_chargebacks(self) -> list[Chargeback]:
        with self._lock:
            return [chargeback for chargeback in self.chargebacks.values() if not chargeback.is_acknowledged]

    def history(self, key: str) -> list[str]:
        end = self.ends.get(key)
        if end is None:
            return []
        if len(end.attempts) <= ATTEMPTS_SHOWN:
            return end.attempts
        half = ATTEMPTS_SHOWN // 2
        return [*end.attempts[:half], f"({len(end.attempts)} in all)", *end.attempts[-half:]]
