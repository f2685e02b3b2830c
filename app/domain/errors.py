"""All errors of use cases, each with a stable code. One table maps codes to HTTP statuses: `app/wire/statuses.py`.

DomainError
 ├─ WalletNotFound           the user has no wallet (start: none that is active with a package)
 ├─ HoldNotFound             the run has no open hold
 ├─ FeatureNotAvailable      the feature endpoint doesn't exist or isn't in the package
 ├─ ModelNotPriced           no price covers the model, and the feature endpoint refuses such models
 ├─ NotFound                 an admin call names something that doesn't exist
 ├─ AlreadyExists            an admin call creates something that exists
 ├─ ProcessOfAnotherUser     the process id was given to another user by start
 ├─ AlreadyEnded             a run to be cancelled has already been billed
 ├─ TooManyHolds             the wallet has the most open holds that are allowed
 ├─ IdempotencyConflict      the same key or reference came with another body
 ├─ ExceedsOriginal          a run to be reversed has nothing left to give back
 ├─ CorrectionOfCorrection   a correction is to be corrected, instead of its end
 ├─ AlreadyWrittenOff        a run to be corrected was written off
 ├─ NotReady                 a repricing to be applied is still selecting runs
 ├─ AlreadyApplied           a dry run to be discarded has been applied
 ├─ ScheduleEnded            a schedule to be resumed never falls due again
 ├─ Archived                 the requested entries have been moved into files
 ├─ FiguresDiffer            a bulk action is confirmed with figures other than its own
 ├─ BulkActionCancelled      a bulk action to be confirmed was cancelled
 ├─ ReversalNotAllowed       a service server reverses a run later than its feature endpoint allows
 ├─ Invalid                  the request contradicts the data (fields -> reasons)
 │   └─ PriceListRefused       a price list has rows that can't be right (row -> reasons)
 ├─ PriceImportOutdated      prices have changed since the import was compared with them
 ├─ PricesJump               an import changes prices by more than half, and nobody has allowed that
 ├─ ArchiveRefused           the ledger or an archive's file isn't as it should be; nothing was removed
 ├─ NotAcceptable            this installation can't write the requested format
 ├─ InvalidApiKey            the given key isn't a key in force of this kind
 ├─ TooManyWrongKeys         as InvalidApiKey, and the address has to wait before its next try
 ├─ KeyNotAllowed            the key is valid but lacks the scope that the call needs
 ├─ KeyNotChangeable         the key is no longer in force, was rotated, or comes from the environment
 ├─ BalanceOutOfRange        a posting would take the balance out of its bounds
 └─ Unavailable              no store could take the call now; nothing was recorded
          ├─ WalletBusy              another transaction keeps the wallet's row locked; other wallets aren't affected
          ├─ TooSlow                 a statement exceeded its time limit on a server that answers
          └─ UnknownPayloadVersion   a newer release hashed this key's first body; only that release can compare them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DomainError(Exception):
    code = "domain_error"
    message = "The request was refused"

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Mapping[str, list[str]] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.message = message or self.message
        self.errors = errors
        self.data = data


class WalletNotFound(DomainError):
    code = "wallet_not_found"
    message = "User wallet not found"


class HoldNotFound(DomainError):
    code = "hold_not_found"
    message = "No open hold of this process"


class FeatureNotAvailable(DomainError):
    code = "feature_not_available"
    message = "Feature endpoint is not available in your package"


class ModelNotPriced(DomainError):
    code = "model_not_priced"
    message = "No price covers this model"


class NotFound(DomainError):
    code = "not_found"
    message = "Not found"


class AlreadyExists(DomainError):
    code = "already_exists"
    message = "It exists already"


class ProcessOfAnotherUser(DomainError):
    code = "process_id_of_another_user"
    message = "This process id belongs to another user"


class AlreadyEnded(DomainError):
    code = "already_ended"
    message = "This process has ended already"


class TooManyHolds(DomainError):
    code = "too_many_holds"
    message = "Too many open holds"


class IdempotencyConflict(DomainError):
    code = "idempotency_conflict"
    message = "This key was used with another body"


class ExceedsOriginal(DomainError):
    code = "exceeds_original"
    message = "This run has nothing left to give back"


class CorrectionOfCorrection(DomainError):
    code = "correction_of_correction"
    message = "This is a correction: correct the end that it is of once more instead"


class AlreadyWrittenOff(DomainError):
    code = "written_off"
    message = "This end was written off: nothing was taken for it"


class NotReady(DomainError):
    code = "not_ready"
    message = "It is still being prepared, please look again"


class AlreadyApplied(DomainError):
    code = "already_applied"
    message = "It is applied already: nothing of it can be taken back here"


class ScheduleEnded(DomainError):
    code = "schedule_ended"
    message = "This schedule has ended: make a new one"


class Archived(DomainError):
    code = "archived"
    message = "These entries were moved into files"


class FiguresDiffer(DomainError):
    code = "figures_differ"
    message = "These aren't the figures of its selection: nothing was done"


class BulkActionCancelled(DomainError):
    code = "bulk_action_cancelled"
    message = "This bulk action was cancelled: draft another one"


class ReversalNotAllowed(DomainError):
    code = "reversal_not_allowed"
    message = "This run can't be reversed by its service any more"


class Invalid(DomainError):
    code = "validation_failed"
    message = "Validation failed"


class PriceListRefused(Invalid):
    code = "price_list_refused"
    message = "Price list refused"


class PriceImportOutdated(DomainError):
    code = "price_import_outdated"
    message = "Prices have changed since this import was made: import the list again"


class PricesJump(DomainError):
    code = "prices_jump"
    message = "Prices change by more than half: approve with allow_jumps if that is meant"


class ArchiveRefused(DomainError):
    code = "archive_refused"
    message = "Not archived"


class NotAcceptable(DomainError):
    code = "not_acceptable"
    message = "This form can't be answered"


class InvalidApiKey(DomainError):
    code = "invalid_api_key"
    message = "Invalid API key"


class TooManyWrongKeys(DomainError):
    code = "too_many_wrong_keys"
    message = "Too many wrong API keys"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class KeyNotAllowed(DomainError):
    code = "key_not_allowed"
    message = "This key is not allowed to do that"


class KeyNotChangeable(DomainError):
    code = "key_not_changeable"
    message = "This key can't be changed"


class BalanceOutOfRange(DomainError):
    code = "balance_out_of_range"
    message = "The balance would leave its bounds"


class Unavailable(DomainError):
    code = "temporarily_unavailable"
    message = "Temporarily unavailable, please retry"


class WalletBusy(Unavailable):
    code = "wallet_busy"
    message = "This wallet is being changed elsewhere, please retry"


class TooSlow(Unavailable):
    pass


class UnknownPayloadVersion(Unavailable):
    """Answered as if a store were away: during a rolling upgrade the retry may reach a process of the newer release."""
