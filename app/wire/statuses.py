"""The one table in which an error of a use case becomes an HTTP status, for the API and the console."""

from __future__ import annotations

STATUS_OF_CODE = {
    "validation_failed": 400,
    "price_list_refused": 400,
    "feature_not_available": 403,
    "model_not_priced": 403,
    "reversal_not_allowed": 403,
    "wallet_not_found": 404,
    "hold_not_found": 404,
    "not_found": 404,
    "not_acceptable": 406,
    "archive_refused": 409,
    "already_exists": 409,
    "idempotency_conflict": 409,
    "already_ended": 409,
    "price_import_outdated": 409,
    "prices_jump": 409,
    "process_id_of_another_user": 409,
    "balance_out_of_range": 409,
    "exceeds_original": 409,
    "not_ready": 409,
    "already_applied": 409,
    "schedule_ended": 409,
    "archived": 409,
    "correction_of_correction": 409,
    "written_off": 409,
    "too_many_holds": 429,
    "temporarily_unavailable": 503,
    "wallet_busy": 503,
}
