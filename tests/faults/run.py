"""One chaos run: starts the server, strikes it, lets it come to rest, audits it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from redis import RedisError

from stack.processes import until
from tests.faults import auditor, faults, trouble
from tests.faults.book import MICROS, PROFIT_BASIS_POINTS, Book, End, TopUp, Violation
from tests.faults.load import FEATURE, HOLD_SECONDS_MAX, Caller, Load, company
from tests.faults.report import Row
from tests.faults.stack_under_test import StackUnderTest

RECOVERY_SECONDS_MAX = 60.0
REST_SECONDS_MAX = 90.0
CANARY_SECONDS = 0.1
FAULTS_PER_REST = 4
PACKAGE = "package-chaos"


@dataclass
class ChaosRun:
    folder: Path
    seed: int
    plan: Sequence[str]
    clients: int
    seconds_max: float
    is_short: bool
    say: Callable[[str], None]
    sabotage: str = ""
    apis: int = 2
    workers: int = 2
    book: Book = field(default_factory=Book)
    rows: dict[str, Row] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    kills: int = 0
    cut: dict[str, int] = field(default_factory=dict)
    stack: StackUnderTest | None = None

    def run(self) -> list[Violation]:
        """Everything, start to stop; what was found wrong."""
        self.stack = stack = StackUnderTest(self.folder, seed=self.seed, apis=self.apis, workers=self.workers)
        load: Load | None = None
        try:
            stack.start()
            company(self.book)
            self._furnish(stack)
            stack.start_programs()
            load = Load(self.book, stack.api_urls, seed=self.seed, clients=self.clients)
            self.say(f"{self.book.now:6.1f}s  up: {len(stack.apis)} APIs, {len(stack.workers)} workers, beat")
            load.run()
            self._strike(stack, load)
            load.stop()
            self._pay_debts(stack)
        finally:
            if load is not None:
                load.stop()
            stack.stop()
        self._count()
        return self.violations

    def _furnish(self, stack: StackUnderTest) -> None:
        """Catalog and wallets, straight into the database."""
        with stack.connect() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO feature_endpoints (id, name, min_micros) VALUES (%s, 'Chaos', 1000000)", [FEATURE]
            )
            connection.execute("INSERT INTO packages (id, name) VALUES (%s, 'Chaos')", [PACKAGE])
            connection.execute("INSERT INTO package_features VALUES (%s, %s)", [PACKAGE, FEATURE])
            connection.execute(
                "INSERT INTO profit_rules (basis_points, effective_from) VALUES (%s, '2020-01-01Z')",
                [PROFIT_BASIS_POINTS],
            )
            for wallet in self.book.wallets.values():
                connection.execute(
                    """
                    INSERT INTO wallets (user_id, package_id, posted_micros, overdraft_limit_micros)
                    VALUES (%s, %s, %s, %s)
                    """,
                    [wallet.user_id, PACKAGE, wallet.opening_micros, wallet.overdraft_micros],
                )
                connection.execute(
                    """
                    INSERT INTO token_transactions (user_id, kind, amount_micros, balance_after_micros, reference)
                    VALUES (%s, 'top_up', %s, %s, 'opening')
                    """,
                    [wallet.user_id, wallet.opening_micros, wallet.opening_micros],
                )
            trouble.make_poison_possible(connection)
            if self.sabotage:
                connection.execute(self.sabotage)

    # Faults ----------------------------------------------------------------------------------------------

    def _strike(self, stack: StackUnderTest, load: Load) -> None:
        rng = random.Random(f"{self.seed}/faults")
        caller = Caller(self.book, stack.api_urls, random.Random(f"{self.seed}/canary"))
        scene = faults.Scene(stack, self.book, caller, rng, self.is_short)
        time.sleep(1)
        deadline = time.monotonic() + self.seconds_max
        try:
            for i, name in enumerate(self.plan):
                if time.monotonic() > deadline:
                    self.say(f"time is up: {i} of {len(self.plan)} faults struck")
                    break
                self._strike_once(scene, caller, name, i)
                is_last_of_kind = i + 1 == len(self.plan) or self.plan[i + 1] != name
                # A short run rests less often; an end is known by the fault it was accepted under all the same.
                is_due = is_last_of_kind if not self.is_short else (i + 1) % FAULTS_PER_REST == 0
                if is_due or i + 1 == len(self.plan) or self.book.violations:
                    self._end_phase(stack, load, name)
                if self.violations:
                    break
            else:
                self._say_rest(stack)
        finally:
            self.kills = scene.kills
            self.cut = dict(stack.proxy.cuts)
            caller.close()

    def _strike_once(self, scene: faults.Scene, caller: Caller, name: str, number: int) -> None:
        row = self.rows.setdefault(name, Row(name))
        self.book.phase = name
        time.sleep(scene.rng.uniform(0.1, 1.5))
        struck = time.monotonic()
        strike = faults.mix if name == faults.MIXED else faults.ALL[name]
        strike(scene)
        # A fault that lasts is recovered from once it is over; a kill from the moment it struck.
        lasting = name in {"refused", "paused-worker", "clock", "repeats", "cut-commits"}
        if name == faults.MIXED:
            time.sleep(scene.rng.uniform(0, 2))
        scene.end_faults()
        since = time.monotonic() if lasting else struck
        row.times += 1
        row.recoveries.append(self._recover(scene.stack, caller, f"canary-{number}", since))
        for _ in range(scene.postgres_away):
            self.book.postgres_returns()
        scene.postgres_away = 0
        # Often the next fault finds programs that are still starting.
        if scene.rng.random() < (0.2 if self.is_short else 0.5):
            until(lambda: self._is_whole(scene.stack), 20, 0.2)
        for ended in scene.stack.revive():
            self.say(f"{self.book.now:6.1f}s  {ended} had ended by itself and was started again")
            self.book.note(f"--- {ended} had ended by itself")

    def _is_whole(self, stack: StackUnderTest) -> bool:
        with suppress(RedisError):
            return stack.workers_listening() >= len(stack.workers)
        return False

    def _recover(self, stack: StackUnderTest, caller: Caller, key: str, since: float) -> float:
        """Seconds until a fresh end is answered and settled."""
        end = self.book.add_end(End(key, "canary", 40))
        deadline = time.monotonic() + RECOVERY_SECONDS_MAX
        while end.is_open and time.monotonic() < deadline:
            caller.send_end(end)
            if end.is_open:
                time.sleep(CANARY_SECONDS)
        with stack.connect() as connection:
            query = "SELECT 1 FROM token_transactions WHERE reference = %s"
            while connection.execute(query, [key]).fetchone() is None:
                if time.monotonic() > deadline:
                    self.book.violate("stuck", f"end {key} was not settled in {RECOVERY_SECONDS_MAX:.0f} s", key)
                    break
                time.sleep(0.02)
        return time.monotonic() - since

    # Rest ------------------------------------------------------------------------------------------------

    def _end_phase(self, stack: StackUnderTest, load: Load, name: str) -> None:
        """Stop the clients, have every open question answered, audit, and go on."""
        load.pause()
        started = time.monotonic()
        self._audit(stack)
        acknowledged = sum(self.book.acknowledged.values())
        self.say(
            f"{self.book.now:6.1f}s  {name} x{self.rows[name].times}, audited in {time.monotonic() - started:.1f} s: "
            f"{acknowledged} ends acknowledged so far, {len(self.violations)} violations"
        )
        load.run()

    def _audit(self, stack: StackUnderTest) -> None:
        caller = Caller(self.book, stack.api_urls, random.Random(f"{self.seed}/audit"))
        try:
            self._settle_questions(caller)
            with stack.connect() as connection, stack.redis_client() as redis:
                until(lambda: self._is_at_rest(connection), REST_SECONDS_MAX, 0.1)
                time.sleep(HOLD_SECONDS_MAX)
                self._look(connection, caller, len(stack.apis))
                found = auditor.check(self.book, auditor.take(connection, redis))
                if found:
                    # A worker may have been between its commit and its note to Redis.
                    time.sleep(2)
                    found = auditor.check(self.book, auditor.take(connection, redis))
            self.violations += [*self.book.violations, *found]
            self.book.violations.clear()
        finally:
            caller.close()

    def _settle_questions(self, caller: Caller) -> None:
        """Ask again, with the same keys, whatever was never answered."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        while (ends := self.book.open_ends()) or self.book.open_top_ups():
            for end in ends:
                caller.send_end(end)
            for top_up in self.book.open_top_ups():
                caller.send_top_up(top_up)
            if time.monotonic() > deadline:
                [end, *others] = self.book.open_ends()
                text = f"end {end.key} and {len(others)} others get no definite answer"
                self.book.violate("unanswered", text, end.key)
                return
            time.sleep(0.2)

    def _is_at_rest(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute("""
            SELECT NOT EXISTS (SELECT 1 FROM end_inbox WHERE state = 'accepted')
                AND NOT EXISTS (SELECT 1 FROM stale_wallets WHERE changed_at < now() - interval '0.2 s')
                AND NOT EXISTS (
                    SELECT 1 FROM wallets AS w JOIN LATERAL (
                        SELECT cost_micros FROM end_inbox AS i
                        WHERE i.user_id = w.user_id AND last_error = 'insufficient_tokens' ORDER BY id LIMIT 1
                    ) AS oldest ON true
                    WHERE oldest.cost_micros <= w.posted_micros + w.overdraft_limit_micros
                )
        """).fetchone()
        return bool(row and row[0])

    def _look(self, connection: psycopg.Connection[Any], caller: Caller, apis: int) -> None:
        """Every API must tell what Postgres knows: the cache is right before it is used."""
        for api in range(apis):
            for user_id in self.book.wallets:
                for _ in range(3):
                    status, data = caller.look(user_id, api)
                    spendable = _spendable_micros(connection, user_id)
                    if status == 200 and round(data["token"] * MICROS) == spendable:
                        break
                    time.sleep(0.5)
                else:
                    self.book.violate(
                        "cache", f"api-{api} says {status} {data} of {user_id}, Postgres {spendable} micros"
                    )

    def _pay_debts(self, stack: StackUnderTest) -> None:
        """Pay every debt that stands, and see it collected."""
        if self.violations:
            return
        caller = Caller(self.book, stack.api_urls, random.Random(f"{self.seed}/debts"))
        with stack.connect() as connection:
            rows = connection.execute("""
                SELECT user_id, ceil(sum(cost_micros) / 1e6)::bigint FROM end_inbox
                WHERE last_error = 'insufficient_tokens' GROUP BY user_id ORDER BY user_id
            """).fetchall()
            for user_id, tokens in rows:
                caller.send_top_up(self.book.add_top_up(TopUp(f"paid-{user_id}", user_id, tokens)))
            caller.close()
            self._audit(stack)
            left = connection.execute(
                "SELECT count(*) FROM end_inbox WHERE last_error = 'insufficient_tokens'"
            ).fetchone()
        if left != (0,):
            self.violations.append(Violation("stuck", f"{left} debts stand though they were paid"))
        self.say(f"{self.book.now:6.1f}s  the debts of {len(rows)} wallets paid and collected")

    def _say_rest(self, stack: StackUnderTest) -> None:
        with stack.connect() as connection:
            counts = connection.execute("""
                SELECT (SELECT count(*) FROM token_transactions), (SELECT count(*) FROM end_inbox)
            """).fetchone()
        assert counts is not None
        self.say(f"{self.book.now:6.1f}s  {counts[0]} ledger entries, {counts[1]} ends in the inbox")

    def _count(self) -> None:
        for row in self.rows.values():
            row.acknowledged = self.book.acknowledged[row.fault]
        for violation in self.violations:
            end = self.book.ends.get(violation.key or "")
            row_of = self.rows.get(end.phase) if end is not None else None
            if row_of is not None and violation.kind in ("lost", "double"):
                row_of.lost += violation.kind == "lost"
                row_of.double += violation.kind == "double"


def _spendable_micros(connection: psycopg.Connection[Any], user_id: str) -> int:
    query = """
        SELECT CAST(posted_micros - coalesce((
            SELECT sum(cost_micros) FROM end_inbox AS i WHERE i.user_id = w.user_id
        ), 0) AS bigint) FROM wallets AS w WHERE user_id = %s
    """
    row = connection.execute(query, [user_id]).fetchone()
    assert row is not None
    micros: int = row[0]
    return micros
