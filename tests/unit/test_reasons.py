"""What SQL and Lua write as literals is what the enums of `app.domain.reasons` say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from app.domain.reasons import CacheVerdict, FailureReason
from tests.conftest import PROJECT

STORES = PROJECT / "app" / "stores"
QUERIES = sorted((STORES / "postgres").glob("*.py"))


def _written_to_last_error(sql: str) -> Iterator[str]:
    """The literals that `last_error` can get, and those it is compared with."""
    yield from re.findall(r"last_error\s*(?:=|<>|!=)\s*'(\w+)'", sql)
    for case in re.findall(r"last_error\s*=\s*CASE(.+?)\bEND\b", sql, re.S):
        yield from re.findall(r"(?:THEN|ELSE)\s+'(\w+)'", case)
    # `end_inbox` gets its first reason by its place in the list.
    yield from re.findall(r"CASE WHEN state = 'retrying' THEN '(\w+)' END", sql)


def test_failure_reasons_of_sql() -> None:
    found = [reason for path in QUERIES for reason in _written_to_last_error(path.read_text())]
    assert len(found) >= 8
    assert set(found) <= set(FailureReason), found


def test_every_literal_beside_last_error_is_looked_at() -> None:
    """A reason that is written in a way this test doesn't read would go unseen: it stands nowhere else as a literal."""
    for path in QUERIES:
        text = path.read_text()
        literals = [word for word in re.findall(r"['\"](\w+)['\"]", text) if word in set(FailureReason)]
        assert sorted(literals) == sorted(_written_to_last_error(text)), path.name


@pytest.mark.parametrize("script", ["start", "extend"])
def test_verdicts_of_lua(script: str) -> None:
    text = (STORES / "redis" / f"{script}.lua").read_text()
    found = set(re.findall(r"answer\('(\w+)'", text)) | set(re.findall(r"return \{'(seen)'", text))
    assert found <= set(CacheVerdict)
    assert found == (set(CacheVerdict) if script == "start" else {"granted", "denied", "seen"})


def test_no_reason_is_written_by_hand_in_python() -> None:
    elsewhere = [
        f"{path.relative_to(PROJECT)}: {word}"
        for folder in ("app", "worker")
        for path in (PROJECT / folder).rglob("*.py")
        if path.parent != STORES / "postgres" and path.name != "reasons.py"
        for word in re.findall(r"\"(\w+)\"", path.read_text())
        if word in set(FailureReason) - {FailureReason.WALLET_BUSY}  # Also the code of an error.
    ]
    assert elsewhere == []
