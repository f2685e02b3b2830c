"""Price lists over fake books: a draft changes no price, an approval makes what was drafted, all or none, and once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.catalog import usage_impact
from app.catalog.price_imports import ATTEMPTS, EFFECTS_MAX, NAMED_MAX, USAGE_DAYS, ImportRequest, PriceImports
from app.catalog.price_lists import Format, Selection
from app.domain.audit import Change
from app.domain.catalog import FeatureEndpoint
from app.domain.errors import (
    AlreadyExists,
    Invalid,
    NotFound,
    PriceImportOutdated,
    PriceListRefused,
    PricesJump,
    Unavailable,
)
from app.domain.keys import Caller
from app.domain.price_limits import RATE_MICROS_MAX
from app.domain.pricing import ProfitRule
from app.domain.rates import Rates
from app.domain.usage import Usage
from app.stores.postgres.price_imports import PriceImport, UsageSum
from tests.unit.fake_catalog import FakeCatalogBooks, FakePastUsage, changes_of
from tests.unit.fakes import NOW, TOKEN

ANN, BEN = Caller("ann"), Caller("ben")
LATER = NOW + timedelta(days=30)
# A dollar for a million tokens of input.
DOLLAR = 1_000 * TOKEN


def listed(**dollars: str) -> dict[str, Any]:
    """A list of models: what a million tokens of input cost. Four of output are as much again."""
    return {
        name.replace("_", "-"): {
            "mode": "chat",
            "litellm_provider": "openai",
            "input_cost_per_token": Decimal(price) / 1_000_000,
            "output_cost_per_token": 4 * Decimal(price) / 1_000_000,
        }
        for name, price in dollars.items()
    }


def asked(document: Any, **values: Any) -> ImportRequest:
    usual = {"micros_per_dollar": DOLLAR, "selection": Selection(with_dated=False)}
    return ImportRequest(document, Format.LITELLM, **{**usual, **values})


def dearest() -> dict[str, Any]:
    """What a run of it costs at most can just be counted."""
    free = {"mode": "chat", "litellm_provider": "openai", "output_cost_per_token": 0}
    dear = {**free, "input_cost_per_token": Decimal("0.000001")}
    return {"document": {"dear": dear}, "micros_per_dollar": RATE_MICROS_MAX}


def used(user_id: str, model: str | None, output_tokens: int = 4, **values: Any) -> UsageSum:
    return UsageSum(user_id, "chat", model, values.pop("length_index", 0), 1, Usage(0, output_tokens, **values))


class World:
    """`gpt` costs a dollar, by price 1."""

    def __init__(self) -> None:
        self.books = FakeCatalogBooks()
        self.books.features = {"chat": FeatureEndpoint("chat", "Chat", TOKEN)}
        self.books.made_rules = [ProfitRule(7, 1_000, NOW - timedelta(days=1))]
        self.price("gpt", DOLLAR, effective_from=NOW - timedelta(days=1))
        self.past = FakePastUsage()
        changes = changes_of(self.books)
        self.imports = PriceImports(books=self.books, past=self.past, changes=changes, now=lambda: self.books.now)

    def price(self, model: str, micros: int, feature: str | None = None, **values: Any) -> None:
        moment = values.get("effective_from", self.books.now - timedelta(hours=1))
        rates = Rates(micros, 4 * micros)
        assert self.books.add_card(rates, feature_endpoint_id=feature, model=model, effective_from=moment)

    def draft(self, document: Any, **values: Any) -> PriceImport:
        return self.imports.draft(asked(document, **values), ANN)

    def approve(self, draft: PriceImport, **values: Any) -> PriceImport:
        self.books.steps.clear()
        return self.imports.approve(draft.id, caller=BEN, **values).price_import

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = [list(self.books.made_cards), dict(self.books.imports), list(self.books.audited), self.books.version]
        with pytest.raises(error) as refused:
            call()
        after = [self.books.made_cards, self.books.imports, self.books.audited, self.books.version]
        assert after == before
        assert "shown" not in self.books.steps
        return refused.value

    @property
    def models(self) -> list[tuple[str | None, int]]:
        """Of all prices but the first: what each costs in dollars."""
        return [(card.model, card.rates.input_micros_per_million // DOLLAR) for card in self.books.made_cards[1:]]


@pytest.fixture
def world() -> World:
    return World()


class TestDraft:
    def test_says_what_would_change_and_changes_nothing(self, world: World) -> None:
        world.price("same", DOLLAR)
        world.price("gone", DOLLAR)
        cards, version = list(world.books.made_cards), world.books.version
        draft = world.draft(listed(gpt="1.4", same="1", new="2", tiny="0") | {"draw": {"mode": "image_generation"}})
        assert (world.books.made_cards, world.books.version) == (cards, version)
        assert world.books.steps == ["took time", "committed"]
        assert (draft.state, draft.is_approved, draft.actor) == ("draft", False, "ann")
        assert draft.counts == {
            "changed": 1,
            "new": 2,
            "unchanged": 1,
            "kept": 1,
            "skipped": 1,
            "jumps": 0,
            "rounded": 0,
            "free": 1,
        }
        assert [(row["model"], row["today_id"], row["is_new"], row["is_jump"]) for row in draft.proposed] == [
            ("gpt", 1, False, False),
            ("new", None, True, False),
            ("tiny", None, True, False),
        ]
        assert draft.proposed[0]["rates"]["input_micros_per_million"] == DOLLAR * 14 // 10
        assert [each["new_micros"] for each in draft.proposed[0]["changes"]] == [DOLLAR * 14 // 10, DOLLAR * 56 // 10]
        assert draft.report["kept"] == [{"model": "gone", "price_id": 3}]
        assert draft.report["skipped"] == {"draw": "mode image_generation"}
        assert draft.report["free"] == ["tiny"]
        assert world.imports.get(draft.id) == draft

    def test_is_written_down_without_its_prices(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4"), feature_endpoint_id="chat", effective_from=LATER)
        after = {
            "format": "litellm",
            "feature_endpoint_id": "chat",
            "effective_from": LATER,
            "counts": draft.counts,
        }
        change = Change("price_import.drafted", "price_import", str(draft.id), after=after)
        assert world.books.audited == [("ann", change)]

    @pytest.mark.parametrize(
        ("dollars", "is_jump"), [("1.5", False), ("1.500001", True), ("0.5", False), ("0.499999", True), ("0", True)]
    )
    def test_more_than_half_up_or_down_is_a_jump(self, world: World, dollars: str, is_jump: bool) -> None:
        draft = world.draft(listed(gpt=dollars))
        assert (draft.proposed[0]["is_jump"], draft.counts["jumps"]) == (is_jump, int(is_jump))

    def test_is_compared_with_prices_as_they_will_be_at_its_moment(self, world: World) -> None:
        world.price("gpt", 2 * DOLLAR, effective_from=LATER - timedelta(days=1))
        assert world.draft(listed(gpt="1")).counts["unchanged"] == 1
        later = world.draft(listed(gpt="1"), effective_from=LATER)
        assert (later.counts["changed"], later.proposed[0]["today_id"]) == (1, 2)

    def test_of_one_feature_beside_what_its_runs_cost_today(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.2"), feature_endpoint_id="chat")
        assert [(row["is_new"], row["today_id"]) for row in draft.proposed] == [(True, 1)]
        # The price of all features isn't one that it keeps.
        assert draft.counts["kept"] == 0

    def test_keeps_only_what_was_asked_for(self, world: World) -> None:
        world.price("claude", DOLLAR)
        draft = world.draft(listed(gpt_5="1"), selection=Selection(models=("gpt*",), with_dated=False))
        assert [kept["model"] for kept in draft.report["kept"]] == ["gpt"]

    @pytest.mark.parametrize("moment", [NOW, NOW - timedelta(seconds=1)])
    def test_a_moment_that_is_not_to_come(self, world: World, moment: Any) -> None:
        error = world.refuses(Invalid, lambda: world.draft(listed(gpt="1.1"), effective_from=moment))
        assert list(error.errors) == ["effective_from"]

    def test_unknown_feature(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.draft(listed(gpt="1.1"), feature_endpoint_id="song"))
        assert error.errors == {"feature_endpoint_id": ["Unknown feature endpoint: song"]}

    def test_other_prices_from_the_same_moment_on(self, world: World) -> None:
        world.price("gpt", 2 * DOLLAR, effective_from=LATER)
        error = world.refuses(AlreadyExists, lambda: world.draft(listed(gpt="1", new="1"), effective_from=LATER))
        assert error.errors == {"effective_from": ["There are other prices from this moment on: gpt."]}

    def test_what_can_not_be_meant(self, world: World) -> None:
        error = world.refuses(PriceListRefused, lambda: world.draft(listed(gpt="-1")))
        assert "gpt.input_cost_per_token" in error.errors

    def test_no_run_may_cost_more_than_can_be_counted(self, world: World) -> None:
        """Alone it could not; with the profit of a rule that is or will be in force it could."""
        error = world.refuses(PriceListRefused, lambda: world.draft(**dearest()))
        assert list(error.errors) == ["dear"]
        # Nor that of one which no run of it could meet.
        world.books.made_rules = [ProfitRule(7, 1_000, LATER, model="gpt")]
        assert world.draft(**dearest()).counts["new"] == 1
        world.books.made_rules += [ProfitRule(8, 1_000, LATER, model="dear")]
        world.refuses(PriceListRefused, lambda: world.draft(**dearest()))

    def test_says_what_the_last_month_would_have_cost(self, world: World) -> None:
        world.past.used = [used("ann", "gpt"), used("ann", "gpt"), used("bob", "gpt", 40), used("bob", "other", 400)]
        report = world.draft(listed(gpt="1.5")).report["usage"]
        assert world.past.since[-1] == NOW - timedelta(days=USAGE_DAYS)
        # A thousandth of a token for a token of output: 4 of them, with 10 % profit.
        total = {"runs": 3, "old_cost_micros": 48 * 4_400, "new_cost_micros": 48 * 6_600}
        assert {name: report[name] for name in total} == total
        assert report["by_model"] == [{"feature_endpoint_id": "chat", "model": "gpt", **total}]
        assert [(each["user_id"], each["runs"], each["new_cost_micros"]) for each in report["by_user"]] == [
            ("bob", 1, 40 * 6_600),
            ("ann", 2, 8 * 6_600),
        ]
        assert (report["models"], report["users"]) == (1, 2)

    def test_of_many_users_those_that_it_changes_most(self, world: World) -> None:
        world.past.used = [used(f"user-{n}", "gpt", n) for n in range(1, EFFECTS_MAX + 6)]
        report = world.draft(listed(gpt="0.5")).report["usage"]
        assert (len(report["by_user"]), report["users"], report["runs"]) == (
            EFFECTS_MAX,
            EFFECTS_MAX + 5,
            EFFECTS_MAX + 5,
        )
        assert report["by_user"][0]["user_id"] == f"user-{EFFECTS_MAX + 5}"
        assert report["by_user"][-1]["user_id"] == "user-6"


class TestApproval:
    def test_makes_the_prices_from_now_on(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4", new="2"))
        world.books.now += timedelta(hours=1)
        approved = world.approve(draft)
        assert [(card.model, card.effective_from) for card in world.books.made_cards[1:]] == [
            ("gpt", world.books.now),
            ("new", world.books.now),
        ]
        assert (approved.state, approved.approved_by, approved.price_ids) == ("approved", "ben", [2, 3])
        assert world.imports.get(draft.id) == approved
        # Announced last, so that nobody waits for so many rows; shown once it is committed.
        assert world.books.steps == ["took time", "locked", "added cards", "announced", "committed", "shown"]

    def test_is_written_down(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4", new="2"))
        world.approve(draft)
        after = {
            "format": "litellm",
            "feature_endpoint_id": None,
            "effective_from": NOW,
            "counts": draft.counts,
            "prices": 2,
        }
        change = Change("price_import.approved", "price_import", str(draft.id), after=after)
        assert world.books.audited[1:] == [("ben", change)]

    def test_from_its_moment_and_for_its_feature(self, world: World) -> None:
        world.approve(world.draft(listed(gpt="1.4"), feature_endpoint_id="chat", effective_from=LATER))
        card = world.books.made_cards[-1]
        assert (card.feature_endpoint_id, card.effective_from) == ("chat", LATER)

    def test_once_more_is_the_same_answer(self, world: World) -> None:
        draft = world.draft(listed(gpt="2", new="2"))
        first = world.imports.approve(draft.id, allow_jumps=True, caller=BEN)
        cards, audited, version = list(world.books.made_cards), list(world.books.audited), world.books.version
        # Also without leave to jump, and once its prices were followed.
        world.price("gpt", 3 * DOLLAR, effective_from=NOW + timedelta(seconds=1))
        again = world.imports.approve(draft.id, caller=ANN)
        assert (first.replayed, again.replayed, again.price_import) == (False, True, first.price_import)
        assert (world.books.made_cards[:-1], world.books.audited, world.books.version) == (cards, audited, version)

    def test_of_two_at_once_the_second_finds_the_first(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The look before the transaction has told both that it is a draft."""
        draft = world.draft(listed(gpt="1.4"))
        approved = world.approve(draft)
        monkeypatch.setattr(world.books, "find_import", lambda _: draft)
        again = world.imports.approve(draft.id, caller=ANN)
        assert (again.replayed, again.price_import, len(world.books.made_cards)) == (True, approved, 2)

    def test_a_jump_has_to_be_allowed(self, world: World) -> None:
        world.price("big", DOLLAR)
        draft = world.draft(listed(gpt="1.4", big="2"))
        error = world.refuses(PricesJump, lambda: world.approve(draft))
        assert error.errors == {"allow_jumps": ["Not allowed, and these jump: big."]}
        world.approve(draft, allow_jumps=True)
        assert ("big", 2) in world.models

    def test_of_many_jumps_some_are_named(self, world: World) -> None:
        names = [f"m-{number:02}" for number in range(NAMED_MAX + 3)]
        for name in names:
            world.price(name, DOLLAR)
        draft = world.draft(listed(**dict.fromkeys(names, "2")))
        error = world.refuses(PricesJump, lambda: world.approve(draft))
        assert error.errors["allow_jumps"][0].endswith("m-19 and 3 more.")

    def test_outdated_once_a_price_is_another_one(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4", new="2"))
        world.books.now += timedelta(seconds=1)
        world.price("gpt", DOLLAR)
        error = world.refuses(PriceImportOutdated, lambda: world.approve(draft))
        assert error.errors == {"model": ["Priced anew meanwhile: gpt."]}
        assert not world.imports.get(draft.id).is_approved

    def test_or_once_a_new_one_is_covered_by_a_price(self, world: World) -> None:
        draft = world.draft(listed(new="2"))
        world.price("ne*", DOLLAR, effective_from=NOW - timedelta(seconds=1))
        world.refuses(PriceImportOutdated, lambda: world.approve(draft))

    def test_a_pattern_is_compared_with_its_own_price(self, world: World) -> None:
        """Not with that of the one model which is called as all of its models begin."""
        for model in ("gpt-202*", "gpt-202"):
            world.price(model, DOLLAR)
        draft = world.draft(listed(gpt="1.4"), selection=Selection())
        assert [(row["model"], row["today_id"]) for row in draft.proposed] == [("gpt", 1), ("gpt-202*", 2)]
        assert world.approve(draft).price_ids == [4, 5]

    def test_what_it_does_not_name_has_no_say(self, world: World) -> None:
        draft = world.draft(listed(new="2"))
        world.price("gpt", 2 * DOLLAR)
        assert world.approve(draft).is_approved

    @pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1)])
    def test_outdated_once_its_moment_has_come(self, world: World, late: timedelta) -> None:
        draft = world.draft(listed(gpt="1.4"), effective_from=LATER)
        world.books.now = LATER + late
        world.refuses(PriceImportOutdated, lambda: world.approve(draft))

    def test_other_prices_from_the_very_moment_on(self, world: World) -> None:
        """None of the two could be told to be meant."""
        draft = world.draft(listed(gpt="1.4"))
        world.books.made_cards = [replace(world.books.made_cards[0], effective_from=world.books.now)]
        error = world.refuses(AlreadyExists, lambda: world.approve(draft))
        assert list(error.errors) == ["effective_from"]

    def test_rules_made_meanwhile_may_make_it_too_dear(self, world: World) -> None:
        world.books.made_rules = []
        draft = world.draft(**dearest())
        world.books.made_rules = [ProfitRule(7, 1, LATER)]
        world.refuses(PriceListRefused, lambda: world.approve(draft))

    def test_of_what_there_is_not(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.imports.approve(9)
        with pytest.raises(NotFound):
            world.imports.get(9)

    def test_a_catalog_that_others_change_meanwhile_is_looked_at_again(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4"))
        world.books.meanwhile = [world.books.announce]
        approved = world.approve(draft)
        assert (approved.price_ids, world.models, world.books.version) == ([2], [("gpt", 1)], 2)
        assert world.books.steps.count("rolled back") == 1
        assert world.books.steps[-2:] == ["committed", "shown"]
        assert len(world.books.audited) == 2

    def test_but_not_for_ever(self, world: World) -> None:
        draft = world.draft(listed(gpt="1.4"))
        world.books.meanwhile = [world.books.announce] * ATTEMPTS
        world.refuses(Unavailable, lambda: world.approve(draft))
        assert world.books.steps.count("rolled back") == ATTEMPTS


def test_list_from_the_newest_on(world: World) -> None:
    for dollars in ("1.1", "1.2", "1.3"):
        world.draft(listed(gpt=dollars))
    first = world.imports.list(2)
    assert ([each.id for each in first.items], first.next_key) == ([3, 2], 2)
    assert [each.id for each in world.imports.list(2, 2).items] == [1]


class TestUsage:
    def test_is_read_in_slices_that_have_each_entry_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(usage_impact, "ENTRIES_PER_STATEMENT", 2)
        world.past.used = [used("ann", "gpt")] * 5
        assert world.draft(listed(gpt="1.5")).report["usage"]["runs"] == 5
        assert world.past.asked == [(1, 2), (3, 4), (5, 5)]
        # Numbers and times may be out of step; which entries count their own times say.
        first, *rest = world.past.since
        assert {each - first for each in rest} == {usage_impact.SPARE}

    def test_none_there_was(self, world: World) -> None:
        report = world.draft(listed(gpt="1.5")).report["usage"]
        assert (report["runs"], report["by_model"], world.past.asked) == (0, [], [])

    def test_is_not_read_where_nothing_would_change(self, world: World) -> None:
        world.draft(listed(gpt="1"))
        assert (world.past.since, world.past.asked) == ([], [])

    def test_of_a_model_without_a_price_cost_what_the_guide_says(self, world: World) -> None:
        world.past.used = [used("ann", "new")]
        report = world.draft(listed(new="1")).report["usage"]
        assert (report["old_cost_micros"], report["new_cost_micros"]) == (1_100_000, 17_600)

    def test_is_priced_by_the_length_of_its_input(self, world: World) -> None:
        long = listed(gpt="1")["gpt"] | {"input_cost_per_token_above_200k_tokens": Decimal("0.000002")}
        usage = {"input_tokens": 1_000}
        world.past.used = [
            UsageSum("ann", "chat", "gpt", index, 1, Usage(**usage, output_tokens=0)) for index in (0, 1)
        ]
        report = world.draft({"gpt": long}).report["usage"]
        # 1,000 micro-tokens for a token of input, and twice as much above 200,000 of them; 10 % each.
        assert (report["old_cost_micros"], report["new_cost_micros"]) == (2_200_000, 3_300_000)
