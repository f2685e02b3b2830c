"""The arithmetic of the benchmark's report, and the requests its generators send. No timing is asserted anywhere."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from benchmarks import report, wrk
from benchmarks.ledgers import Settled, lags_seconds
from benchmarks.load import Plan, key_of, run, templates_of

PLAN = Plan(
    port=1,
    kind="end",
    clients=2,
    seconds=0.2,
    warmup_seconds=0.0,
    api_key="key",
    user_ids=["u-0", "u-1", "u-2"],
    feature_endpoint_id="f",
    run_id="run",
)


def changed(**fields: object) -> Plan:
    return Plan(**{**PLAN.__dict__, **fields})


class TestFigures:
    def test_ratios_are_taken_within_rounds(self) -> None:
        assert report.ratios([10, 30], [5, 10]) == [2, 3]
        with pytest.raises(ValueError, match="shorter"):
            report.ratios([10, 30], [5])

    def test_a_spread_is_the_median_and_its_range(self) -> None:
        assert report.spread([3, 1, 2]) == "2.00 (1.00-3.00)"
        assert report.spread([1234.4]) == "1,234"
        assert report.spread([]) == "-"

    def test_a_percentile_is_one_of_the_values(self) -> None:
        values = list(range(100, 0, -1))
        assert report.percentile(values, 0.99) == 100
        assert report.percentile(values, 0.5) == 51
        assert report.percentile([7], 0.99) == 7
        with pytest.raises(ValueError, match="nothing"):
            report.percentile([], 0.5)

    @pytest.mark.parametrize(
        ("values", "is_most", "is_reached"),
        [([1, 3, 2], False, True), ([1, 3, 1.9], False, False), ([1, 3, 2], True, True), ([2.1], True, False)],
    )
    def test_a_goal_is_reached_by_its_median(self, values: list[float], is_most: bool, is_reached: bool) -> None:
        goal = report.Goal("g", values, 2, is_most=is_most)
        assert goal.is_reached is is_reached
        assert goal.cells[-1] == ("yes" if is_reached else "no")
        assert goal.as_json()["is_reached"] is is_reached

    def test_nothing_measured_is_nothing_reached(self) -> None:
        assert not report.Goal("g", [], 2, is_most=True).is_reached
        assert report.Goal("g", [], 2).as_json()["median"] is None

    def test_ends_per_second_count_to_the_last_commit(self) -> None:
        assert Settled(300, 3, begun_at=10.0, first_at=11.0, last_at=13.0).per_second == 100
        assert Settled(0, 0, 10.0, 10.0, 10.0).per_second == 0

    def test_a_lag_is_from_the_answer_to_the_commit(self) -> None:
        answered = {"a": 10.0, "b": 11.0, "never settled": 12.0}
        assert lags_seconds(answered, {"a": 10.5, "b": 10.9, "of others": 1.0}) == [0.5, 0.0]


class TestFiles:
    def test_json_and_markdown_are_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
        written = report.save("bench", "# Report", {"goals": [report.Goal("g", [1.5], 1).as_json()]})
        assert [path.name for path in written] == ["bench.md", "bench.json"]
        assert written[0].read_text() == "# Report\n"
        assert json.loads(written[1].read_text())["goals"][0]["median"] == 1.5

    def test_a_table_is_markdown(self) -> None:
        lines = report.table(["", "n"], [["row", "1"], ["b", "1,000"]]).splitlines()
        assert lines == ["|     |     n |", "| --- | ----: |", "| row |     1 |", "| b   | 1,000 |"]


class TestRequests:
    def test_each_end_has_a_key_of_its_own_and_a_true_length(self) -> None:
        templates = templates_of(PLAN)
        assert len(templates) == 3
        first = templates[0].replace(b"########", b"%08d" % 7)
        head, _, body = first.partition(b"\r\n\r\n")
        assert f"Idempotency-Key: {key_of('run', 7)}".encode() in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body)["user_id"] == "u-0"

    def test_a_batch_carries_as_many_ends_with_different_keys(self) -> None:
        [template] = templates_of(changed(kind="batch", ends_per_batch=3))
        body = template.replace(b"########", b"00000001").partition(b"\r\n\r\n")[2]
        ends = json.loads(body)["ends"]
        assert [end["user_id"] for end in ends] == PLAN.user_ids
        assert len({end["idempotency_key"] for end in ends}) == 3

    def test_wrk_gets_the_same_bytes(self) -> None:
        data = bytes(range(256))
        text = wrk._lua_text(data)
        assert text.startswith('"\\000\\001')
        assert "\n" not in text
        assert text.count('"') == 2

    def test_wrk_knows_no_rate(self) -> None:
        with pytest.raises(ValueError, match="rate"):
            wrk.run(changed(rate=5))


class TestLoad:
    """Against a server that answers each request, and counts."""

    @pytest.fixture
    def server(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        return listener

    def test_a_closed_loop_counts_what_was_answered(self, server: socket.socket) -> None:
        result = run(changed(port=server.getsockname()[1]))
        assert 0 < result.requests <= result.requests_total
        assert result.failures == 0
        assert result.answered_at == {}

    def test_at_a_rate_as_many_are_sent_as_are_due(self, server: socket.socket) -> None:
        result = run(changed(port=server.getsockname()[1], rate=50.0, seconds=0.5, keeps_answered_at=True))
        assert result.requests_total == 25
        assert sorted(result.answered_at) == [key_of("run", n) for n in range(25)]

    def test_a_failed_answer_is_told(self, server: socket.socket) -> None:
        result = run(changed(port=server.getsockname()[1], kind="batch", ends_per_batch=2, rate=20.0))
        assert result.failures == result.requests_total == 4


def _serve(listener: socket.socket) -> None:
    body = b'{"success":true}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection: socket.socket, answer: bytes) -> None:
    with connection:
        while connection.recv(65_536):
            connection.sendall(answer)
