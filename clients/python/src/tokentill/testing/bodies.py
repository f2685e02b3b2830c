"""Bodies as the server reads and writes them: checked field by field, amounts exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx

from tokentill.testing.prices import RunUsage, micros

USAGE_TOKENS_MAX = 100_000_000
REQUESTS_MAX = 100_000
HOLD_SECONDS_MAX = 86_400
ID_LENGTH_MAX = 255


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = {name: value for name, value in more.items() if value}

    def body(self) -> dict[str, Any]:
        return {
            "success": False,
            "status": self.status,
            "message": self.message,
            "code": self.code,
            **self.more,
        }


class Body:
    """Reads fields and gathers what is wrong with them; `check` refuses with all of it."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, Mapping):
            raise Refused(400, "invalid_json", "Bad JSON", errors={"body": ["Must be a JSON object."]})
        self._fields = fields
        self.errors: dict[str, list[str]] = {}

    def check(self) -> None:
        if self.errors:
            raise Refused(400, "validation_failed", "Validation failed", errors=self.errors)

    def text(self, name: str, *, required: bool = True) -> str:
        value = self._fields.get(name)
        if value is None:
            if required:
                self.errors[name] = ["Missing data for required field."]
            return ""
        if not isinstance(value, str) or not value or len(value) > ID_LENGTH_MAX or not value.isprintable():
            self.errors[name] = [f"Must be a printable string of 1 to {ID_LENGTH_MAX} characters."]
            return ""
        return value

    def count(
        self, name: str, *, required: bool = False, least: int = 0, most: int = USAGE_TOKENS_MAX
    ) -> int | None:
        value = self._fields.get(name)
        if value is None:
            if required:
                self.errors[name] = ["Missing data for required field."]
            return None
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or value != int(value):
            self.errors[name] = ["Must be a whole number."]
        elif not least <= value <= most:
            self.errors[name] = [f"Must be from {least} to {most}."]
        else:
            return int(value)
        return None

    def amount_micros(self, name: str) -> int:
        value = self._fields.get(name)
        if value is None:
            return 0
        try:
            if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or value <= 0:
                raise ValueError("Must be a number > 0.")  # noqa: TRY301 - told with the other
            return micros(value)
        except ValueError as error:
            self.errors[name] = [str(error)]
            return 0

    def usage(self) -> RunUsage:
        usage = RunUsage(
            input_token=self.count("input_token", required=True) or 0,
            output_token=self.count("output_token", required=True) or 0,
            cached_input_token=self.count("cached_input_token") or 0,
            cache_write_token=self.count("cache_write_token") or 0,
            reasoning_token=self.count("reasoning_token") or 0,
            requests=self.count("requests", least=1, most=REQUESTS_MAX) or 0,
        )
        if not self.errors:
            self.errors.update(usage.errors())
        if usage.requests == 0 and usage.input_token + usage.output_token > 0:
            # Who doesn't count requests has made one, if anything was used.
            return replace(usage, requests=1)
        return usage


def read(request: httpx.Request) -> Any:
    """The body's JSON, its numbers exact. Raises Refused."""
    try:
        return json.loads(request.content, parse_float=Decimal, parse_constant=_refuse)
    except ValueError:
        raise Refused(400, "invalid_json", "Bad JSON") from None


def checked_key(key: Any, name: str) -> str | None:
    """What a call is repeated by. Raises Refused."""
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= ID_LENGTH_MAX or not key.isprintable():
        raise invalid(**{name: f"Must be a printable string of 1 to {ID_LENGTH_MAX} characters."})
    return key


def written(value: Any) -> str:
    """JSON with decimals as they are: the json module would make floats of them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)}: {written(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def invalid(**errors: str) -> Refused:
    """A refusal that names fields."""
    reasons = {name: [why] for name, why in errors.items()}
    return Refused(400, "validation_failed", "Validation failed", errors=reasons)
