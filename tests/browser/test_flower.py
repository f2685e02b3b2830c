"""Flower as somebody on call sees it: what is owed is red, with how much and what it is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests import processes
from tests.browser.chromium import opened, take_picture
from tests.processes import wait_until
from tests.support import Billing
from tests.worker.test_flower import ENDS, LOGIN, PAYABLE, flower, report_ends, shop, workers

__all__ = ["shop"]
pytestmark = pytest.mark.xdist_group("browser")


def test_ends_that_could_not_be_deducted_are_red(
    browser: Browser, shop: Billing, environment: dict[str, str], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    with processes.worker(environment, tmp_path) as worker, flower(environment, tmp_path) as url:
        wait_until(lambda: any(worker["status"] for worker in workers(url)), what="the worker's heartbeat")
        report_ends(shop)
        wait_until(lambda: shop.inbox_size() == ENDS - PAYABLE, what="the settlement", log=worker.log)
        credentials = {"username": LOGIN[0], "password": LOGIN[1]}
        with opened(browser, url, http_credentials=credentials) as page:
            page.goto("/tasks?name=tokentill.settle_ends")
            row = page.locator("tbody tr", has_text="not deducted").first
            expect(row.locator(".badge")).to_have_text("FAILURE")
            expect(row.locator(".badge")).to_have_class("badge text-bg-danger")
            expect(row).to_contain_text("200 ends: ")
            expect(row).to_contain_text("193 ends not deducted: 2123 tokens owed; 7 ends settled")
            take_picture(page, tmp_path / "tasks.webp")
            page.goto("/workers")
            expect(page.locator("#workers-failed")).not_to_have_text("0")
