"""What a fault has in hand when it strikes."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from tests.faults.book import Book
from tests.faults.load import Caller
from tests.faults.stack_under_test import StackUnderTest


@dataclass
class Scene:
    stack: StackUnderTest
    book: Book
    caller: Caller
    rng: random.Random
    # Within it no client asks anything, and all that was asked before has come to rest.
    quiet: Callable[[], AbstractContextManager[None]]
    is_short: bool = False
    kills: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)
    postgres_away: int = 0
    # Number of the fault, for names that no other uses.
    number: int = 0

    def note(self, text: str) -> None:
        self.book.note(f"--- {text}")

    def killed(self, name: str) -> None:
        self.kills += 1
        self.note(f"kill -9 {name}")

    def seconds(self, full: float, short: float) -> float:
        return short if self.is_short else full

    def without_postgres(self) -> None:
        """From here until recovery the server may have to do without Postgres."""
        self.postgres_away += 1
        self.book.postgres_leaves()

    def later(self, undo: Callable[[], None]) -> None:
        """What ends the fault. In a mix of faults it is done when all of them have struck."""
        self.undo.append(undo)

    def end_faults(self) -> None:
        while self.undo:
            self.undo.pop(0)()
