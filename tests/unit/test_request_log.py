"""Request lines: written by a thread of its own, all of them, and never at a request's expense."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.http import request_log
from app.http.request_log import RequestLog


@pytest.fixture(autouse=True)
def _wanted() -> Iterator[None]:
    logger = logging.getLogger(request_log.__name__)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


def add(log: RequestLog, request_id: str = "id-1") -> None:
    log.add(request_id, "POST", "/api/token-process/start", 200, 0.00126, address="192.0.2.1")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_says_what_it_did_before() -> None:
    stream = io.StringIO()
    log = RequestLog(stream)
    add(log)
    log.flush()
    [line] = lines(stream.getvalue())
    moment = line.pop("time")
    assert moment.startswith("20")
    assert moment.endswith("Z")
    assert line == {
        "method": "POST",
        "path": "/api/token-process/start",
        "status": 200,
        "duration_seconds": 0.0013,
        "address": "192.0.2.1",
        "request_id": "id-1",
        "level": "info",
        "logger": "app.http.request_log",
        "message": "request",
    }


def test_lines_are_written_soon_without_being_asked_for() -> None:
    stream = io.StringIO()
    log = RequestLog(stream)
    for i in range(3):
        add(log, f"id-{i}")
    over = time.monotonic() + 10
    while stream.getvalue().count("\n") < 3 and time.monotonic() < over:
        time.sleep(0.01)
    assert [line["request_id"] for line in lines(stream.getvalue())] == ["id-0", "id-1", "id-2"]


def test_what_is_not_wanted_is_not_kept() -> None:
    logging.getLogger(request_log.__name__).setLevel(logging.WARNING)
    stream = io.StringIO()
    log = RequestLog(stream)
    add(log)
    log.flush()
    assert not stream.getvalue()


def test_what_is_too_much_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(request_log, "PENDING_MAX", 2)
    monkeypatch.setattr(request_log, "WRITE_SECONDS", 60.0)
    stream = io.StringIO()
    log = RequestLog(stream)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(request_log.log, "warning", lambda event, **fields: told.append({"event": event, **fields}))
    for i in range(5):
        add(log, f"id-{i}")
    log.flush()
    assert len(lines(stream.getvalue())) == 2
    assert told == [{"event": "request_lines_dropped", "dropped": 3}]


def test_a_stream_that_takes_nothing_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise OSError("no space left on device")

    monkeypatch.setattr(request_log, "WRITE_SECONDS", 0.01)
    stream = Full()
    log = RequestLog(stream)
    over = time.monotonic() + 10
    while stream.writes < 2 and time.monotonic() < over:
        add(log)
        time.sleep(0.01)
    assert stream.writes >= 2


def _answer_and_end(path: str) -> None:
    logging.getLogger(request_log.__name__).setLevel(logging.INFO)
    add(RequestLog(Path(path).open("w")))  # noqa: SIM115


def test_a_process_that_ends_writes_its_last_lines(tmp_path: Path) -> None:
    # As Granian starts its workers.
    process = multiprocessing.get_context("spawn").Process(target=_answer_and_end, args=(str(tmp_path / "log"),))
    process.start()
    process.join(30)
    assert process.exitcode == os.EX_OK
    assert len(lines((tmp_path / "log").read_text())) == 1
