"""What a fault gets to work with."""

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
    # Within this context no client sends anything, and everything sent before has come to rest.
    quiet: Callable[[], AbstractContextManager[None]]
    is_short: bool = False
    kills: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)
    postgres_away: int = 0
    # The number of the fault, for unique names.
    number: int = 0

    def note(self, text: str) -> None:
        self.book.note(f"--- {text}")

    def killed(self, name: str) -> None:
        self.kills += 1
        self.note(f"kill -9 {name}")

    def seconds(self, full: float, short: float) -> float:
        return short if self.is_short else full

    def without_postgres(self) -> None:
        """From here until recovery the server may have to work without Postgres."""
        self.postgres_away += 1
        self.book.postgres_leaves()

    def later(self, undo: Callable[[], None]) -> None:
        """Register what ends the fault. In a mix it runs once all faults have struck."""
        self.undo.append(undo)

    def end_faults(self) -> None:
        while self.undo:
            self.undo.pop(0)()
