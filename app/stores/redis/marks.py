"""How an unsettled end is written on its cached wallet: `p`, or `d` for debt, followed by its cost."""

from __future__ import annotations

from app.domain.wallets import UntoldEnd


def entry_of(end: UntoldEnd) -> str:
    return f"{'d' if end.is_failed else 'p'}{end.cost_micros}"


def from_entry(entry: str) -> UntoldEnd:
    """Raises ValueError or KeyError."""
    return UntoldEnd(int(entry[1:]), is_failed={"p": False, "d": True}[entry[:1]])
