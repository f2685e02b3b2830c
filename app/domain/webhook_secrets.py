"""Signatures as Standard Webhooks defines them: HMAC-SHA256 over id, timestamp and body, with one or several secrets.

A secret is `whsec_` followed by the base64 of 24 to 64 bytes.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence

PREFIX = "whsec_"
BYTES_MIN, BYTES_MAX = 24, 64
BYTES_NEW = 32
# Secrets that an endpoint can have at the same time, during rotations.
SECRETS_MAX = 5


def new_secret() -> str:
    return PREFIX + b64encode(secrets.token_bytes(BYTES_NEW)).decode()


def checked_secret(value: object) -> str:
    """Check a secret supplied by an operator. Raises ValueError, whose text never contains the secret."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")  # noqa: TRY004
    try:
        key = b64decode(value.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not value.startswith(PREFIX) or not BYTES_MIN <= len(key) <= BYTES_MAX:
        raise ValueError(f"Must be {PREFIX} and the base64 of {BYTES_MIN} to {BYTES_MAX} bytes.")
    return value


def signed_headers(secrets: Sequence[str], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers with which a receiver verifies the sender and recognises repeats. Each secret adds a signature."""
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = [hmac.digest(b64decode(secret.removeprefix(PREFIX)), content, "sha256") for secret in secrets]
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(signature).decode()}" for signature in signatures),
    }
