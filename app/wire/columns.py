"""The columns of lists that are answered as tables: the fields of an item's answer, each with its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from app.domain.tables import Kind
from app.wire.answers import (
    FailedEndAnswer,
    FeatureAnswer,
    HoldAnswer,
    PackageAnswer,
    ProfitRuleAnswer,
    RepricingAnswer,
    WalletAnswer,
)
from app.wire.bulk_actions import BulkActionHeadAnswer, BulkEndAnswer
from app.wire.failed_ends import DebtSumsAnswer, FailedEndSumsAnswer
from app.wire.keys import AuditEntryAnswer, KeyAnswer
from app.wire.price_imports import PriceImportHeadAnswer
from app.wire.prices import PriceAnswer
from app.wire.samples import SampleAnswer
from app.wire.statements import DayBalanceAnswer
from app.wire.top_ups import ScheduleHeadAnswer, TopUpAnswer, TopUpWalletAnswer
from app.wire.types import Words
from app.wire.webhooks import (
    AutoTopUpRuleAnswer,
    LowBalanceRuleAnswer,
    RequestedTopUpAnswer,
    WebhookDeliveryAnswer,
    WebhookEndpointAnswer,
    WebhookEventAnswer,
)


def columns_of(answer: type) -> Mapping[str, Kind]:
    """The columns of an answer. A nested field becomes a column of JSON text."""
    return {name: _kind(hint) for name, hint in get_type_hints(answer, include_extras=True).items()}


def _kind(hint: Any) -> Kind:
    """The kind that an annotation gives, ignoring that a field may be null."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Kind):
            return part
        if isinstance(part, Words):
            return Kind.WORD
    if isinstance(hint, type) or not (parts := get_args(hint)) or getattr(hint, "__origin__", None) in (list, dict):
        return Kind.TEXT
    return _kind(parts[0])


FEATURES = columns_of(FeatureAnswer)
PACKAGES = columns_of(PackageAnswer)
PROFIT_RULES = columns_of(ProfitRuleAnswer)
PRICES = columns_of(PriceAnswer)
PRICE_IMPORTS = columns_of(PriceImportHeadAnswer)
REPRICINGS = columns_of(RepricingAnswer)
WALLETS = columns_of(WalletAnswer)
HOLDS = columns_of(HoldAnswer)
FAILED_ENDS = columns_of(FailedEndAnswer)
# These columns come after those of the groups.
FAILED_END_SUMS = columns_of(FailedEndSumsAnswer)
DEBT_SUMS = columns_of(DebtSumsAnswer)
BULK_ACTIONS = columns_of(BulkActionHeadAnswer)
BULK_ENDS = columns_of(BulkEndAnswer)
SAMPLES = columns_of(SampleAnswer)
DAY_BALANCES = columns_of(DayBalanceAnswer)
TOP_UPS = columns_of(TopUpAnswer)
TOP_UP_WALLETS = columns_of(TopUpWalletAnswer)
TOP_UP_SCHEDULES = columns_of(ScheduleHeadAnswer)
KEYS = columns_of(KeyAnswer)
AUDIT_LOG = columns_of(AuditEntryAnswer)
WEBHOOK_ENDPOINTS = columns_of(WebhookEndpointAnswer)
WEBHOOK_EVENTS = columns_of(WebhookEventAnswer)
WEBHOOK_DELIVERIES = columns_of(WebhookDeliveryAnswer)
LOW_BALANCE_RULES = columns_of(LowBalanceRuleAnswer)
AUTO_TOP_UP_RULES = columns_of(AutoTopUpRuleAnswer)
TOP_UP_REQUESTS = columns_of(RequestedTopUpAnswer)
