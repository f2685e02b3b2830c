"""Bill AI features against a Tokentill server: start, run your feature, end.

Three ways, as in the guide: the clients' direct calls, the service functions `token_process_start` and
`token_process_end`, and the wrapper `with_token_process`. Configured by TOKEN_SERVER_URL, SERVER_API_KEY and,
for ends that survive crashes, TOKENTILL_OUTBOX.
"""

from tokentill.client import AsyncTokenProcess, TokenProcess
from tokentill.core import BatchItem, Flushed
from tokentill.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FeatureNotAvailableError,
    InsufficientTokensError,
    OutboxError,
    OutboxFullError,
    TokenProcessError,
    UnavailableError,
    UsageError,
    UsageMissingError,
    UsageUnreadableError,
    ValidationError,
    WalletNotFoundError,
)
from tokentill.functions import (
    token_process_end,
    token_process_end_async,
    token_process_start,
    token_process_start_async,
)
from tokentill.outbox import Outbox, OutboxStatus
from tokentill.run import AsyncRun, Run
from tokentill.usage import Usage, count_deltas, read_usage
from tokentill.version import __version__
from tokentill.wire import Amount, End, Start
from tokentill.wrapper import with_token_process

__all__ = [
    "Amount",
    "AsyncRun",
    "AsyncTokenProcess",
    "AuthenticationError",
    "BatchItem",
    "ConfigurationError",
    "ConflictError",
    "End",
    "FeatureNotAvailableError",
    "Flushed",
    "InsufficientTokensError",
    "Outbox",
    "OutboxError",
    "OutboxFullError",
    "OutboxStatus",
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
    "count_deltas",
    "read_usage",
    "token_process_end",
    "token_process_end_async",
    "token_process_start",
    "token_process_start_async",
    "with_token_process",
]
