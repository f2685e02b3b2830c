"""How things stood, minute by minute. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response

from app.http import filters
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import PAGE, takes
from app.http.routes import container
from app.wire import columns
from app.wire.samples import SampleAnswer, sample_answer

blueprint = Blueprint("samples", __name__, url_prefix="/api/admin")


@blueprint.get("/samples")
@takes(*PAGE, *filters.MOMENTS)
@answers(PageOf(SampleAnswer))
def list_samples() -> Response:
    """The state of the system, one row per minute. Newest first."""
    since, until = filters.moments()
    samples = container().samples
    return listed(
        "Samples",
        newest_first(lambda limit, before: samples.list(since, until, limit, before), sample_answer),
        columns.SAMPLES,
    )
