"""Bodies of top-ups of many wallets and of their schedules."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, post_load
from marshmallow.validate import OneOf

from app.domain.errors import Invalid
from app.domain.inputs import REASON_LENGTH_MAX, REFERENCE_LENGTH_MAX
from app.domain.top_ups import Calendar, CatchUp, Period, Rhythm, Target, TopUpAmount, TopUpMode
from app.domain.wallets import WalletStatus
from app.http.schemas import RequestSchema, shapes
from app.http.schemas.fields import Day, Flag, FreeText, Text, TokenAmount, WholeNumber


def _one_of(words: type[Any]) -> OneOf:
    values = [word.value for word in words]
    return OneOf(values, error=f"Must be {', '.join(values[:-1])} or {values[-1]}.")


class _AmountSchema(RequestSchema):
    """What each wallet gets: `token`, or what it lacks to `fill_up_to_token`."""

    reference = Text(length_max=REFERENCE_LENGTH_MAX, required=True)
    reason = FreeText(length_max=REASON_LENGTH_MAX, required=True)
    add_micros = TokenAmount(
        data_key="token", allow_none=True, load_default=None, metadata={"description": "What each wallet gets."}
    )
    fill_micros = TokenAmount(data_key="fill_up_to_token", allow_none=True, load_default=None)
    wallet_status = Text(allow_none=True, load_default=WalletStatus.ACTIVE, validate=_one_of(WalletStatus))

    @staticmethod
    def _amount(data: dict[str, Any], errors: dict[str, list[str]]) -> TopUpAmount | None:
        added, filled = data.pop("add_micros"), data.pop("fill_micros")
        if (added is None) == (filled is None):
            errors["token"] = ["Give either token or fill_up_to_token."]
            return None
        if added is not None:
            return TopUpAmount(TopUpMode.ADD, added)
        return TopUpAmount(TopUpMode.FILL, filled)


class TopUpSchema(_AmountSchema):
    rules = shapes.exactly_one("token", "fill_up_to_token")

    package_id = Text(required=True)
    is_applied = Flag(data_key="apply", load_default=False)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        errors: dict[str, list[str]] = {}
        amount = self._amount(data, errors)
        if errors:
            raise ValidationError(errors)
        target = Target(package_id=data.pop("package_id"), status=data.pop("wallet_status"))
        return {**data, "target": target, "amount": amount}


class TopUpScheduleSchema(_AmountSchema):
    rules = {  # noqa: RUF012
        "allOf": [shapes.exactly_one("token", "fill_up_to_token"), shapes.exactly_one("package_id", "user_id")]
    }

    package_id = Text(allow_none=True, load_default=None)
    user_id = Text(allow_none=True, load_default=None)
    period = Text(required=True, validate=_one_of(Period))
    day = WholeNumber(
        least=1,
        most=31,
        allow_none=True,
        load_default=None,
        metadata={"description": "1 (Monday) to 7 of a week; 1 to 31 of a month, its last where it is shorter."},
    )
    starts_on = Day(allow_none=True, load_default=None)
    ends_on = Day(allow_none=True, load_default=None)
    catch_up = Text(load_default=CatchUp.EACH, validate=_one_of(CatchUp))
    is_dry_run = Flag(data_key="dry_run", load_default=False)

    @post_load
    def _build(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        errors: dict[str, list[str]] = {}
        amount = self._amount(data, errors)
        package_id, user_id = data.pop("package_id"), data.pop("user_id")
        if (package_id is None) == (user_id is None):
            errors["package_id"] = ["Give either package_id or user_id."]
        starts_on, ends_on = data["starts_on"], data.pop("ends_on")
        if starts_on is not None and ends_on is not None and ends_on < starts_on:
            errors["ends_on"] = ["Must not be before starts_on."]
        period, day_of_it, catch_up = Period(data.pop("period")), data.pop("day"), CatchUp(data.pop("catch_up"))
        try:
            rhythm = Rhythm(Calendar(period, day_of_it), ends_on, catch_up)
        except Invalid as error:
            errors |= dict(error.errors or {})
        if errors:
            raise ValidationError(errors)
        target = Target(package_id, user_id, data.pop("wallet_status"))
        return {**data, "target": target, "amount": amount, "rhythm": rhythm}
