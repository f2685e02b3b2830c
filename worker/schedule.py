"""Which tasks beat sends, and how often. `beat.py` does the sending."""

from __future__ import annotations

from typing import Any

from app.config import Config
from app.stores.queue import MAINTENANCE_QUEUE, WEBHOOKS_QUEUE


def beat_schedule(config: Config) -> dict[str, Any]:
    def every(task: str, seconds: float, queue: str = MAINTENANCE_QUEUE) -> dict[str, Any]:
        # Flower shows this text in place of the arguments, of which there are none.
        shown = f"every {seconds:g} s"
        return {"task": task, "schedule": seconds, "options": {"queue": queue, "argsrepr": shown}}

    return {
        "sweep": every("tokentill.sweep", config.sweep_seconds / 2),
        "drain-spool": every("tokentill.drain_spool", config.sweep_seconds),
        "give-out-retries": every("tokentill.give_out_retries", config.sweep_seconds),
        "release-stranded-marks": every("tokentill.release_stranded_marks", 5.0),
        "refresh-stale-wallets": every("tokentill.refresh_stale_wallets", config.sweep_seconds),
        "run-requested-reconciliation": every("tokentill.run_requested_reconciliation", 2.0),
        "run-top-ups": every("tokentill.run_top_ups", 5.0),
        "run-repricings": every("tokentill.run_repricings", 5.0),
        "work-off-bulk-actions": every("tokentill.work_off_bulk_actions", 1.0),
        "forget-bulk-drafts": every("tokentill.forget_bulk_drafts", 3_600.0),
        "summarise-usage": every("tokentill.summarise_usage", 300.0),
        "take-sample": every("tokentill.take_sample", 5.0),
        "give-out-webhooks": every("tokentill.give_out_webhooks", config.sweep_seconds, WEBHOOKS_QUEUE),
        "look-after-top-up-requests": every("tokentill.look_after_top_up_requests", 20.0),
        "prune-webhook-events": every("tokentill.prune_webhook_events", 600.0),
        "reconcile": every("tokentill.reconcile", config.reconcile_seconds),
    }
