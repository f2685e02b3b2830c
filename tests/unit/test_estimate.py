"""Estimates over fake stores: what an end would answer, and that nothing of it stays."""

from __future__ import annotations

import pytest

from app.billing.end import EndService
from app.billing.end_decide import EndDecider
from app.billing.end_record import EndRecorder
from app.billing.estimate import EstimateRequest, EstimateService
from app.billing.pricer import Pricer
from app.catalog.prices import NewPrice
from app.domain.ends import EndRequest
from app.domain.errors import FeatureNotAvailable, Invalid, NotFound, ProcessOfAnotherUser, Unavailable, WalletNotFound
from app.domain.processes import new_process_id
from app.domain.rates import Rates
from app.domain.usage import Usage
from app.domain.wallets import Balance, Deduction
from tests.unit.fakes import (
    ALICE,
    FEATURE,
    NOW,
    TOKEN,
    FakeBalances,
    FakeCache,
    FakeCatalog,
    FakeDoorbell,
    FakeHoldService,
    FakeIntake,
    FakeLoader,
    FakeLooks,
    FakeSpool,
    gate,
    wallet,
)

RUN = Usage(120, 40)


class World:
    def __init__(self) -> None:
        self.balances = FakeBalances(wallet())
        self.cache = FakeCache()
        self.loader = FakeLoader(self.balances, self.cache)
        self.redis = gate()
        self.catalog = FakeCatalog()
        self.pricer = Pricer(catalog=self.catalog, now=lambda: NOW)
        self.service = EstimateService(
            pricer=self.pricer,
            catalog=self.catalog,
            looks=FakeLooks(self.cache),
            loader=self.loader,
            balances=self.balances,
            redis=self.redis,
        )

    def end(self, request: EndRequest) -> tuple[int, int, Deduction]:
        """What it really is answered."""
        holds = FakeHoldService()
        ends = EndService(
            pricer=self.pricer,
            catalog=self.catalog,
            decider=EndDecider(cache=self.cache, balances=self.balances, holds=holds, redis=self.redis),
            recorder=EndRecorder(
                intake=FakeIntake(),
                cache=self.cache,
                in_flight=self.cache,
                loader=self.loader,
                spool=FakeSpool(self.cache),
                redis=self.redis,
            ),
            loader=self.loader,
            holds=holds,
            redis=self.redis,
            doorbell=FakeDoorbell(),
            timeout_seconds=1,
        )
        answer = ends.end(request)
        return answer.cost_micros, answer.spendable_micros, answer.deduction


@pytest.fixture
def world() -> World:
    return World()


def of_alice(usage: Usage = RUN, process_id: str | None = None) -> EstimateRequest:
    return EstimateRequest(FEATURE, usage, user_id="alice", process_id=process_id)


class TestOfAWallet:
    @pytest.mark.parametrize("tokens", [100, 11, 10, 0])
    def test_it_says_what_an_end_answers_then(self, world: World, tokens: int) -> None:
        world.balances = world.service._balances = world.loader._balances = FakeBalances(wallet(tokens=tokens))
        said = world.service.estimate(of_alice())
        answered = world.end(EndRequest("alice", FEATURE, RUN))
        assert (said.quote.price.cost_micros, said.spendable_micros, said.deduction) == answered
        assert answered[2] is (Deduction.COVERED if tokens >= 11 else Deduction.FAILED)

    def test_nothing_of_it_stays(self, world: World) -> None:
        world.cache.balances[ALICE] = Balance(100 * TOKEN)
        first = world.service.estimate(of_alice())
        assert world.service.estimate(of_alice()) == first
        assert world.cache.spendable_micros() == 100 * TOKEN
        assert not world.cache.marks
        assert not world.cache.in_flight

    def test_a_run_draws_on_its_own_hold_first(self, world: World) -> None:
        mine, another = new_process_id("alice"), new_process_id("alice")
        world.cache.balances[ALICE] = Balance(20 * TOKEN, debt_micros=15 * TOKEN)
        world.cache.holds = {(ALICE, mine): 11 * TOKEN, (ALICE, another): 1 * TOKEN}
        # Debt doesn't take what the run has reserved; from another run it does.
        assert world.service.estimate(of_alice(process_id=mine)).deduction is Deduction.COVERED
        assert world.service.estimate(of_alice(process_id=another)).deduction is Deduction.FAILED

    def test_a_wallet_that_is_not_cached_is_loaded(self, world: World) -> None:
        assert world.service.estimate(of_alice()).spendable_micros == 89 * TOKEN
        assert world.cache.balances[ALICE].spendable_micros == 100 * TOKEN

    def test_one_that_can_not_be_cached_is_told_of_by_postgres(self, world: World) -> None:
        world.loader.refuses = {ALICE}
        assert world.service.estimate(of_alice()).spendable_micros == 89 * TOKEN

    def test_while_redis_is_away_postgres_tells(self, world: World) -> None:
        world.cache.is_away = True
        assert world.service.estimate(of_alice()).spendable_micros == 89 * TOKEN
        assert not world.redis.is_open
        # By now nobody asks Redis any more.
        world.cache.is_away = False
        world.cache.balances[ALICE] = Balance(1)
        assert world.service.estimate(of_alice()).spendable_micros == 89 * TOKEN

    @pytest.mark.parametrize("redis_is_away", [False, True])
    def test_a_wallet_that_there_is_not(self, world: World, redis_is_away: bool) -> None:
        world.cache.is_away = redis_is_away
        with pytest.raises(WalletNotFound):
            world.service.estimate(EstimateRequest(FEATURE, RUN, user_id="nobody"))

    def test_both_stores_away(self, world: World) -> None:
        world.cache.is_away = world.balances.is_away = True
        with pytest.raises(Unavailable):
            world.service.estimate(of_alice())

    def test_a_run_of_somebody_else(self, world: World) -> None:
        with pytest.raises(ProcessOfAnotherUser):
            world.service.estimate(of_alice(process_id=new_process_id("bob")))


class TestOfNoWallet:
    def test_only_the_price_is_told(self, world: World) -> None:
        world.cache.is_away = world.balances.is_away = True
        said = world.service.estimate(EstimateRequest(FEATURE, RUN))
        assert said.quote.price.cost_micros == 11 * TOKEN
        assert (said.spendable_micros, said.deduction) == (None, None)

    def test_a_draft_prices_as_if_it_were_made(self, world: World) -> None:
        draft = NewPrice(Rates(1_000_000 * TOKEN, 2_000_000 * TOKEN))
        said = world.service.estimate(EstimateRequest(FEATURE, RUN), draft)
        assert said.quote.is_draft
        assert said.quote.price.base_micros == (120 + 2 * 40) * TOKEN
        assert said.quote.price.profit_micros == 20 * TOKEN
        assert world.service.estimate(EstimateRequest(FEATURE, RUN)).quote.card is None

    def test_a_draft_that_could_not_be_made(self, world: World) -> None:
        with pytest.raises(Invalid):
            world.service.estimate(EstimateRequest(FEATURE, RUN), NewPrice(Rates(2**62, 0)))

    def test_a_feature_that_there_is_not(self, world: World) -> None:
        asked = EstimateRequest("video", RUN)
        with pytest.raises(FeatureNotAvailable):
            world.service.estimate(asked)
        with pytest.raises(NotFound) as found:
            world.service.explain(asked)
        assert found.value.errors == {"feature_endpoint_id": ["Unknown feature endpoint: video"]}
