"""Auto top-up: asked for once at a time, within the caps of a month, and stopped when nothing comes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from app.domain.balance_rules import Owner, RequestState, TopUpRequest
from app.domain.errors import NotFound, WalletNotFound
from app.domain.postings import Posting, PostingKind
from tests.support import PACKAGE, Billing, assert_conserved
from tests.webhooks_shop import TOKEN, Webhooks


@pytest.fixture
def hooks(billing: Billing) -> Webhooks:
    """The wallet `user-1` with 1,000 tokens."""
    billing.catalog(basis_points=None)
    billing.wallet(tokens=1_000)
    return Webhooks(billing)


def requests(hooks: Webhooks) -> list[TopUpRequest]:
    """Oldest first."""
    return list(hooks.container.top_up_requests.list(100).items)[::-1]


def states(hooks: Webhooks) -> list[RequestState]:
    return [request.state for request in requests(hooks)]


def answer(hooks: Webhooks, request: TopUpRequest, user_id: str = "user-1") -> None:
    """What a receiver does: the top-up that is asked for, under the reference that is given."""
    hooks.container.postings.post(Posting(user_id, PostingKind.TOP_UP, request.amount_micros, request.reference))


def later(hooks: Webhooks) -> None:
    """The time of what is open is over, and so are all pauses; then what beat does."""
    hooks.billing.execute_in_postgres("UPDATE top_up_requests SET expires_at = now() WHERE state = 'open'")
    hooks.billing.execute_in_postgres("UPDATE wallet_watches SET next_request_at = now()")
    hooks.container.top_up_requests.look_after()


def test_one_request_at_a_time_until_its_top_up_comes(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=100, tokens=500)
    hooks.spend(900)
    assert requests(hooks) == []
    hooks.spend(50)
    hooks.spend(10)
    [request] = requests(hooks)
    [told] = hooks.data("topup.requested")
    assert told == {
        "user_id": "user-1",
        "request_id": str(request.id),
        "reference": f"auto-top-up-{request.id}",
        "token": 500,
        "balance_token": 50,
        "below_token": 100,
        "requests_of_month": 1,
        "requests_per_month": 10,
        "token_of_month": 500,
        "token_per_month": 1_000_000,
        "expires_at": told["expires_at"],
    }
    # Delivered twice, answered twice, posted once.
    for _ in range(2):
        answer(hooks, request)
    [request] = requests(hooks)
    assert (request.state, request.transaction_id) == (RequestState.ANSWERED, hooks.billing.ledger()[-1].id)
    assert hooks.billing.balance().posted_micros == 540 * TOKEN
    hooks.spend(450)
    assert states(hooks) == [RequestState.ANSWERED, RequestState.OPEN]
    assert_conserved(hooks.billing, "user-1")


def test_it_asks_again_while_the_balance_is_still_below(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=200, tokens=200)
    hooks.spend(1_250)
    answer(hooks, requests(hooks)[-1])
    answer(hooks, requests(hooks)[-1])
    assert states(hooks) == [RequestState.ANSWERED, RequestState.ANSWERED, RequestState.OPEN]


def test_the_cap_of_a_month_in_requests_is_told_once(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=100, tokens=1, requests_per_month=3)
    hooks.spend(950)
    for _ in range(3):
        answer(hooks, requests(hooks)[-1])
    hooks.spend(1)
    hooks.container.top_up_requests.look_after()
    assert len(requests(hooks)) == 3
    [told] = hooks.data("topup.stopped")
    assert (told["reason"], told["requests_of_month"], told["requests_per_month"]) == ("monthly_cap", 3, 3)
    # What was asked for before this month counts no more.
    hooks.billing.execute_in_postgres("UPDATE top_up_requests SET requested_at = requested_at - interval '32 days'")
    hooks.billing.execute_in_postgres("UPDATE wallet_watches SET capped_month = capped_month - 32")
    hooks.container.top_up_requests.look_after()
    assert len(requests(hooks)) == 4


def test_the_cap_of_a_month_in_tokens(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=10_000, tokens=400, token_per_month=1_000)
    hooks.spend(1)
    for _ in range(5):
        if requests(hooks)[-1].state is RequestState.OPEN:
            answer(hooks, requests(hooks)[-1])
    assert states(hooks) == [RequestState.ANSWERED] * 2
    [told] = hooks.data("topup.stopped")
    assert (told["token_of_month"], told["token_per_month"]) == (800, 1_000)


def test_what_was_not_answered_counts_towards_the_month_and_what_was_declined_does_not(hooks: Webhooks) -> None:
    """It may yet be paid."""
    hooks.auto_top_up(below=100, tokens=500, requests_per_month=2, failures_max=50)
    hooks.spend(950)
    hooks.container.top_up_requests.decline(requests(hooks)[-1].id, "Card refused")
    for _ in range(4):
        later(hooks)
    assert states(hooks) == [RequestState.DECLINED, RequestState.UNANSWERED, RequestState.UNANSWERED]
    # The one that ran out is declined after all: there is room for another.
    hooks.container.top_up_requests.decline(requests(hooks)[-1].id, "Card refused")
    hooks.billing.execute_in_postgres("UPDATE wallet_watches SET capped_month = NULL")
    later(hooks)
    assert len(requests(hooks)) == 4


def test_it_stops_after_so_many_without_an_answer_and_says_so(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=100, tokens=500, failures_max=2)
    hooks.spend(950)
    for _ in range(5):
        later(hooks)
    assert states(hooks) == [RequestState.UNANSWERED] * 2
    [told] = hooks.data("topup.stopped")
    assert (told["reason"], told["failed_requests"], told["reference"]) == (
        "unanswered",
        2,
        requests(hooks)[-1].reference,
    )
    standing = hooks.container.balance_rules.of_wallet("user-1").standing
    assert (standing.failed_requests, standing.stopped_reason) == (2, "unanswered")
    hooks.spend(1)
    assert len(requests(hooks)) == 2
    # An operator has it go on.
    resumed = hooks.container.top_up_requests.resume("user-1")
    assert (resumed.failed_requests, resumed.stopped_at) == (0, None)
    assert states(hooks)[-1] is RequestState.OPEN


def test_a_late_top_up_still_answers_and_has_it_go_on(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=100, tokens=500, failures_max=1)
    hooks.spend(950)
    later(hooks)
    assert hooks.container.balance_rules.of_wallet("user-1").standing.stopped_at is not None
    answer(hooks, requests(hooks)[0])
    assert states(hooks) == [RequestState.ANSWERED]
    assert hooks.container.balance_rules.of_wallet("user-1").standing.stopped_at is None
    hooks.spend(500)
    assert states(hooks)[-1] is RequestState.OPEN


def test_after_a_decline_it_waits_and_after_some_it_stops(hooks: Webhooks) -> None:
    hooks.auto_top_up(below=100, tokens=500, failures_max=2)
    hooks.spend(950)
    declined = hooks.container.top_up_requests.decline(requests(hooks)[0].id, "Card refused")
    assert (declined.state, declined.reason) == (RequestState.DECLINED, "Card refused")
    # Once more changes nothing.
    hooks.container.top_up_requests.decline(requests(hooks)[0].id, "Card refused")
    hooks.spend(1)
    hooks.container.top_up_requests.look_after()
    standing = hooks.container.balance_rules.of_wallet("user-1").standing
    assert len(requests(hooks)) == standing.failed_requests == 1
    assert standing.next_request_at is not None
    assert (standing.next_request_at - datetime.now(UTC)).total_seconds() > 3_500
    later(hooks)
    hooks.container.top_up_requests.decline(requests(hooks)[-1].id, "Card refused")
    later(hooks)
    assert states(hooks) == [RequestState.DECLINED] * 2
    assert [told["reason"] for told in hooks.data("topup.stopped")] == ["declined"]


def test_wallets_that_are_below_already_are_seen_to(hooks: Webhooks) -> None:
    for i in range(5):
        hooks.billing.wallet(f"poor-{i}", tokens=i * 10)
    hooks.container.wallet_admin.update("poor-1", {"status": "suspended"})
    hooks.auto_top_up(below=25, tokens=5, owner=Owner(package_id=PACKAGE))
    hooks.container.balance_rules.set_auto_top_up(Owner(user_id="poor-2"), None)
    assert requests(hooks) == []
    for _ in range(2):
        hooks.container.top_up_requests.look_after()
    assert [request.user_id for request in requests(hooks)] == ["poor-0"]


def test_of_another_package_nothing_is_asked(hooks: Webhooks) -> None:
    hooks.billing.execute_in_postgres("INSERT INTO packages (id, name) VALUES ('other', 'Other')")
    hooks.auto_top_up(below=100, tokens=500, owner=Owner(package_id="other"))
    hooks.spend(950)
    assert requests(hooks) == []
    hooks.container.wallet_admin.update("user-1", {"package_id": "other"})
    assert states(hooks) == [RequestState.OPEN]


def test_a_wallet_that_somebody_keeps_holds_up_no_other(hooks: Webhooks) -> None:
    hooks.billing.wallet("user-2", tokens=10)
    hooks.billing.wallet("user-3", tokens=10)
    hooks.auto_top_up(below=100, tokens=500, owner=Owner(package_id=PACKAGE))
    with hooks.container.engine.connect() as connection:
        connection.execute(sa.text("SELECT FROM wallets WHERE wallet_id = 'user-2' FOR UPDATE"))
        hooks.container.top_up_requests.look_after()
        assert [request.user_id for request in requests(hooks)] == ["user-3"]
        connection.rollback()
    hooks.container.top_up_requests.look_after()
    assert sorted(request.user_id for request in requests(hooks)) == ["user-2", "user-3"]


def test_what_isnt_there(hooks: Webhooks) -> None:
    with pytest.raises(NotFound):
        hooks.container.top_up_requests.decline(UUID(int=7), "No")
    with pytest.raises(NotFound):
        hooks.container.top_up_requests.get(UUID(int=7))
    with pytest.raises(WalletNotFound):
        hooks.container.top_up_requests.resume("nobody")
    with pytest.raises(WalletNotFound):
        hooks.auto_top_up(below=1, tokens=1, owner=Owner(user_id="nobody"))
    with pytest.raises(NotFound):
        hooks.auto_top_up(below=1, tokens=1, owner=Owner(package_id="nothing"))
    with pytest.raises(NotFound):
        hooks.container.balance_rules.remove_auto_top_up(Owner(user_id="user-1"))
