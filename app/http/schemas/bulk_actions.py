"""Bodies of bulk actions. Unknown fields are refused: a misspelt filter would select more ends than were meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from uuid import UUID

from marshmallow import RAISE, ValidationError, fields, post_load
from marshmallow.validate import OneOf

from app.domain.bulk_actions import BulkKind
from app.domain.failed_ends import AgeBand, Filter, duration_seconds
from app.domain.inputs import REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX
from app.domain.reasons import FailureReason
from app.domain.reports import CHARGE_KINDS
from app.http.filters import FAILED_STATES, failed_end_filter
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import FreeText, MomentOrDay, Text, TokenAmount, WholeNumber
from app.http.schemas.shapes import Shape
from app.wire.bulk_actions import selection_answer

IDS_MAX = 1_000
ENDS_MAX = 2**53


class StrictSchema(RequestSchema):
    rules: ClassVar[Shape] = {"additionalProperties": False}

    class Meta:
        unknown = RAISE


class Duration(Text):
    """A duration such as 90s, 15m, 24h or 7d; loads as seconds."""

    def shape(self) -> Shape:
        return shapes.duration()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        try:
            return duration_seconds(super()._deserialize(value, attr, data, **kwargs))
        except ValueError as error:
            raise ValidationError(str(error)) from None


class EndIds(fields.Field[list[UUID]]):
    def shape(self) -> Shape:
        each = {"type": "string", "format": "uuid", "pattern": "^[0-9a-f-]{36}$"}
        return {"type": "array", "items": each, "minItems": 1, "maxItems": IDS_MAX}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[UUID]:
        if not isinstance(value, list) or not 1 <= len(value) <= IDS_MAX:
            raise ValidationError(f"Must be a list of 1 to {IDS_MAX} ids.")
        ids = []
        for text in value:
            try:
                end_id = UUID(text) if isinstance(text, str) else None
            except ValueError:
                end_id = None
            if end_id is None or str(end_id) != text:
                raise ValidationError("Must be ids of ends.")
            ids.append(end_id)
        return sorted(set(ids))


def _one_of(values: Iterable[str], *, required: bool = False) -> Text:
    words = [str(value) for value in values]
    wrong = f"Must be {', '.join(words[:-1])} or {words[-1]}."
    return Text(required=required, validate=OneOf(words, error=wrong))


class FailedEndFilterSchema(StrictSchema):
    """The filters of the list of failed ends."""

    user_id = Text()
    feature_endpoint_id = Text()
    model = Text()
    package_id = Text()
    state = _one_of(FAILED_STATES)
    kind = _one_of(CHARGE_KINDS)
    last_error = _one_of(FailureReason)
    age = _one_of(AgeBand)
    accepted_from = MomentOrDay(data_key="from")
    accepted_to = MomentOrDay(data_key="to")
    older_than = Duration()
    younger_than = Duration()
    min_cost = TokenAmount(allow_zero=True)
    max_cost = TokenAmount(allow_zero=True)

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> Filter:
        bounds = {name: data.pop(f"accepted_{name}") for name in ("from", "to") if f"accepted_{name}" in data}
        if len(bounds) == 2 and bounds["from"] >= bounds["to"]:
            raise ValidationError({"to": ["Must be later than from."]})
        return failed_end_filter(data | bounds)


class FilterField(fields.Nested):
    body_schema = FailedEndFilterSchema()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(self.body_schema, **kwargs)


class BulkActionSchema(StrictSchema):
    """Which failed ends: `filter`, where `{}` means all of them, or `ids`."""

    rules: ClassVar[Shape] = {**StrictSchema.rules, **shapes.exactly_one("filter", "ids")}

    action = _one_of(BulkKind, required=True)
    filter = FilterField(
        metadata={"description": "Selects all failed ends that match; all failed ends if it is empty."}
    )
    ids = EndIds(metadata={"description": "Selects single failed ends instead of a filter."})
    reference = Text(length_max=REFERENCE_LENGTH_MAX, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)

    @post_load
    def _selection(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if ("filter" in data) == ("ids" in data):
            raise ValidationError({"filter": ["Give either a filter or ids."]})
        which = data.pop("filter") if "filter" in data else data.pop("ids")
        return {**data, "which": which, "selection": selection_answer(which), "action": BulkKind(data["action"])}


class ConfirmationSchema(StrictSchema):
    ends = WholeNumber(most=ENDS_MAX, required=True)
    cost_micros = TokenAmount(allow_zero=True, data_key="cost", required=True)
