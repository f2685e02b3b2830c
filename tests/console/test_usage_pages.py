"""Usage and revenue, and the overview: the figures of the use cases, as charts, tables and files."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from app.access.gate import StoreState
from app.domain.errors import Unavailable
from tests.console.browser import Browser
from tests.support import FEATURE, Billing


@pytest.fixture
def used(billing: Billing) -> Billing:
    """11 + 22 tokens by two users with two models, and 33 that nobody can pay."""
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=100)
    billing.wallet("user-2", tokens=25)
    billing.container.end.end(billing.usage("user-1", output_tokens=40, model="large"))
    billing.container.end.end(billing.usage("user-2", output_tokens=80, model="small"))
    billing.container.end.end(billing.usage("user-2", output_tokens=120, model="small"))
    billing.settle_everything()
    return billing


def test_usage_is_added_up(reader: Browser, used: Billing) -> None:
    page = reader.page("/usage")
    assert "Net revenue 33" in page.text
    assert "Profit 3" in page.text
    assert f"{FEATURE} 33" in page.text
    assert "small 22" in page.text
    table = reader.page("/usage?group_by=model&group_by=user_id&model=large")
    assert "By model, user" in table.text
    assert "large user-1 1 10 40 10 1 11 0 0 11" in table.text
    assert "user-2" not in table.text


def test_bars_lead_to_what_they_are_of(reader: Browser, used: Billing) -> None:
    page = reader.page("/usage?from=2020-01-01")
    links = [parse_qs(urlsplit(link).query) for link in page.links if "model=large" in link]
    assert links == [{"from": ["2020-01-01"], "model": ["large"]}]


def test_the_table_is_a_file_too(reader: Browser, used: Billing) -> None:
    [link] = [link for link in reader.page("/usage?group_by=model").links if "/usage.csv?" in link]
    response = reader.get(link)
    assert response.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    assert response.content_type.startswith("text/csv")
    head, *rows = response.text.splitlines()
    assert head.startswith("model,runs,")
    assert [row.split(",")[0] for row in rows] == ["large", "small"]
    assert reader.get("/usage/usage.txt").status_code == 404
    assert reader.get("/usage/usage.csv?from=soon").status_code == 400


@pytest.mark.parametrize(
    "query", ["?from=soon", "?from=2030-01-02&to=2030-01-01x", "?kind=top_up", "?group_by=colour", "?price_id=-1"]
)
def test_a_wrong_filter_is_told_and_nothing_listed(reader: Browser, used: Billing, query: str) -> None:
    page = reader.page(f"/usage{query}", 400)
    assert "Net revenue" not in page.text
    assert any(field.get("aria-invalid") == "true" for field in page.fields) or "Must be some" in page.text


def test_days_without_usage_say_so(reader: Browser, used: Billing) -> None:
    assert "Nothing was used in these days" in reader.page("/usage?from=2020-01-01&to=2020-02-01").text


def test_the_overview_says_what_is_stuck_and_whose(reader: Browser, used: Billing) -> None:
    page = reader.page("/")
    assert "Retry queue 33" in page.text
    assert "Owed by users 33" in page.text
    # 25 less 22 are there.
    assert "user-2 1 33 30" in page.text
    assert "insufficient tokens 1 1 33" in page.text
    assert "Beat is silent" in page.text
    assert "No worker says that it lives" in page.text


def test_the_overview_draws_samples(reader: Browser, used: Billing) -> None:
    used.execute_in_postgres("""
        INSERT INTO samples (minute, accepted, settled, backlog, pending_micros, retrying, retrying_micros, dead,
            dead_micros, debt_micros, liability_micros, overdrawn_micros, wallets, held_micros)
        SELECT date_trunc('minute', now()) - interval '1 minute' * n, 100 * n, 90 * n, n, 0, 1, 33000000, 0, 0,
            33000000, 92000000, 0, 2, CASE WHEN n = 2 THEN NULL ELSE 5000000 END
        FROM generate_series(1, 170) AS n
    """)
    page = reader.page("/")
    assert "Liability 92" in page.text
    assert "Held for runs 5" in page.text
    assert page.html.count('<svg viewBox="0 0 1000 1000"') == 4
    assert "Beat is silent" in page.text
    # Of 170 minutes so many points as somebody can see.
    assert 4 * 50 <= page.html.count('class="zone"') <= 4 * 62
    assert reader.page("/?hours=1").html.count('class="zone"') in (4 * 57, 4 * 58, 4 * 59, 4 * 60)
    assert reader.get("/?hours=5").status_code == 400


def test_the_overview_updates_itself(reader: Browser, used: Billing) -> None:
    page = reader.page("/")
    assert ("section", "hx-trigger", "every 15s") in page.attributes
    assert ("section", "hx-select", "#live") in page.attributes
    assert page.ids.count("live") == 1


def test_the_overview_says_what_a_store_cannot_tell(
    reader: Browser, used: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres has said who is signed in, and then says no more."""

    def away(*_: object, **__: object) -> None:
        raise Unavailable

    monkeypatch.setattr(used.container.failed_end_sums, "debts", away)
    monkeypatch.setattr(used.container.failed_end_sums, "failed_ends", away)
    monkeypatch.setattr(used.container.samples, "thinned", away)
    page = reader.page("/")
    assert "Retry queue" not in page.text
    assert page.headings[0] == "Overview"


def test_without_postgres_the_console_says_so(reader: Browser, used: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used.container.postgres_gate, "_state", StoreState.DOWN)
    page = reader.page("/", 503)
    assert "A store doesn't answer" in page.text


def test_an_error_is_a_page_with_the_requests_id(
    reader: Browser, used: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(used.container.reports, "usage", broken)
    response = reader.get("/usage")
    assert response.status_code == 500
    assert response.headers["X-Request-Id"] in response.text
    assert "secret detail" not in response.text
