"""A bystander: keeps sending fresh ends of wallets that nothing else uses, and times their settlement."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg

from tests.faults.book import Book, End
from tests.faults.load import PROBE_WALLETS, Caller
from tests.faults.stack_under_test import StackUnderTest

PAUSE_SECONDS = 0.15
# After this long an end counts as not settled; the audit still looks for it.
GIVEN_UP_SECONDS = 30.0
LOOK_SECONDS = 0.02


class Probe:
    def __init__(self, stack: StackUnderTest, book: Book, seed: int) -> None:
        self._stack = stack
        self._book = book
        self._caller = Caller(book, stack.api_urls, random.Random(f"{seed}/probe"))
        self._numbers = count()

    def close(self) -> None:
        self._caller.close()

    @contextmanager
    def watching(self) -> Iterator[list[float]]:
        """Seconds from sending an end to its ledger entry, for each end that was begun within."""
        figures: list[float] = []
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(figures, over), name="probe", daemon=True)
        thread.start()
        try:
            yield figures
        finally:
            over.set()
            thread.join(2 * GIVEN_UP_SECONDS)

    def _watch(self, figures: list[float], over: threading.Event) -> None:
        try:
            while not over.is_set():
                number = next(self._numbers)
                figures.append(
                    self._settle(self._book.add_end(End(f"probe-{number}", f"probe-{number % PROBE_WALLETS}", 4)))
                )
                over.wait(PAUSE_SECONDS)
        except Exception as error:
            self._book.violate("harness", f"the probe failed: {error!r}")
            raise

    def _settle(self, end: End) -> float:
        began = time.monotonic()
        given_up_at = began + GIVEN_UP_SECONDS
        while end.is_open and time.monotonic() < given_up_at:
            self._caller.send_end(end)
            if end.is_open:
                time.sleep(LOOK_SECONDS)
        while not self._is_settled(end, given_up_at) and time.monotonic() < given_up_at:
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def _is_settled(self, end: End, given_up_at: float) -> bool:
        """Asks Postgres directly, on a new connection each time: the fault may have ended the last one."""
        try:
            with self._stack.connect() as connection:
                query = "SELECT 1 FROM token_transactions WHERE kind = 'usage' AND reference = %s"
                while connection.execute(query, [end.key]).fetchone() is None:
                    if time.monotonic() > given_up_at:
                        return False
                    time.sleep(LOOK_SECONDS)
                return True
        except psycopg.OperationalError:
            return False
