"""Features wrapped for a user of a fake Tokentill, and what was billed for them."""

from __future__ import annotations

from typing import Any

from tests.unit.fake import Fake
from tokentill import with_token_process

WIRE = (
    "input_token",
    "output_token",
    "cached_input_token",
    "cache_write_token",
    "reasoning_token",
    "requests",
)


class Billing:
    def __init__(self) -> None:
        self.fake = Fake()
        self.errors: list[tuple[Exception, dict[str, Any]]] = []

    def wrap(self, function: Any, **options: Any) -> Any:
        return self._wrap(function, self.fake.client(), options)

    def wrap_async(self, function: Any, **options: Any) -> Any:
        return self._wrap(function, self.fake.async_client(), options)

    def _wrap(self, function: Any, client: Any, options: dict[str, Any]) -> Any:
        return with_token_process(
            function,
            feature_endpoint_id="f",
            user_id="u",
            client=client,
            on_end_error=lambda *both: self.errors.append(both),
            **options,
        )

    def billed(self) -> dict[str, int]:
        """What the one end says, without what it leaves out; {} where there was none."""
        assert self.errors == []
        return self.ends()

    def ends(self) -> dict[str, int]:
        ends = self.fake.of("end")
        assert len(ends) <= 1, "a run is billed once"
        return {name: ends[0].body[name] for name in WIRE if name in ends[0].body} if ends else {}
