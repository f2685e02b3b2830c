"""Signatures: by the example of the specification, and by the library that receivers use."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.domain.webhook_secrets import checked_secret, new_secret, signed_headers

# The first example that the specification's own libraries are tested with.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EXAMPLE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specifications_example() -> None:
    assert signed_headers([SECRET], *EXAMPLE) == {
        "webhook-id": EXAMPLE[0],
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_every_secret_verifies_during_a_rotation_and_no_other() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    body = '{"type": "wallet.depleted", "data": {"user_id": "Jürgen"}}'.encode()
    headers = signed_headers([new, old], "01a2", int(time.time()), body)
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers)["data"]["user_id"] == "Jürgen"
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body + b" ", headers)


def test_new_secrets_are_good_and_differ() -> None:
    assert len({checked_secret(new_secret()) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "value",
    [
        "",
        None,
        17,
        "whsec_",
        "whsec_not base64!",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_c2hvcnQ=",
        "whsec_" + "QUFB" * 22,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
    ],
)
def test_what_is_no_secret(value: object) -> None:
    with pytest.raises(ValueError, match="Must be") as caught:
        checked_secret(value)
    assert value in ("", "whsec_") or str(value) not in str(caught.value)
