"""The table of the scope that each route requires. A route that isn't in it fails `tests/unit/test_scopes.py`.

A route is named by its method and its Flask rule. HEAD needs the scope of GET; OPTIONS needs any key of the right kind.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Request

from app.domain.errors import KeyNotAllowed
from app.domain.keys import KeyScope

SCOPES: Mapping[str, KeyScope] = {
    # Service servers
    "POST /api/token-process/start": KeyScope.BILLING,
    "POST /api/token-process/end": KeyScope.BILLING,
    "POST /api/token-process/end/batch": KeyScope.BILLING,
    "POST /api/token-process/end/reverse": KeyScope.BILLING,
    "POST /api/token-process/cancel": KeyScope.BILLING,
    "POST /api/token-process/hold/extend": KeyScope.BILLING,
    "POST /api/token-process/estimate": KeyScope.ESTIMATE,
    # Catalog
    "GET /api/admin/feature-endpoints": KeyScope.READ,
    "POST /api/admin/feature-endpoints": KeyScope.CATALOG,
    "PATCH /api/admin/feature-endpoints/<id:feature_id>": KeyScope.CATALOG,
    "GET /api/admin/packages": KeyScope.READ,
    "POST /api/admin/packages": KeyScope.CATALOG,
    "PATCH /api/admin/packages/<id:package_id>": KeyScope.CATALOG,
    "GET /api/admin/profit-rules": KeyScope.READ,
    "POST /api/admin/profit-rules": KeyScope.CATALOG,
    "GET /api/admin/prices": KeyScope.READ,
    "POST /api/admin/prices": KeyScope.CATALOG,
    "POST /api/admin/prices/estimate": KeyScope.READ,
    "GET /api/admin/price-imports": KeyScope.READ,
    "POST /api/admin/price-imports": KeyScope.CATALOG,
    "GET /api/admin/price-imports/<int:number>": KeyScope.READ,
    "POST /api/admin/price-imports/<int:number>/approve": KeyScope.CATALOG,
    # Wallets
    "GET /api/admin/wallets": KeyScope.READ,
    "POST /api/admin/wallets": KeyScope.WALLETS,
    "GET /api/admin/wallets/<wallet:user_id>": KeyScope.READ,
    "PATCH /api/admin/wallets/<wallet:user_id>": KeyScope.WALLETS,
    "POST /api/admin/wallets/<id:user_id>/top-ups": KeyScope.WALLETS,
    "POST /api/admin/wallets/<id:user_id>/refunds": KeyScope.WALLETS,
    "POST /api/admin/wallets/<id:user_id>/adjustments": KeyScope.WALLETS,
    "POST /api/admin/wallets/<id:user_id>/chargebacks": KeyScope.WALLETS,
    "GET /api/admin/wallets/<id:user_id>/transactions": KeyScope.READ,
    "GET /api/admin/wallets/<id:user_id>/statement": KeyScope.READ,
    "GET /api/admin/wallets/<id:user_id>/balances": KeyScope.READ,
    "GET /api/admin/wallets/<id:user_id>/holds": KeyScope.READ,
    "DELETE /api/admin/wallets/<id:user_id>/holds/<process_id>": KeyScope.WALLETS,
    # Top-ups of many wallets
    "GET /api/admin/top-ups": KeyScope.READ,
    "POST /api/admin/top-ups": KeyScope.WALLETS,
    "GET /api/admin/top-ups/<int:number>": KeyScope.READ,
    "DELETE /api/admin/top-ups/<int:number>": KeyScope.WALLETS,
    "GET /api/admin/top-ups/<int:number>/wallets": KeyScope.READ,
    "POST /api/admin/top-ups/<int:number>/apply": KeyScope.WALLETS,
    "GET /api/admin/top-up-schedules": KeyScope.READ,
    "POST /api/admin/top-up-schedules": KeyScope.WALLETS,
    "GET /api/admin/top-up-schedules/<int:number>": KeyScope.READ,
    "POST /api/admin/top-up-schedules/<int:number>/pause": KeyScope.WALLETS,
    "POST /api/admin/top-up-schedules/<int:number>/resume": KeyScope.WALLETS,
    "POST /api/admin/top-up-schedules/<int:number>/end": KeyScope.WALLETS,
    # Corrections
    "GET /api/admin/ends/<uuid:end_id>/corrections": KeyScope.READ,
    "POST /api/admin/ends/<uuid:end_id>/reversals": KeyScope.WALLETS,
    "POST /api/admin/ends/<uuid:end_id>/amendments": KeyScope.WALLETS,
    "GET /api/admin/repricings": KeyScope.READ,
    "POST /api/admin/repricings": KeyScope.WALLETS,
    "GET /api/admin/repricings/<int:number>": KeyScope.READ,
    "POST /api/admin/repricings/<int:number>/apply": KeyScope.WALLETS,
    # Failed ends and reconciliations
    "GET /api/admin/failed-ends": KeyScope.READ,
    "GET /api/admin/failed-ends/groups": KeyScope.READ,
    "GET /api/admin/debts": KeyScope.READ,
    "GET /api/admin/ends/<uuid:end_id>": KeyScope.READ,
    "POST /api/admin/failed-ends/<uuid:end_id>/replay": KeyScope.FAILED_ENDS,
    "POST /api/admin/failed-ends/<uuid:end_id>/write-off": KeyScope.FAILED_ENDS,
    "GET /api/admin/bulk-actions": KeyScope.READ,
    "POST /api/admin/bulk-actions": KeyScope.FAILED_ENDS,
    "GET /api/admin/bulk-actions/<int:number>": KeyScope.READ,
    "GET /api/admin/bulk-actions/<int:number>/ends": KeyScope.READ,
    "POST /api/admin/bulk-actions/<int:number>/confirm": KeyScope.FAILED_ENDS,
    "POST /api/admin/bulk-actions/<int:number>/cancel": KeyScope.FAILED_ENDS,
    "POST /api/admin/reconciliations": KeyScope.WALLETS,
    "GET /api/admin/reconciliations/<int:number>": KeyScope.READ,
    # Reports
    "GET /api/admin/usage": KeyScope.READ,
    "GET /api/admin/totals": KeyScope.READ,
    "GET /api/admin/transactions": KeyScope.READ,
    "GET /api/admin/samples": KeyScope.READ,
    # Webhooks
    "GET /api/admin/webhook-endpoints": KeyScope.READ,
    "POST /api/admin/webhook-endpoints": KeyScope.WEBHOOKS,
    "GET /api/admin/webhook-endpoints/<int:number>": KeyScope.READ,
    "PATCH /api/admin/webhook-endpoints/<int:number>": KeyScope.WEBHOOKS,
    "DELETE /api/admin/webhook-endpoints/<int:number>": KeyScope.WEBHOOKS,
    "POST /api/admin/webhook-endpoints/<int:number>/enable": KeyScope.WEBHOOKS,
    "POST /api/admin/webhook-endpoints/<int:number>/disable": KeyScope.WEBHOOKS,
    "POST /api/admin/webhook-endpoints/<int:number>/rotate-secret": KeyScope.WEBHOOKS,
    "POST /api/admin/webhook-endpoints/<int:number>/test": KeyScope.WEBHOOKS,
    "POST /api/admin/webhook-endpoints/<int:number>/replay": KeyScope.WEBHOOKS,
    "GET /api/admin/webhook-events": KeyScope.READ,
    "GET /api/admin/webhook-events/<uuid:event_id>": KeyScope.READ,
    "POST /api/admin/webhook-events/<uuid:event_id>/replay": KeyScope.WEBHOOKS,
    "GET /api/admin/webhook-deliveries": KeyScope.READ,
    "GET /api/admin/webhook-deliveries/<int:number>": KeyScope.READ,
    # Balance rules
    "GET /api/admin/low-balance-rules": KeyScope.READ,
    "PUT /api/admin/low-balance-rules": KeyScope.WALLETS,
    "DELETE /api/admin/low-balance-rules": KeyScope.WALLETS,
    "GET /api/admin/auto-top-up-rules": KeyScope.READ,
    "PUT /api/admin/auto-top-up-rules": KeyScope.WALLETS,
    "DELETE /api/admin/auto-top-up-rules": KeyScope.WALLETS,
    "GET /api/admin/wallets/<id:user_id>/balance-rules": KeyScope.READ,
    "POST /api/admin/wallets/<id:user_id>/auto-top-up/resume": KeyScope.WALLETS,
    "GET /api/admin/top-up-requests": KeyScope.READ,
    "GET /api/admin/top-up-requests/<uuid:request_id>": KeyScope.READ,
    "POST /api/admin/top-up-requests/<uuid:request_id>/decline": KeyScope.WALLETS,
    # Keys and the audit log
    "GET /api/admin/keys": KeyScope.KEYS,
    "POST /api/admin/keys": KeyScope.KEYS,
    "GET /api/admin/keys/<key_id>": KeyScope.KEYS,
    "POST /api/admin/keys/<key_id>/rotate": KeyScope.KEYS,
    "POST /api/admin/keys/<key_id>/revoke": KeyScope.KEYS,
    "GET /api/admin/audit-log": KeyScope.AUDIT,
    # Only if the metrics aren't public
    "GET /metrics": KeyScope.METRICS,
}


def asked_for(request: Request) -> KeyScope | None:
    """The scope that a request's route requires. None if there is no such route, or if the request is OPTIONS.

    Raises KeyNotAllowed for a route that isn't in the table.
    """
    rule = request.url_rule
    if rule is None or request.method == "OPTIONS":
        return None
    method = "GET" if request.method == "HEAD" else request.method
    scope = SCOPES.get(f"{method} {rule.rule}")
    if scope is None:
        # A route that was forgotten in the table is closed to everybody.
        raise KeyNotAllowed
    return scope
