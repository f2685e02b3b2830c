"""What a task that settles says of itself to whoever watches the queue.

An end that couldn't be deducted is no success. Its task is shown as failed, with how many ends and how many tokens, and
nothing else follows from that: the message is acknowledged, as the ends are where they belong, in Postgres, and are
tried again from there.
"""

from __future__ import annotations

from app.billing.collect import Collected
from app.billing.settlements import SettleReport
from app.domain.amounts import token_number
from app.domain.wallets import WalletId
from app.stores.postgres.reconciliation import Reconciliation


class NotDeducted(Exception):
    """Raised by a task when its work is done and committed."""


class DoesNotAddUp(Exception):
    """The same, of a reconciliation."""


def of_settlement(report: SettleReport) -> str | None:
    """In words; None where there was nothing to settle. Raises NotDeducted."""
    settled = [f"{_ends(report.settled)} settled"] if report.settled else []
    if report.repeated:
        settled.append(f"{_ends(report.repeated)} settled before")
    failed = []
    if report.indebted:
        failed.append(f"{_ends(report.indebted)} not deducted: {token_number(report.indebted_micros)} tokens owed")
    if report.dead:
        failed.append(f"{_ends(report.dead)} put to the dead letters")
    if failed:
        raise NotDeducted("; ".join([*failed, *settled]))
    return "; ".join(settled) or None


def of_collection(wallet_id: WalletId, collected: Collected) -> str:
    """In words. Raises NotDeducted."""
    report = collected.report
    settled = f"{_ends(report.settled + report.repeated)} of {wallet_id} collected"
    if collected.unfinished is not None:
        return f"{settled}; more follow"
    if collected.debt_micros is None:
        raise NotDeducted(f"{wallet_id} is locked by somebody; its debts stay due")
    if collected.debt_micros or report.indebted or report.dead:
        owed = f"{wallet_id} owes {token_number(collected.debt_micros)} tokens"
        dead = [f"{_ends(report.dead)} put to the dead letters"] if report.dead else []
        raise NotDeducted("; ".join([owed, *dead, settled]))
    return settled


def of_reconciliation(done: Reconciliation) -> str:
    """In words. Raises DoesNotAddUp."""
    found = f"{done.checked} wallets checked, {done.drifted_count} drifted, {done.repaired} repaired"
    text = f"reconciliation {done.id}: {found}"
    if not done.adds_up:
        raise DoesNotAddUp(text)
    return text


def _ends(count: int) -> str:
    return f"{count} end" if count == 1 else f"{count} ends"
