"""One chaos run: starts the server, strikes it, lets it come to rest, audits it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from redis import RedisError

from stack.processes import until
from tests.faults import faults, trouble
from tests.faults.book import PROFIT_BASIS_POINTS, Book, End, TopUp, Violation
from tests.faults.load import FEATURE, Caller, Load, company
from tests.faults.probe import Probe
from tests.faults.report import Row
from tests.faults.rest import audit, come_to_rest
from tests.faults.scene import Scene
from tests.faults.stack_under_test import StackUnderTest

RECOVERY_SECONDS_MAX = 60.0
CANARY_SECONDS = 0.1
FAULTS_PER_REST = 13
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
    ended: int = 0
    stack: StackUnderTest | None = None

    def run(self) -> list[Violation]:
        """The whole run. Returns the violations."""
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
        """Insert the catalog and the wallets directly into the database."""
        with stack.connect() as connection, connection.transaction():
            connection.execute(
                """
                INSERT INTO feature_endpoints (id, name, min_micros, reversal_seconds)
                VALUES (%s, 'Chaos', 1000000, 86400)
                """,
                [FEATURE],
            )
            connection.execute("INSERT INTO packages (id, name) VALUES (%s, 'Chaos')", [PACKAGE])
            connection.execute("INSERT INTO package_features VALUES (%s, %s)", [PACKAGE, FEATURE])
            connection.execute(
                "INSERT INTO profit_rules (basis_points, effective_from) VALUES (%s, '2020-01-01Z')",
                [PROFIT_BASIS_POINTS],
            )
            # One price exists from the first end on; the clients add more.
            connection.execute(
                """
                INSERT INTO prices (model, effective_from, input_micros_per_million, output_micros_per_million, tiers)
                VALUES ('priced-*', '2020-01-01Z', 12345678901, 234567890123,
                    '[{"above_input_tokens": 200, "input_micros_per_million": 45678901234}]')
                """
            )
            for wallet in self.book.wallets.values():
                connection.execute(
                    """
                    INSERT INTO wallets (wallet_id, user_id, package_id, posted_micros, overdraft_limit_micros)
                    VALUES (%s, %s, %s, %s, %s)
                    """,
                    [wallet.user_id, wallet.user_id, PACKAGE, wallet.opening_micros, wallet.overdraft_micros],
                )
                connection.execute(
                    """
                    INSERT INTO token_transactions (
                        wallet_id, user_id, kind, amount_micros, balance_after_micros, reference
                    )
                    VALUES (%s, %s, 'top_up', %s, %s, 'opening')
                    """,
                    [wallet.user_id, wallet.user_id, wallet.opening_micros, wallet.opening_micros],
                )
            trouble.make_poison_possible(connection)
            if self.sabotage:
                connection.execute(self.sabotage)

    # Faults ----------------------------------------------------------------------------------------------

    def _strike(self, stack: StackUnderTest, load: Load) -> None:
        rng = random.Random(f"{self.seed}/faults")
        caller = Caller(self.book, stack.api_urls, random.Random(f"{self.seed}/canary"))
        probe = Probe(stack, self.book, self.seed)
        scene = Scene(stack, self.book, caller, rng, partial(self._quiet, stack, load, caller), self.is_short)
        time.sleep(1)
        deadline = time.monotonic() + self.seconds_max
        try:
            for i, name in enumerate(self.plan):
                if time.monotonic() > deadline:
                    self.say(f"time is up: {i} of {len(self.plan)} faults struck")
                    break
                self._strike_once(scene, probe, name, i)
                is_last_of_kind = i + 1 == len(self.plan) or self.plan[i + 1] != name
                # A short run rests less often. Ends are still attributed to the fault under which they were accepted.
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
            probe.close()

    def _strike_once(self, scene: Scene, probe: Probe, name: str, number: int) -> None:
        row = self.rows.setdefault(name, Row(name))
        self.book.phase = name
        scene.number = number
        ended = self.ended
        # Times the machine just before the fault, with whatever else it does.
        with probe.watching() as calm:
            time.sleep(scene.rng.uniform(0.1, 1.5))
        allowed = faults.BYSTANDER_SECONDS_MAX.get(name, math.inf)
        if not self._is_whole(scene.stack):
            allowed += faults.WORKER_START_SECONDS
        with nullcontext([]) if name in faults.UNPROBED else probe.watching() as bystanders:
            struck = time.monotonic()
            strike = faults.mix if name == faults.MIXED else faults.ALL[name]
            strike(scene)
            if name == faults.MIXED:
                time.sleep(scene.rng.uniform(0, 2))
            scene.end_faults()
            since = time.monotonic() if name in faults.LASTING else struck
            row.times += 1
            row.recoveries.append(self._recover(scene.stack, scene.caller, f"canary-{number}", since))
        row.bystanders += bystanders
        slowest, before = max(bystanders, default=0.0), min(max(calm), faults.CALM_SECONDS_MAX)
        if slowest > before + allowed:
            text = f"an end that {name} has nothing to do with was settled after {slowest:.1f} s, {before:.1f} before"
            self.book.violate("slow", text)
        for _ in range(scene.postgres_away):
            self.book.postgres_returns()
        scene.postgres_away = 0
        if name in faults.SICKNESSES and self.ended > ended:
            self.book.violate("ended", f"{self.ended - ended} processes were ended by {name}")
        # Don't always wait, so that the next fault often finds programs that are still starting.
        if scene.rng.random() < (0.2 if self.is_short else 0.5):
            until(lambda: self._is_whole(scene.stack), 20, 0.2)
        self._supervise(scene.stack)

    def _supervise(self, stack: StackUnderTest) -> None:
        """Restart programs that ended by themselves, as a supervisor does in production."""
        for ended in stack.revive():
            self.ended += 1
            self.say(f"{self.book.now:6.1f}s  {ended} had ended by itself and was started again")
            self.book.note(f"--- {ended} had ended by itself")

    @contextmanager
    def _quiet(self, stack: StackUnderTest, load: Load, caller: Caller) -> Iterator[None]:
        load.pause()
        try:
            come_to_rest(stack, self.book, caller, lambda: self._supervise(stack))
            yield
        finally:
            load.run()

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
                self._supervise(stack)
                time.sleep(CANARY_SECONDS)
        with stack.connect() as connection:
            query = "SELECT 1 FROM token_transactions WHERE reference = %s"
            while connection.execute(query, [key]).fetchone() is None:
                if time.monotonic() > deadline:
                    self.book.violate("stuck", f"end {key} was not settled in {RECOVERY_SECONDS_MAX:.0f} s", key)
                    break
                self._supervise(stack)
                time.sleep(0.02)
        return time.monotonic() - since

    # Rest ------------------------------------------------------------------------------------------------

    def _end_phase(self, stack: StackUnderTest, load: Load, name: str) -> None:
        """Stop the clients, get every open call answered, audit, and continue."""
        load.pause()
        started = time.monotonic()
        self.violations += audit(stack, self.book, self.seed, lambda: self._supervise(stack))
        acknowledged = sum(self.book.acknowledged.values())
        self.say(
            f"{self.book.now:6.1f}s  {name} x{self.rows[name].times}, audited in {time.monotonic() - started:.1f} s: "
            f"{acknowledged} ends acknowledged so far, {len(self.violations)} violations"
        )
        load.run()

    def _pay_debts(self, stack: StackUnderTest) -> None:
        """Pay every open debt, and check that it is collected."""
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
            self.violations += audit(stack, self.book, self.seed, lambda: self._supervise(stack))
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
