"""The clients: seeded threads that start, end, cancel, correct, top up, and repeat calls until they are answered.

Every end and top-up carries a key. A missing answer or a 5xx means that the result is unknown: the call is repeated
with the same key, later in the run or at the latest when it comes to rest.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import httpx

from tests.faults import corrections, prices
from tests.faults.book import INTERNAL_ERROR, MICROS, Book, Chargeback, End, PricedEnd, TopUp, WalletModel
from tests.faults.stack_under_test import ADMIN_KEY, SERVER_KEY

FEATURE = "feature-chaos"
INPUT_TOKENS = 3
USAGE_FIELDS = (
    "input_token", "output_token", "cached_input_token", "cache_write_token", "reasoning_token", "requests",
)  # fmt: skip
HOLD_SECONDS_MAX = 2
# Longer than the server lets a request wait for its stores.
ANSWER_SECONDS = 8
OPEN_ENDS_PER_CLIENT_MAX = 50
# More bystander wallets than one fault uses, so that each of their ends is for a wallet that was idle for long.
PROBE_WALLETS = 24


def company(book: Book) -> None:
    """The wallets: one that everybody uses, rich ones, poor ones that run into debt, and some with an overdraft
    limit.
    """
    book.add_wallet(WalletModel("hot", 5_000_000 * MICROS))
    for i in range(16):
        book.add_wallet(WalletModel(f"rich-{i}", 1_000_000 * MICROS))
    for i in range(8):
        book.add_wallet(WalletModel(f"poor-{i}", 200 * MICROS))
    for i in range(4):
        book.add_wallet(WalletModel(f"overdraft-{i}", 100 * MICROS, overdraft_micros=500 * MICROS))
    # Wallets whose batches also contain ends that can't be settled.
    for i in range(3):
        book.add_wallet(WalletModel(f"poisoned-{i}", 1_000_000 * MICROS))
    # Shows when the server has recovered from a fault.
    book.add_wallet(WalletModel("canary", 1_000_000 * MICROS, is_public=False))
    for i in range(PROBE_WALLETS):
        book.add_wallet(WalletModel(f"probe-{i}", 10_000 * MICROS, is_public=False))
    # Wallets that belong to single faults.
    for user_id in ("forgotten", "sent-again", "unheard", "spooled"):
        book.add_wallet(WalletModel(user_id, 1_000_000 * MICROS, is_public=False))
    for user_id in ("storm", "storm-neighbour"):
        book.add_wallet(WalletModel(user_id, 0, is_public=False))


class Caller:
    """Sends single calls and records the results."""

    def __init__(self, book: Book, urls: list[str], rng: random.Random) -> None:
        self.book = book
        self.rng = rng
        self._clients = [httpx.Client(base_url=url, timeout=ANSWER_SECONDS) for url in urls]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def call(
        self, path: str, body: dict[str, Any], *, key: str | None = None, api: int | None = None
    ) -> tuple[int, dict[str, Any], str]:
        """Status, body, and the name of the API; status 0 when no answer came."""
        chosen = self.rng.randrange(len(self._clients)) if api is None else api
        headers = {"x-server-api-key": SERVER_KEY, "x-admin-api-key": ADMIN_KEY}
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            response = self._clients[chosen].post(path, json=body, headers=headers)
            status, answered = response.status_code, response.json()
        except (httpx.TransportError, ValueError):
            status, answered = 0, {}
        self.book.count("top-ups" if path.endswith("/top-ups") else path, status)
        return status, answered, f"api-{chosen}"

    def send_end(self, end: End) -> None:
        knew_keys = self.book.knows_keys
        status, body, via = self.call("/api/token-process/end", end_body(end), key=end.key)
        self.book.answered(end, status, body, via, knew_keys=knew_keys)

    def send_batch(self, ends: list[End]) -> None:
        knew_keys = self.book.knows_keys
        bodies = [{**end_body(end), "idempotency_key": end.key} for end in ends]
        status, body, via = self.call("/api/token-process/end/batch", {"ends": bodies})
        results = body["data"]["results"] if status == 200 else [{}] * len(ends)
        for end, result in zip(ends, results, strict=True):
            self.book.answered(end, result.get("status", status), result, f"{via} batch", knew_keys=knew_keys)

    def send_top_up(self, top_up: TopUp) -> None:
        status, body, via = self.call(
            f"/api/admin/wallets/{top_up.user_id}/top-ups",
            {"token": top_up.tokens, "reference": top_up.reference},
        )
        self.book.note(f"top-up {top_up.reference} {top_up.user_id} {top_up.tokens} via {via}: {status}")
        if status in (200, 201):
            top_up.is_acknowledged = True
        elif status == INTERNAL_ERROR:
            self.book.violate("crash", f"top-up {top_up.reference} was answered 500 {body.get('request_id')}")
        elif 0 < status < 500:
            self.book.violate("refused", f"top-up {top_up.reference} was answered {status} {body.get('message')}")

    def send_catalog(self, path: str, body: dict[str, Any]) -> None:
        status, answered, via = self.call(path, body)
        self.book.note(f"{path} {body} via {via}: {status or 'no answer'}")
        if status == INTERNAL_ERROR:
            self.book.violate("crash", f"{path} {body} was answered 500 {answered.get('request_id')}")
        elif 0 < status < 500 and status != 201:
            self.book.violate("refused", f"{path} {body} was answered {status} {answered.get('message')}")

    def start(self, user_id: str, hold_tokens: int = 0) -> tuple[int, dict[str, Any]]:
        body: dict[str, Any] = {"user_id": user_id, "feature_endpoint_id": FEATURE}
        if hold_tokens:
            body |= {"hold_token": hold_tokens, "hold_seconds": self.rng.randint(1, HOLD_SECONDS_MAX)}
        status, answered, via = self.call("/api/token-process/start", body)
        data: dict[str, Any] = answered.get("data") or {}
        self.book.note(f"start {user_id} hold {hold_tokens} via {via}: {status or 'no answer'} {data.get('status')}")
        if status == INTERNAL_ERROR:
            self.book.violate("crash", f"start of {user_id} was answered 500 {answered.get('request_id')}")
        if 0 < status < 500 and status != 200:
            self.book.violate("refused", f"start of {user_id} was answered {status} {answered.get('message')}")
        if data.get("status") == "access-able":
            floor_micros = -self.book.wallets[user_id].overdraft_micros
            if round(data["token"] * MICROS) < floor_micros:
                self.book.violate("hold", f"start of {user_id} was granted and leaves {data['token']}")
        return status, data

    def contradict(self, end: End, output_tokens: int, *, knew_keys: bool) -> int:
        """Send another body under the key of an answered end. Returns the status."""
        other = End(end.key, end.user_id, output_tokens, end.process_id)
        status, _, via = self.call("/api/token-process/end", end_body(other), key=end.key)
        self.book.note(f"contradict {end.key} via {via}: {status or 'no answer'}")
        if not (knew_keys and self.book.knows_keys) and (status in (0, 200) or status >= 500):
            self.book.maybe_reused[end.key] = other.cost_micros
            if status == 200:
                self.book.reused[end.key] = other.cost_micros
        elif 0 < status < 500 and status != 409:
            self.book.violate("conflict", f"another body under {end.key} was answered {status}", end.key)
        return status

    def look(self, user_id: str, api: int) -> tuple[int, dict[str, Any]]:
        """One API's answer about a wallet."""
        body = {"user_id": user_id, "feature_endpoint_id": FEATURE}
        status, answered, _ = self.call("/api/token-process/start", body, api=api)
        return status, answered.get("data") or {}


