"""A key's body is kept as a hash for ever, so what a hash covers can only change by a new version of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain import ends
from app.domain.ends import EndRequest
from app.domain.errors import Unavailable, UnknownPayloadVersion

REQUEST = EndRequest("user", "feature", 1, 2, "model", "process", idempotency_key="key", request_id="request")


def test_version_one_never_changes() -> None:
    assert REQUEST.payload_hash == "1:b24eda094bffac6df45e3cb6fb1a2e56351e65647407b9f1237a4b603d44edfd"


def test_only_what_is_billed_counts() -> None:
    same = replace(REQUEST, idempotency_key="other", request_id="other")
    assert same.has_payload(REQUEST.payload_hash)
    others = {"user_id": "x", "feature_endpoint_id": "x", "input_tokens": 9, "output_tokens": 9, "model": None}
    for name, value in others.items():
        assert not replace(REQUEST, **{name: value}).has_payload(REQUEST.payload_hash)  # type: ignore[arg-type]


def test_a_hash_is_compared_in_the_version_it_was_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    old = REQUEST.payload_hash
    monkeypatch.setitem(ends._HASHED_FIELDS, "2", ("user_id", "request_id"))
    monkeypatch.setattr(ends, "PAYLOAD_VERSION", "2")
    repeat = replace(REQUEST)
    assert repeat.payload_hash.startswith("2:")
    assert repeat.has_payload(old)
    assert not replace(REQUEST, output_tokens=9).has_payload(old)
    assert repeat.has_payload(repeat.payload_hash)


@pytest.mark.parametrize("payload_hash", ["2:abc", "", "abc", ":"])
def test_a_hash_of_a_newer_version_is_not_compared(payload_hash: str) -> None:
    with pytest.raises(UnknownPayloadVersion):
        REQUEST.has_payload(payload_hash)
    # The caller repeats, and may reach a process of that version.
    assert issubclass(UnknownPayloadVersion, Unavailable)
