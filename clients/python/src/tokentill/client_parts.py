"""What both clients are made of: settings, the protocol, and the outbox with its sender."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from tokentill.away import AwayReport
from tokentill.core import BatchItem, Core, new_key, repeatable
from tokentill.drivers import Driver
from tokentill.errors import ConfigurationError, OutboxError
from tokentill.hooks import Hooks
from tokentill.outbox import Outbox
from tokentill.sender import Sender
from tokentill.settings import Settings, outbox_path_from_environment
from tokentill.steps import Steps
from tokentill.wire import End, Estimate, end_body

logger = logging.getLogger("tokentill")

OutboxOrPath: TypeAlias = "Outbox | str | os.PathLike[str]"


class ClientParts:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        outbox: OutboxOrPath | Literal[False] | None,
        outbox_ends_max: int,
        hooks: Hooks | None,
    ) -> None:
        chosen = outbox_path_from_environment() if outbox is None else outbox or None
        self._owns_outbox = not isinstance(chosen, Outbox)
        self.outbox: Outbox | None
        if chosen is None or isinstance(chosen, Outbox):
            self.outbox = chosen
        else:
            self.outbox = Outbox.opened_later(chosen, ends_max=outbox_ends_max)
            try:
                self.outbox.status()
            except OutboxError as error:
                logger.error("%s. Ends are only sent, not kept, until it can be", error)  # noqa: TRY400
        if settings.when_away == "open" and self.outbox is None:
            raise ConfigurationError("when_away='open' needs an outbox for the ends of what it lets through")
        self.settings = settings
        self._core = Core(settings, self.outbox, hooks)
        self._sender: Sender | None = None

    def _send_in_background(self, driver: Driver) -> None:
        if self.outbox is not None:
            self._sender = Sender(self._core, driver, owns_outbox=self._owns_outbox)
            # A client that is forgotten, not closed: its thread ends, too.
            weakref.finalize(self, self._sender.ask_to_stop)

    def away_report(self) -> AwayReport:
        """Is the server away, and what went on without it?"""
        return self._core.away.report()

    def _end_steps(self, *, idempotency_key: str | None, **end: Any) -> Steps[End]:
        key = idempotency_key or new_key()
        with repeatable("end", key, {**end, "idempotency_key": key}):
            body = end_body(**end)
        return self._core.end(body, key)

    def _batch_steps(self, ends: Sequence[Mapping[str, Any]]) -> Steps[list[BatchItem]]:
        # Nothing is sent if one of them is wrong.
        with repeatable("end_batch", None, {"ends": [dict(end) for end in ends]}):
            pairs = [(end.get("idempotency_key") or new_key(), _body_of(end)) for end in ends]
        return self._core.end_batch(pairs)

    def _estimate_steps(self, **end: Any) -> Steps[Estimate]:
        with repeatable("estimate", None, end):
            body = end_body(**end)
        return self._core.estimate(body)

    def close_outbox(self) -> None:
        """Stop sending in the background, and close the file; the connections stay."""
        if self._sender is not None:
            self._sender.stop()
        if self.outbox is not None and self._owns_outbox:
            self.outbox.close()


def _body_of(end: Mapping[str, Any]) -> str:
    return end_body(
        user_id=end.get("user_id", ""),
        feature_endpoint_id=end.get("feature_endpoint_id", ""),
        input_token=end.get("input_token"),
        output_token=end.get("output_token"),
        model=end.get("model"),
        process_id=end.get("process_id"),
        cached_input_token=end.get("cached_input_token"),
        cache_write_token=end.get("cache_write_token"),
        reasoning_token=end.get("reasoning_token"),
        requests=end.get("requests"),
    )