def end_body(end: End) -> dict[str, Any]:
    body: dict[str, Any] = {
        "user_id": end.user_id,
        "feature_endpoint_id": FEATURE,
        "input_token": INPUT_TOKENS,
        "output_token": end.output_tokens,
    }
    if isinstance(end, PricedEnd):
        body |= {"model": end.model, **dict(zip(USAGE_FIELDS, end.usage, strict=True))}
    return body if end.process_id is None else {**body, "process_id": end.process_id}


class LoadThread(threading.Thread):
    def __init__(self, number: int, book: Book, urls: list[str], seed: int, running: threading.Event) -> None:
        super().__init__(name=f"load-{number}", daemon=True)
        self._number = number
        self._urls = urls
        self._rng = random.Random(f"{seed}/{number}")
        self._book = book
        self._caller = Caller(book, urls, self._rng)
        self._running = running
        self._idle = threading.Event()
        self._stopping = threading.Event()
        self._made = 0
        self._mine: list[End] = []
        self._users = [user for user, wallet in book.wallets.items() if wallet.is_public]

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._running.is_set():
                    self._idle.set()
                    self._running.wait(0.1)
                    continue
                self._idle.clear()
                self._act()
                time.sleep(self._rng.uniform(0, 0.08))
        except Exception as error:
            self._book.violate("harness", f"{self.name} failed: {error!r}")
            raise
        finally:
            self._idle.set()
            self._caller.close()

    def wait_idle(self) -> bool:
        return self._idle.wait(2 * ANSWER_SECONDS)

    def stop(self) -> None:
        self._stopping.set()

    def _act(self) -> None:
        actions = {
            self._run_feature: 30,
            self._end: 24,
            self._priced_end: 12,
            self._batch: 6,
            self._repeat: 18,
            self._contradict: 4,
            self._top_up: 12,
            self._change_prices: 2,
            self._correct: 10,
            self._charge_back: 3,
        }
        [action] = self._rng.choices(list(actions), weights=list(actions.values()))
        action()

    def _user(self) -> str:
        return "hot" if self._rng.random() < 0.15 else self._rng.choice(self._users)

    def _new_end(self, user_id: str, process_id: str | None = None) -> End:
        self._made += 1
        end = End(
            key=f"key-{self._number}-{self._made}",
            user_id=user_id,
            output_tokens=self._rng.randint(1, 400),
            process_id=process_id,
        )
        self._mine.append(end)
        return self._book.add_end(end)

    def _run_feature(self) -> None:
        """Start, with or without a hold; then end, cancel, or let the hold expire."""
        user_id = self._user()
        _, data = self._caller.start(user_id, self._rng.choice([0, 20, 110]))
        if data.get("status") != "access-able":
            return
        process_id = data.get("process_id")
        what = self._rng.random()
        if what < 0.75:
            self._caller.send_end(self._new_end(user_id, process_id))
        elif what < 0.9 and process_id is not None:
            body = {"user_id": user_id, "process_id": process_id}
            status, _, via = self._caller.call("/api/token-process/cancel", body)
            self._book.note(f"cancel {user_id} via {via}: {status or 'no answer'}")

    def _end(self) -> None:
        self._caller.send_end(self._new_end(self._user()))

    def _priced_end(self) -> None:
        self._caller.send_end(self._new_priced_end(self._user()))

    def _new_priced_end(self, user_id: str) -> End:
        self._made += 1
        usage = prices.new_usage(self._rng)
        end = PricedEnd(
            f"key-{self._number}-{self._made}", user_id, usage[1], model=self._rng.choice(prices.MODELS), usage=usage
        )
        self._mine.append(end)
        return self._book.add_end(end)

    def _change_prices(self) -> None:
        """Add a price or a profit rule. It doesn't matter whether that succeeds: each end's row names the price that it
        met.
        """
        if self._rng.random() < 0.7:
            self._caller.send_catalog("/api/admin/prices", prices.new_price(self._rng))
        else:
            self._caller.send_catalog("/api/admin/profit-rules", prices.new_rule(self._rng))

    def _batch(self) -> None:
        ends = [self._new_end(self._user()) for _ in range(self._rng.randint(2, 12))]
        ends += [self._new_priced_end(self._user()) for _ in range(self._rng.randint(0, 3))]
        if self._rng.random() < 0.3:
            ends.append(ends[0])
        self._caller.send_batch(ends)

    def _repeat(self) -> None:
        """Repeat an end, preferably an unanswered one, sometimes to both APIs at the same time."""
        waiting = [end for end in self._mine[-OPEN_ENDS_PER_CLIENT_MAX:] if end.is_open]
        recent = waiting or self._mine[-OPEN_ENDS_PER_CLIENT_MAX:]
        if not recent:
            return
        end = self._rng.choice(recent)
        if self._rng.random() < 0.3:
            twin = threading.Thread(target=self._send_twin, args=(end, self._rng.random()), daemon=True)
            twin.start()
            self._caller.send_end(end)
            twin.join()
        else:
            self._caller.send_end(end)

    def _send_twin(self, end: End, seed: float) -> None:
        caller = Caller(self._book, self._urls, random.Random(seed))
        caller.send_end(end)
        caller.close()

    def _contradict(self) -> None:
        """Once the first body has been answered, another body under the same key must be refused."""
        answered = [
            end
            for end in self._mine[-OPEN_ENDS_PER_CLIENT_MAX:]
            # For an end with a price the cost of the other body isn't known.
            if end.answer is not None and not isinstance(end, PricedEnd)
        ]
        if not answered:
            return
        end = self._rng.choice(answered)
        self._caller.contradict(end, end.output_tokens + 1, knew_keys=self._book.knows_keys)

    def _top_up(self) -> None:
        mine = f"top-{self._number}-"
        waiting = [top_up for top_up in self._book.open_top_ups() if top_up.reference.startswith(mine)]
        if waiting:
            self._caller.send_top_up(self._rng.choice(waiting))
            return
        self._made += 1
        needy = [user for user in self._users if user.startswith(("poor", "overdraft"))]
        top_up = TopUp(f"top-{self._number}-{self._made}", self._rng.choice(needy), self._rng.randint(20, 300))
        self._caller.send_top_up(self._book.add_top_up(top_up))

    def _correct(self) -> None:
        """Correct one of our ends, for the first time or again; or repeat a correction, answered or not."""
        mine = self._mine[-OPEN_ENDS_PER_CLIENT_MAX:]
        asked = [correction for end in mine for correction in self._book.corrections_of(end.key)]
        again = [each for each in asked if not each.is_acknowledged] or (asked if self._rng.random() < 0.2 else [])
        if again:
            corrections.send(self._caller, self._rng.choice(again))
            return
        # Prefer an end that was already reversed: amendments come after the reversal.
        corrected = [end for end in mine if self._book.corrections_of(end.key)]
        chosen = corrected if corrected and self._rng.random() < 0.6 else mine
        end = self._rng.choice(chosen) if chosen else None
        if end is None or end.key in self._book.maybe_reused:
            return
        if (correction := corrections.next_of(self._book, end, self._rng)) is not None:
            corrections.send(self._caller, self._book.add_correction(correction))

    def _charge_back(self) -> None:
        """Charge tokens back from a wallet that has few, or repeat a chargeback."""
        mine = f"dispute-{self._number}-"
        made = [each for reference, each in self._book.chargebacks.copy().items() if reference.startswith(mine)]
        again = [each for each in made if not each.is_acknowledged] or (made if self._rng.random() < 0.3 else [])
        if again:
            corrections.send_chargeback(self._caller, self._rng.choice(again))
            return
        self._made += 1
        needy = [user for user in self._users if user.startswith(("poor", "overdraft"))]
        chargeback = Chargeback(f"{mine}{self._made}", self._rng.choice(needy), self._rng.randint(1, 60))
        corrections.send_chargeback(self._caller, self._book.add_chargeback(chargeback))


class Load:
    """All client threads, which run, pause and stop together."""

    def __init__(self, book: Book, urls: list[str], *, seed: int, clients: int) -> None:
        self._running = threading.Event()
        self._threads = [LoadThread(i, book, urls, seed, self._running) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        self._running.set()

    def pause(self) -> None:
        """Returns when every client has got its answer or given up waiting."""
        self._running.clear()
        time.sleep(0.05)
        for thread in self._threads:
            thread.wait_idle()

    def stop(self) -> None:
        self._running.clear()
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.join(2 * ANSWER_SECONDS)
