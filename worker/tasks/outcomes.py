"""How a settling task shows its result to whoever watches the queue.

A task is shown as failed when an end could not be settled, with the number of ends and tokens. Nothing else follows
from that: the message is acknowledged, because the ends are in Postgres and are retried from there.
"""

from __future__ import annotations

from app.billing.collect import Collected
from app.billing.settlements import SettleReport
from app.domain.amounts import token_number
from app.domain.wallets import WalletId
from app.stores.postgres.reconciliation import Reconciliation


class NotDeducted(Exception):
    """Raised by a task whose work is done and committed, to be shown as failed."""


class DoesNotAddUp(Exception):
    """The same, for a reconciliation."""


def of_settlement(report: SettleReport) -> str | None:
    """The result in words; None where there was nothing to settle. Raises NotDeducted."""
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
    """The result in words. Raises NotDeducted."""
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
    """The result in words. Raises DoesNotAddUp."""
    found = f"{done.checked} wallets checked, {done.drifted_count} drifted, {done.repaired} repaired"
    text = f"reconciliation {done.id}: {found}"
    if not done.adds_up:
        raise DoesNotAddUp(text)
    return text


def _ends(count: int) -> str:
    return f"{count} end" if count == 1 else f"{count} ends"
