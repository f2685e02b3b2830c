"""The receivers of docs/webhooks.md, run as they stand there, against the real API."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from app.domain.balance_rules import Owner
from tests import processes
from tests.conftest import ADMIN_KEY, PROJECT
from tests.support import Billing
from tests.webhooks_shop import TOKEN, Webhooks

PAGE = (PROJECT / "docs" / "webhooks.md").read_text()


def code(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize(
    ("language", "program", "ending"), [("python", sys.executable, "py"), ("javascript", "node", "mjs")]
)
def test_the_receiver_verifies_keeps_and_tops_up(
    billing: Billing, environment: dict[str, str], tmp_path: Path, language: str, program: str, ending: str
) -> None:
    assert shutil.which(program), f"{program} is needed to try what the page shows"
    billing.catalog(basis_points=None)
    billing.wallet("al/ice", tokens=1_000)
    hooks = Webhooks(billing)
    port = processes.free_port()
    endpoint = hooks.endpoint(f"http://127.0.0.1:{port}/", "topup.requested", "wallet.low_balance", "wallet.topped_up")
    hooks.low_balance(200, user_id="al/ice")
    hooks.auto_top_up(below=100, tokens=500, owner=Owner(user_id="al/ice"))
    (tmp_path / f"receiver.{ending}").write_text(code(language))
    with processes.web(environment, tmp_path) as (url, _):
        settings = {
            "PORT": str(port),
            "WEBHOOK_SECRET": hooks.secret,
            "TOKENTILL_URL": url,
            "ADMIN_API_KEY": ADMIN_KEY,
        }
        command = f"exec {program} receiver.{ending}"
        with processes.run("receiver", settings, tmp_path / "receiver.log", f"cd {tmp_path} && {command}") as running:
            processes.wait_until(lambda: _answers(port), what="the receiver", log=running.log)
            assert httpx.post(f"http://127.0.0.1:{port}/", content=b'{"type": "topup.requested"}').status_code == 400
            hooks.spend(950, "al/ice")
            hooks.deliver()
            for event in hooks.events("topup.requested"):
                hooks.container.webhook_events.replay(event.id, endpoint.id)
            hooks.deliver()
            hooks.deliver()
            log = running.log.read_text()
    assert {one.state for one in hooks.deliveries()} == {"delivered"}, log
    assert billing.balance("al/ice").posted_micros == 550 * TOKEN, log
    assert "al/ice has 50 tokens left" in log
    assert [request.state for request in hooks.container.top_up_requests.list(10).items] == ["answered"]


def _answers(port: int) -> bool:
    try:
        return httpx.post(f"http://127.0.0.1:{port}/", timeout=1).status_code == 400
    except httpx.TransportError:
        return False
