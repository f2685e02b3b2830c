"""A key's body is kept as a hash for ever, so what a hash covers can only change by a new version of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.ends import EndRequest
from app.domain.errors import Unavailable, UnknownPayloadVersion
from app.domain.usage import Usage

REQUEST = EndRequest("user", "feature", Usage(1, 2), "model", "process", idempotency_key="key", request_id="request")
BY_KIND = replace(REQUEST, usage=Usage(10, 5, 3, 2, 4, 6))


def test_no_version_ever_changes() -> None:
    assert REQUEST.payload_hash == "1:b24eda094bffac6df45e3cb6fb1a2e56351e65647407b9f1237a4b603d44edfd"
    assert BY_KIND.payload_hash == "2:b245ea99b822b89fa09cc77c9ecaabdc7224e056306e8d59ddddfcd840cce081"


def test_only_what_is_billed_counts() -> None:
    for request in (REQUEST, BY_KIND):
        same = replace(request, idempotency_key="other", request_id="other")
        assert same.has_payload(request.payload_hash)
        for name, value in {"user_id": "x", "feature_endpoint_id": "x", "model": None, "process_id": "x"}.items():
            assert not replace(request, **{name: value}).has_payload(request.payload_hash)  # type: ignore[arg-type]
        for name in Usage.__dataclass_fields__:
            usage = replace(request.usage, **{name: getattr(request.usage, name) + 1})
            assert not replace(request, usage=usage).has_payload(request.payload_hash), name


def test_a_body_that_says_nothing_by_kind_has_the_hash_it_always_had() -> None:
    """So a repeat is known as one whichever version the first call came to, and whether or not zeros are sent along."""
    assert replace(REQUEST, usage=Usage(1, 2, 0, 0, 0, 1)).payload_hash.startswith("1:")
    assert BY_KIND.payload_hash.startswith("2:")
    without = replace(BY_KIND, usage=Usage(10, 5))
    assert not BY_KIND.has_payload(without.payload_hash)
    assert not without.has_payload(BY_KIND.payload_hash)


@pytest.mark.parametrize("payload_hash", ["3:abc", "", "abc", ":"])
def test_a_hash_of_a_newer_version_is_not_compared(payload_hash: str) -> None:
    with pytest.raises(UnknownPayloadVersion):
        REQUEST.has_payload(payload_hash)
    # The caller repeats, and may reach a process of that version.
    assert issubclass(UnknownPayloadVersion, Unavailable)
