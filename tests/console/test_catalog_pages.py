"""The catalogue's pages: lists, forms, the calculator, price lists."""

from __future__ import annotations

import io
import json

import pytest

from app.bootstrap import Container
from tests.console.browser import Browser, Page
from tests.support import FEATURE, PACKAGE, Billing

HOSTILE = '<img src=x onerror="alert(1)">\'&amp;'
LIST = {
    "sample_spec": {},
    "gpt-5": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 0.00000125,
        "output_cost_per_token": 0.00001,
    },
}


def test_empty_lists_say_what_to_do(operator: Browser) -> None:
    for path, words in (
        ("/catalogue", "create the first one"),
        ("/catalogue/packages", "without one a wallet can start nothing"),
        ("/catalogue/profit-rules", "sold at their base cost"),
        ("/catalogue/prices", "a quarter of a token"),
        ("/catalogue/price-lists", "reading one changes no price"),
    ):
        assert words in operator.page(path).text


def test_hostile_names_are_only_text(operator: Browser, container: Container) -> None:
    assert operator.change("/catalogue/features/new", id=HOSTILE, name=HOSTILE, reason=HOSTILE).status_code == 303
    fields = {"id": HOSTILE, "name": HOSTILE, "feature_endpoint_ids": [HOSTILE], "reason": HOSTILE}
    page = operator.follow(operator.change("/catalogue/packages/new", **fields))
    for found in (
        page,
        operator.page("/catalogue"),
        operator.page("/catalogue/packages"),
        operator.page("/catalogue/prices/new"),
        operator.page("/catalogue/prices/calculator"),
        operator.review("/catalogue/profit-rules/new", percentage="10", feature_endpoint_id=HOSTILE, reason=HOSTILE),
    ):
        assert "<img" not in found.html
        assert HOSTILE in " ".join([found.text, *(value or "" for _, _, value in found.attributes)])


def test_a_package_is_changed_and_what_it_loses_is_told(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    review = operator.review(
        f"/catalogue/packages/change/{PACKAGE}", name="Basic 2", feature_endpoint_ids=[], reason="it ends"
    )
    assert "Basic → Basic 2" in review.text
    assert f"can't start {FEATURE} any more" in review.text
    operator.follow(operator.send(review.form(f"/console/catalogue/packages/change/{PACKAGE}"), step="do"))
    package = billing.container.catalog.current.packages[PACKAGE]
    assert (package.name, package.feature_endpoint_ids) == ("Basic 2", ())


def test_a_feature_is_changed(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    path = f"/catalogue/features/change/{FEATURE}"
    assert operator.page(path).form("/console" + path).value("min_token") == "1"
    page = operator.follow(operator.change(path, unpriced="refuse", min_token="2.5", reason="x"))
    assert "was changed" in page.text
    feature = billing.container.catalog.current.features[FEATURE]
    assert (feature.unpriced, feature.min_micros) == ("refuse", 2_500_000)
    assert operator.get("/catalogue/features/change/nothing").status_code == 404


def test_profit_rules_are_followed(operator: Browser, billing: Billing) -> None:
    billing.catalog(basis_points=1_000)
    page = operator.page("/catalogue/profit-rules")
    assert "in force" in page.text
    review = operator.review("/catalogue/profit-rules/new", percentage="12.5 %", reason="new year")
    assert "bring 12.5 % profit from now on" in review.text
    assert "Until then 10 %" in review.text
    page = operator.follow(operator.send(review.form("/console/catalogue/profit-rules/new"), step="do"))
    assert "followed" in page.text
    assert billing.container.catalog.current.profit_rules.in_force(FEATURE, None, billing.container.clock.now())
    assert operator.page("/catalogue/profit-rules?model=x").text.count("No profit rule matches") == 1
    refused = operator.page("/catalogue/profit-rules?colour=x", 400)
    assert "no filter 'colour'" in refused.text


def test_a_price_is_made_of_another_one(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    fields = {"model": "large*", "input_per_million": "1,000", "output_per_million": "4000", "reason": "list"}
    tiers = "above 1000 input 2000"
    operator.follow(operator.change("/catalogue/prices/new", **fields, tiers=tiers, feature_endpoint_id=FEATURE))
    page = operator.page("/catalogue/prices")
    assert "above 1,000: input 2,000" in page.text
    [follow] = [link for link in page.links if "/prices/new?" in link]
    form = operator.page(follow).form("/console/catalogue/prices/new")
    assert (form.value("model"), form.value("tiers"), form.value("input_per_million")) == ("large*", tiers, "1000")
    review = Page.of(operator.send(form, step="review", input_per_million="1500", reason="dearer"))
    assert "1,000 → 1,500" in review.text
    assert "price 1 for feature feature-text with model large*" in review.text
    operator.follow(operator.send(review.form("/console/catalogue/prices/new"), step="do"))
    assert len(list(billing.container.catalog.current.rate_cards)) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_per_million": "", "output_per_million": "1"}, "Must be filled in."),
        ({"input_per_million": "1", "output_per_million": "-1"}, "Must not be negative."),
        ({"input_per_million": "1", "output_per_million": "1", "model": "a*b"}, "May have a * as its last"),
        ({"input_per_million": "1", "output_per_million": "1", "tiers": "cheap"}, "Not read"),
        ({"input_per_million": "1", "output_per_million": "1", "effective_from": "soon"}, "Must be a day"),
        ({"input_per_million": "1", "output_per_million": "1", "feature_endpoint_id": "none"}, "Must be one of those"),
    ],
)
def test_a_price_that_cannot_be_is_refused(operator: Browser, fields: dict[str, str], words: str) -> None:
    assert words in operator.review("/catalogue/prices/new", 400, reason="x", **fields).text


def test_the_calculator_tries_a_price_before_it_is_made(reader: Browser, billing: Billing) -> None:
    billing.catalog(basis_points=1_000)
    billing.wallet("user-1", tokens=100)
    address = (
        f"/catalogue/prices/calculator?feature_endpoint_id={FEATURE}&model=large&input_token=1000&output_token=400"
        "&user_id=user-1"
    )
    page = reader.page(address)
    assert "Cost 110" in page.text
    assert "default rule" in page.text
    assert "return-able" not in page.html or "not-return-able" in page.text
    page = reader.page(f"{address}&input_per_million=1000&output_per_million=10000")
    # 1 + 4, and a tenth on top.
    assert "Cost 5.50" in page.text
    assert "104.50 tokens less than now" in page.text
    assert list(billing.container.catalog.current.rate_cards) == []
    # Whoever may make it is led there.
    assert not [link for link in page.links if "prices/new" in link]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("?input_token=1", 400, "Must be chosen."),
        (
            f"?feature_endpoint_id={FEATURE}&input_token=1&cached_input_token=2",
            400,
            "Must not be more than input_token",
        ),
        (f"?feature_endpoint_id={FEATURE}&input_token=many", 400, "Must be a whole number"),
        (f"?feature_endpoint_id={FEATURE}&input_per_million=1", 400, "A draft names input and output."),
        (f"?feature_endpoint_id={FEATURE}&user_id=nobody", 404, "User wallet not found"),
    ],
)
def test_the_calculator_says_what_is_wrong(
    reader: Browser, billing: Billing, query: str, status: int, words: str
) -> None:
    billing.catalog()
    assert words in reader.page(f"/catalogue/prices/calculator{query}", status).text


