"""Bill AI features against a Tokentill server: start, run your feature, end.

Three ways, as in the guide: the clients' direct calls, the service functions `token_process_start` and
`token_process_end`, and the wrapper `with_token_process`. Configured by TOKEN_SERVER_URL, SERVER_API_KEY and,
for ends that survive crashes, TOKENTILL_OUTBOX.
"""

from tokentill.away import AwayReport
from tokentill.client import AsyncTokenProcess, TokenProcess
from tokentill.core import BatchItem, Flushed
from tokentill.current import current_run
from tokentill.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FeatureNotAvailableError,
    HoldNotFoundError,
    HoldRefusedError,
    InsufficientTokensError,
    OutboxError,
    OutboxFullError,
    ReversalRefusedError,
    TokenProcessError,
    UnavailableError,
    UsageError,
    UsageMissingError,
    UsageUnreadableError,
    ValidationError,
    WalletNotFoundError,
)
from tokentill.functions import (
    configure,
    token_process_cancel,
    token_process_cancel_async,
    token_process_end,
    token_process_end_async,
    token_process_hold_extend,
    token_process_hold_extend_async,
    token_process_reverse,
    token_process_reverse_async,
    token_process_start,
    token_process_start_async,
)
from tokentill.hooks import CallEvent, Hooks, OutboxEvent, RetryEvent
from tokentill.outbox import Outbox, OutboxStatus
from tokentill.run import AsyncRun, Run
from tokentill.usage import Usage, count_deltas, read_usage
from tokentill.version import __version__
from tokentill.wire import Amount, End, Estimate, Hold, Reversal, Start
from tokentill.wrapper import with_token_process

__all__ = [
    "Amount",
    "AsyncRun",
    "AsyncTokenProcess",
    "AuthenticationError",
    "AwayReport",
    "BatchItem",
    "CallEvent",
    "ConfigurationError",
    "ConflictError",
    "End",
    "Estimate",
    "FeatureNotAvailableError",
    "Flushed",
    "Hold",
    "HoldNotFoundError",
    "HoldRefusedError",
    "Hooks",
    "InsufficientTokensError",
    "Outbox",
    "OutboxError",
    "OutboxEvent",
    "OutboxFullError",
    "OutboxStatus",
    "RetryEvent",
    "Reversal",
    "ReversalRefusedError",
    "Run",
    "Start",
    "TokenProcess",
    "TokenProcessError",
    "UnavailableError",
    "Usage",
    "UsageError",
    "UsageMissingError",
    "UsageUnreadableError",
    "ValidationError",
    "WalletNotFoundError",
    "__version__",
    "configure",
    "count_deltas",
    "current_run",
    "read_usage",
    "token_process_cancel",
    "token_process_cancel_async",
    "token_process_end",
    "token_process_end_async",
    "token_process_hold_extend",
    "token_process_hold_extend_async",
    "token_process_reverse",
    "token_process_reverse_async",
    "token_process_start",
    "token_process_start_async",
    "with_token_process",
]
