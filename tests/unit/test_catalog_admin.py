"""Feature endpoints, packages, profit rules and prices over fake books: what is refused, written down and announced."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.catalog.admin import CatalogAdmin
from app.catalog.prices import NewPrice, PriceAdmin
from app.domain.audit import Change
from app.domain.catalog import FeatureEndpoint, Package, Unpriced
from app.domain.errors import AlreadyExists, Invalid, NotFound, Unavailable
from app.domain.keys import Caller
from app.domain.price_limits import RATE_MICROS_MAX
from app.domain.rates import Rates, Tier
from app.domain.reports import Scope
from tests.unit.fake_catalog import FakeCatalogBooks, FakeCopy, changes_of
from tests.unit.fakes import NOW, TOKEN

ANN = Caller("ann")
CHAT, DRAW = FeatureEndpoint("chat", "Chat", TOKEN), FeatureEndpoint("draw", "Draw", TOKEN)
# Announced first: who changes the catalog next waits, and sees what this one has made. Shown once it is committed.
CHANGED = ["announced", "committed", "shown"]
REFUSED = ["announced", "rolled back"]
HIGHEST = Rates(RATE_MICROS_MAX, 0)


class World:
    """Two feature endpoints, of which a package has one."""

    def __init__(self) -> None:
        self.books = FakeCatalogBooks()
        self.copy = FakeCopy(self.books)
        changes = changes_of(self.books, self.copy)
        self.admin = CatalogAdmin(books=self.books, changes=changes, now=lambda: NOW)
        self.prices = PriceAdmin(books=self.books, changes=changes, now=lambda: NOW)
        self.books.features = {"chat": CHAT, "draw": DRAW}
        self.books.packages = {"basic": Package("basic", "Basic", ("chat",))}

    def refuses(self, error: type[Exception], call: Callable[[], object]) -> Any:
        """With all as it was."""
        before = (self.books.catalog(), list(self.books.audited))
        with pytest.raises(error) as refused:
            call()
        assert (self.books.catalog().features, self.books.catalog().packages) == (
            before[0].features,
            before[0].packages,
        )
        assert list(self.books.catalog().rate_cards) == list(before[0].rate_cards)
        assert list(self.books.catalog().profit_rules) == list(before[0].profit_rules)
        assert (self.books.version, self.books.audited) == (before[0].version, before[1])
        assert self.books.steps == REFUSED
        return refused.value

    @property
    def audited(self) -> list[Change]:
        return self.books.changes_by("ann")


@pytest.fixture
def world() -> World:
    return World()


class TestFeatures:
    def test_made(self, world: World) -> None:
        song = FeatureEndpoint("song", "Song", 2 * TOKEN, Unpriced.REFUSE, 60)
        assert world.admin.create_feature(song, ANN) == song
        assert (world.books.features["song"], world.books.steps) == (song, CHANGED)
        after = {"name": "Song", "min_micros": 2 * TOKEN, "unpriced": "refuse", "reversal_seconds": 60}
        assert world.audited == [Change("feature_endpoint.created", "feature_endpoint", "song", after=after)]

    def test_one_that_there_is_stays_as_it_is(self, world: World) -> None:
        other = FeatureEndpoint("chat", "Another", 0)
        world.refuses(AlreadyExists, lambda: world.admin.create_feature(other, ANN))

    def test_changed_with_what_it_was(self, world: World) -> None:
        changed = world.admin.update_feature("chat", {"min_micros": 0, "name": "Chat"}, ANN)
        assert changed == world.books.features["chat"] == FeatureEndpoint("chat", "Chat", 0)
        assert world.books.steps == CHANGED
        assert world.audited == [
            Change("feature_endpoint.updated", "feature_endpoint", "chat", {"min_micros": TOKEN}, {"min_micros": 0})
        ]

    def test_to_what_it_is_writes_nothing_down(self, world: World) -> None:
        assert world.admin.update_feature("chat", {"name": "Chat"}, ANN) == CHAT
        assert world.audited == []

    def test_nothing_given_announces_nothing(self, world: World) -> None:
        assert world.admin.update_feature("chat", {}, ANN) == CHAT
        assert (world.books.steps, world.audited) == ([], [])

    def test_unknown(self, world: World) -> None:
        world.refuses(NotFound, lambda: world.admin.update_feature("song", {"name": "x"}, ANN))
        with pytest.raises(NotFound):
            world.admin.update_feature("song", {}, ANN)

    def test_pages(self, world: World) -> None:
        first = world.admin.features(1)
        assert (first.items, first.next_key) == ([CHAT], "chat")
        second = world.admin.features(1, "chat")
        assert (second.items, second.next_key) == ([DRAW], None)


class TestPackages:
    def test_made(self, world: World) -> None:
        made = world.admin.create_package("pro", "Pro", ["draw", "chat", "draw"], ANN)
        assert made == world.books.packages["pro"] == Package("pro", "Pro", ("chat", "draw"))
        assert world.books.steps == CHANGED
        after = {"name": "Pro", "feature_endpoint_ids": ("chat", "draw")}
        assert world.audited == [Change("package.created", "package", "pro", after=after)]

    def test_one_that_there_is_stays_as_it_is(self, world: World) -> None:
        world.refuses(AlreadyExists, lambda: world.admin.create_package("basic", "Another", ["draw"], ANN))

    def test_unknown_features_are_named(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.admin.create_package("pro", "Pro", ["song", "chat", "film"], ANN))
        assert error.errors == {"feature_endpoint_ids": ["Unknown feature endpoint: film, song"]}

    def test_renamed_alone_it_includes_the_same(self, world: World) -> None:
        changed = world.admin.update_package("basic", name="Small", caller=ANN)
        assert changed == world.books.packages["basic"] == Package("basic", "Small", ("chat",))
        assert world.books.steps == CHANGED
        assert world.audited == [Change("package.updated", "package", "basic", {"name": "Basic"}, {"name": "Small"})]

    def test_what_it_includes_is_replaced(self, world: World) -> None:
        changed = world.admin.update_package("basic", feature_ids=["draw", "draw"], caller=ANN)
        assert changed == Package("basic", "Basic", ("draw",))
        before, after = {"feature_endpoint_ids": ("chat",)}, {"feature_endpoint_ids": ("draw",)}
        assert world.audited == [Change("package.updated", "package", "basic", before, after)]

    def test_it_may_become_empty(self, world: World) -> None:
        assert world.admin.update_package("basic", feature_ids=[]).feature_endpoint_ids == ()

    def test_to_what_it_is_writes_nothing_down(self, world: World) -> None:
        world.admin.update_package("basic", name="Basic", feature_ids=["chat"], caller=ANN)
        assert world.audited == []

    def test_nothing_given_announces_nothing(self, world: World) -> None:
        assert world.admin.update_package("basic") == world.books.packages["basic"]
        assert world.books.steps == []

    def test_refused(self, world: World) -> None:
        world.refuses(NotFound, lambda: world.admin.update_package("pro", name="x"))
        world.books.steps.clear()
        # Neither the half of it that could have been done.
        error = world.refuses(NotFound, lambda: world.admin.update_package("basic", name="x", feature_ids=["song"]))
        assert error.errors == {"feature_endpoint_ids": ["Unknown feature endpoint: song"]}
        with pytest.raises(NotFound):
            world.admin.update_package("pro")

    def test_pages(self, world: World) -> None:
        world.admin.create_package("pro", "Pro", [])
        assert [package.id for package in world.admin.packages(9).items] == ["basic", "pro"]
        assert world.admin.packages(1).next_key == "basic"
        assert [package.id for package in world.admin.packages(1, "basic").items] == ["pro"]


class TestRules:
    def test_made_from_now_on(self, world: World) -> None:
        rule = world.admin.create_rule(1_000, feature_endpoint_id="chat", model="gpt", caller=ANN)
        assert (rule.effective_from, rule.basis_points, rule.feature_endpoint_id, rule.model) == (
            NOW,
            1_000,
            "chat",
            "gpt",
        )
        assert (world.books.made_rules, world.books.steps) == ([rule], CHANGED)
        after = {"basis_points": 1_000, "effective_from": NOW, "feature_endpoint_id": "chat", "model": "gpt"}
        assert world.audited == [Change("profit_rule.created", "profit_rule", "1", after=after)]

    def test_a_second_for_the_same_follows_the_first(self, world: World) -> None:
        later = NOW + timedelta(days=1)
        made = [world.admin.create_rule(100), world.admin.create_rule(200, effective_from=later)]
        assert (world.books.made_rules, made[1].effective_from) == (made, later)

    def test_unknown_feature(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.admin.create_rule(1, feature_endpoint_id="song"))
        assert error.errors == {"feature_endpoint_id": ["Unknown feature endpoint: song"]}

    def test_no_run_may_cost_more_than_can_be_counted(self, world: World) -> None:
        world.prices.add(NewPrice(HIGHEST, "chat", "gpt"))
        world.books.steps.clear()
        error = world.refuses(Invalid, lambda: world.admin.create_rule(1, model="gpt"))
        assert list(error.errors) == ["percentage"]
        assert "price 1" in error.errors["percentage"][0]

    def test_nor_one_of_a_price_that_is_yet_to_come(self, world: World) -> None:
        world.prices.add(NewPrice(HIGHEST, effective_from=NOW + timedelta(days=9)))
        world.books.steps.clear()
        world.refuses(Invalid, lambda: world.admin.create_rule(1))

    def test_runs_that_it_can_not_meet_do_not_count(self, world: World) -> None:
        world.prices.add(NewPrice(HIGHEST, "draw", effective_from=NOW - timedelta(days=2)))
        assert world.admin.create_rule(1, feature_endpoint_id="chat").id == 1
        # By a price that another one has followed nothing is priced any more.
        world.prices.add(NewPrice(Rates(1, 1), "draw", effective_from=NOW - timedelta(days=1)))
        assert world.admin.create_rule(1, feature_endpoint_id="draw").id == 2

    def test_newest_first_by_scope(self, world: World) -> None:
        for feature, model in ((None, None), ("chat", None), ("chat", "gpt")):
            world.admin.create_rule(1, feature_endpoint_id=feature, model=model)
        assert [rule.id for rule in world.admin.rules(Scope(), 2).items] == [3, 2]
        assert world.admin.rules(Scope(), 2).next_key == 2
        assert [rule.id for rule in world.admin.rules(Scope(), 2, 2).items] == [1]
        assert [rule.id for rule in world.admin.rules(Scope("chat", "gpt"), 9).items] == [3]


class TestPrices:
    def test_added_from_now_on(self, world: World) -> None:
        rates = Rates(1, 0, request_micros=3, tiers=(Tier(1_000, 2),))
        card = world.prices.add(NewPrice(rates, "chat", "gpt*"), ANN)
        assert (card.rates, card.feature_endpoint_id, card.model, card.effective_from) == (rates, "chat", "gpt*", NOW)
        assert (world.books.made_cards, world.books.steps) == ([card], CHANGED)
        [change] = world.audited
        assert (change.action, change.subject_kind, change.subject_id) == ("price.created", "price", "1")
        told = dict(change.after or {})
        tiers = told.pop("tiers")
        assert (change.before, tiers[0]["above_input_tokens"], tiers[0]["input_micros_per_million"]) == (None, 1_000, 2)
        # What costs nothing, or what its whole costs, isn't told of.
        assert told == {
            "feature_endpoint_id": "chat",
            "model": "gpt*",
            "effective_from": NOW,
            "input_micros_per_million": 1,
            "request_micros": 3,
        }

    def test_from_its_moment_on(self, world: World) -> None:
        later = NOW + timedelta(days=1)
        assert world.prices.add(NewPrice(Rates(1, 1), effective_from=later)).effective_from == later

    def test_one_for_the_same_from_the_same_moment_on(self, world: World) -> None:
        world.prices.add(NewPrice(Rates(1, 1), "chat"))
        world.books.steps.clear()
        error = world.refuses(AlreadyExists, lambda: world.prices.add(NewPrice(Rates(2, 2), "chat"), ANN))
        assert list(error.errors) == ["effective_from"]

    def test_unknown_feature(self, world: World) -> None:
        error = world.refuses(NotFound, lambda: world.prices.add(NewPrice(Rates(1, 1), "song")))
        assert error.errors == {"feature_endpoint_id": ["Unknown feature endpoint: song"]}

    def test_no_run_may_cost_more_than_can_be_counted(self, world: World) -> None:
        world.admin.create_rule(1, model="gpt", effective_from=NOW + timedelta(days=9))
        world.books.steps.clear()
        error = world.refuses(Invalid, lambda: world.prices.add(NewPrice(HIGHEST, "chat", "gpt*"), ANN))
        assert list(error.errors) == ["input_per_million"]
        # Under no rule that is or will be in force it could.
        assert world.prices.add(NewPrice(HIGHEST, "chat", "other")).id == 1

    def test_newest_first_by_scope(self, world: World) -> None:
        for feature, model in ((None, None), ("chat", None), ("chat", "gpt")):
            world.prices.add(NewPrice(Rates(1, 1), feature, model))
        assert [card.id for card in world.prices.list(Scope(), 2).items] == [3, 2]
        assert world.prices.list(Scope(), 2).next_key == 2
        assert [card.id for card in world.prices.list(Scope("chat"), 9).items] == [3, 2]


class TestChanges:
    def test_a_copy_that_can_not_be_shown_the_change_undoes_nothing(self, world: World) -> None:
        world.copy.fails = True
        assert world.prices.add(NewPrice(Rates(1, 1))).id == 1
        assert world.books.steps == ["announced", "committed"]

    def test_without_postgres_nothing_is_shown(self, world: World) -> None:
        world.books.is_away = True
        with pytest.raises(Unavailable):
            world.prices.add(NewPrice(Rates(1, 1)))
        assert world.books.steps == []
