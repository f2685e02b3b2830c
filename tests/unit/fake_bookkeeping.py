"""How books in memory are kept: what a transaction has written that raises is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from app.domain.audit import Change
from app.domain.keys import Caller

T = TypeVar("T")


@dataclass(eq=False)
class FakeBookKeeping:
    """Books that keep themselves. `steps` says in which order what happened, refused or not."""

    LASTING: ClassVar[frozenset[str]] = frozenset({"steps"})
    """What is no part of the books, and stays as it is whatever a transaction raises."""

    audited: list[tuple[str, Change]] = field(default_factory=list, kw_only=True)
    steps: list[str] = field(default_factory=list, kw_only=True)

    def read(self, work: Callable[[Any], T]) -> T:
        return work(self)

    def transaction(self, work: Callable[[Any], T]) -> T:
        before = self.written()
        try:
            done = work(self)
        except BaseException:
            vars(self).update(before)
            self.steps.append("rolled back")
            raise
        self.steps.append("committed")
        return done

    def written(self) -> dict[str, Any]:
        """All that stands in the books, by name."""
        return {name: copy(value) for name, value in vars(self).items() if name not in self.LASTING}

    def audit(self, caller: Caller, changes: Sequence[Change]) -> None:
        self.audited += [(caller.actor, change) for change in changes]

    def changes_by(self, actor: str) -> list[Change]:
        """All that was audited, which nobody else did."""
        assert {who for who, _ in self.audited} <= {actor}
        return [change for _, change in self.audited]
