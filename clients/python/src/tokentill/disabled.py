"""Disabled mode, for development and tests: every start is access-able, and nothing is sent anywhere."""

from __future__ import annotations

import json
import os
from typing import Any

import httpx

DISABLED_URL = "http://disabled.invalid"
DISABLED_API_KEY = "disabled"


def is_disabled(disabled: bool | None) -> bool:
    """The argument, or else TOKENTILL_DISABLED."""
    if disabled is not None:
        return disabled
    return os.environ.get("TOKENTILL_DISABLED", "").strip().lower() in {"1", "true", "yes", "on"}


class DisabledTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers every call as a server would that lets everything through and bills nothing."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read())
        path = request.url.path.removeprefix("/api/token-process/")
        if path == "end/batch":
            results = [{"success": True, "data": _nothing(end)} for end in body["ends"]]
            data: dict[str, Any] = {"results": results}
        elif path == "end/reverse":
            data = {**_nothing(body), "posted_token": 0, "debt_token": 0, "reference": body["reference"]}
        else:
            data = _nothing(body)
        return httpx.Response(
            200, json={"success": True, "message": "Disabled", "data": data}, request=request
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


def _nothing(body: dict[str, Any]) -> dict[str, Any]:
    status = "return-able" if "output_token" in body else "access-able"
    # What an extension is answered; a start without a process id has no hold to look after.
    hold = {"hold_token": body.get("hold_token", 0), "expires_at": "9999-12-31T23:59:59.999Z"}
    nothing = {"user_id": body.get("user_id"), "token": 0, "cost": 0, "status": status}
    # What an estimate is answered beside that.
    nothing |= {"base_cost": 0, "profit": 0, "price_id": None, "profit_rule_id": None}
    return {**nothing, **hold} if "process_id" in body else nothing