def test_a_price_list_is_read_shown_and_approved(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    form = operator.page("/catalogue/price-lists/new").form("/console/catalogue/price-lists/new")
    file = (io.BytesIO(json.dumps(LIST).encode()), "prices.json")
    page = operator.follow(operator.send(form, step="do", tokens_per_dollar="1000", list=file))
    assert "No price has changed" in page.text
    assert "New prices 2" in page.text
    assert "gpt-5" in page.text
    assert list(billing.container.catalog.current.rate_cards) == []
    for part in ("new", "skipped"):
        operator.page(f"/catalogue/price-lists/1?part={part}")
    done = operator.follow(operator.change("/catalogue/price-lists/approve/1", reason="reviewed"))
    assert "Made: 2 prices." in done.text
    models = {card.model for card in billing.container.catalog.current.rate_cards}
    assert "gpt-5" in models
    assert "approved" in operator.page("/catalogue/price-lists").text
    # Sent once more, from a page that was left open, it answers as the first time.
    assert operator.change("/catalogue/price-lists/approve/1", reason="again").status_code == 303
    assert {card.model for card in billing.container.catalog.current.rate_cards} == models


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "Must be chosen."), (b"{", "Not valid JSON"), (b"[]", "it is a JSON object"), (b"\xff", "Must be UTF-8.")],
)
def test_a_list_that_cannot_be_read_is_refused(operator: Browser, content: bytes, words: str) -> None:
    form = operator.page("/catalogue/price-lists/new").form("/console/catalogue/price-lists/new")
    page = Page.of(
        operator.send(form, step="do", tokens_per_dollar="1000", list=(io.BytesIO(content), "prices.json")), 400
    )
    assert words in page.text
    assert page.form("/console/catalogue/price-lists/new").value("tokens_per_dollar") == "1000"


def test_a_list_may_be_large_and_other_forms_may_not(operator: Browser) -> None:
    form = operator.page("/catalogue/price-lists/new").form("/console/catalogue/price-lists/new")
    large = (io.BytesIO(b" " * 1_000_000 + b"{"), "prices.json")
    assert operator.send(form, step="do", tokens_per_dollar="1", list=large).status_code == 400
    too_large = (io.BytesIO(b" " * 17_000_000), "prices.json")
    assert operator.send(form, step="do", tokens_per_dollar="1", list=too_large).status_code == 413
    other = operator.page("/catalogue/features/new").form("/console/catalogue/features/new")
    assert operator.send(other, step="review", name="x" * 300_000).status_code == 413


def test_lists_have_pages(operator: Browser, billing: Billing) -> None:
    billing.catalog()
    for number in range(3):
        billing.execute(f"INSERT INTO packages (id, name) VALUES ('bundle-{number}', 'P')")
    page = operator.page("/catalogue/packages?limit=2")
    assert page.text.count("bundle-") == 2
    [following] = [link for link in page.links if "cursor=" in link]
    page = operator.page(following)
    assert "bundle-2" in page.text
    assert "End of the list" in page.text
    assert "/console/catalogue/packages?limit=2" in page.links
    assert operator.get("/catalogue/packages?cursor=nonsense").status_code == 400
    assert operator.get("/catalogue/packages?limit=0").status_code == 400
