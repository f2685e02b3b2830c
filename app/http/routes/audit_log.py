"""The audit log: by the page, or as a table. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response

from app.http import filters
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import PAGE, takes
from app.http.routes import container
from app.wire import columns
from app.wire.keys import AuditEntryAnswer, audit_answer

blueprint = Blueprint("audit_log", __name__, url_prefix="/api/admin/audit-log")


@blueprint.get("")
@takes(*PAGE, *filters.AUDIT_LOG)
@answers(PageOf(AuditEntryAnswer))
def list_audit_log() -> Response:
    """Who changed what, when and from where, and the previous values. Newest first."""
    wanted, log = filters.audit_log(), container().audit_log
    found = newest_first(lambda limit, before_id: log.list(wanted, limit, before_id), audit_answer)
    return listed("Audit log", found, columns.AUDIT_LOG)
