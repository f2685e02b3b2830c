"""API keys: their form, their scopes, and the caller that a key stands for.

A key is `tt_service_<id>_<secret>` or `tt_operator_<id>_<secret>`. The id is public: lists, logs and the audit log name
a key by its id. The secret has 256 random bits, so storing the plain SHA-256 of the whole key is enough; keys are
looked up by that hash.

Whoever changes something is a `Caller`. Use cases take one, store `caller.actor` with what they enter, and pass it to
the audit log (`app/stores/postgres/audit.py`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from app.domain.errors import KeyNotAllowed


class KeyKind(StrEnum):
    SERVICE = "service"
    OPERATOR = "operator"


class KeyScope(StrEnum):
    """What a key can be allowed to do. `app/http/scopes.py` says which scope each route needs."""

    BILLING = "billing"
    """Start, end, cancel, holds and reversals of own runs."""
    ESTIMATE = "estimate"

    READ = "read"
    """Reading everything except keys, the audit log and metrics."""
    WALLETS = "wallets"
    """Wallets and everything posted to them, including corrections and repricings."""
    FAILED_ENDS = "failed-ends"
    CATALOG = "catalog"
    WEBHOOKS = "webhooks"
    KEYS = "keys"
    AUDIT = "audit"
    METRICS = "metrics"


_OF_SERVICES = frozenset({KeyScope.BILLING, KeyScope.ESTIMATE})
SCOPES_OF_KIND: Mapping[KeyKind, frozenset[KeyScope]] = {
    KeyKind.SERVICE: _OF_SERVICES,
    KeyKind.OPERATOR: frozenset(KeyScope) - _OF_SERVICES,
}

# Names, and also ids, of the keys of SERVER_API_KEY and ADMIN_API_KEY.
ENVIRONMENT_NAMES: Mapping[KeyKind, str] = {KeyKind.SERVICE: "server", KeyKind.OPERATOR: "admin"}
COMMAND_NAME = "cli"
SYSTEM_NAME = "tokentill"
# Names that no key may have: its ledger entries would look like somebody else's.
RESERVED_NAMES = frozenset({*ENVIRONMENT_NAMES.values(), COMMAND_NAME, SYSTEM_NAME})

NAME_LENGTH_MAX = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

ID_LENGTH = 10
SECRET_LENGTH = 43
_ID_CHARACTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_SECRET_CHARACTERS = string.ascii_letters + string.digits

OVERLAP_SECONDS_DEFAULT = 86_400
OVERLAP_SECONDS_MAX = 30 * 86_400


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in force as each process knows it: by its digest, without its text."""

    id: str
    name: str
    kind: KeyKind
    scopes: frozenset[KeyScope]
    digest: bytes
    expires_at: datetime | None = None
    is_of_environment: bool = False

    @property
    def fingerprint(self) -> str:
        """Identifies, in a console session, the key that opened it. The digest can't be computed from it."""
        return fingerprint_of(self.digest)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: by which key, on whose behalf, from where, and in which request.

    `name` is the key's name; `cli` for a command, `tokentill` for the server itself. These two have no kind.
    """

    name: str
    kind: KeyKind | None = None
    scopes: frozenset[KeyScope] = frozenset()
    key_id: str | None = None
    address: str | None = None
    """The client's IP address; for a command `user@host`."""
    person: str | None = None
    """The person behind the call, as the caller states: the header X-Actor, or a command's --by."""
    request_id: str | None = None
    reason: str | None = None
    """The reason, where the caller states one apart from the change itself; the audit log stores it with the change."""

    @property
    def actor(self) -> str:
        """As the ledger and the audit log store it. A key's name has no slash, so the first slash separates name and
        person.
        """
        return actor_of(self.name, self.person)

    def check(self, scope: KeyScope) -> None:
        """Raises KeyNotAllowed."""
        if scope not in self.scopes:
            raise KeyNotAllowed(f"This key lacks the scope {scope}")


# The caller of what the server does by itself, and of tests for which the caller doesn't matter.
SYSTEM = Caller(SYSTEM_NAME)


def actor_of(name: str, person: str | None) -> str:
    return name if person is None else f"{name}/{person}"


def caller_again(actor: str | None, request_id: str | None) -> Caller:
    """The caller of work that continues later, as far as it was stored with that work."""
    if actor is None:
        return replace(SYSTEM, request_id=request_id)
    name, slash, person = actor.partition("/")
    return Caller(name, person=person if slash else None, request_id=request_id)


def command_caller(person: str, address: str) -> Caller:
    """The caller of a command. Whoever runs one has access to the stores anyway, so it may do everything."""
    return Caller(COMMAND_NAME, scopes=frozenset(KeyScope), address=address, person=person)


def key_name(value: object) -> str:
    """The name of a key to be made. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("Must be a string.")  # noqa: TRY004
    if not 1 <= len(value) <= NAME_LENGTH_MAX:
        raise ValueError(f"Must have 1 to {NAME_LENGTH_MAX} characters.")
    if not _NAME.fullmatch(value):
        raise ValueError("Must have letters, digits, dots, dashes and underscores only, a letter or digit first.")
    if value.lower() in RESERVED_NAMES:
        raise ValueError(f"Must not be {value}: that is somebody else's name in the ledger.")
    return value


def scopes_of(kind: KeyKind, names: Iterable[object]) -> frozenset[KeyScope]:
    """Some of a kind's scopes. Raises ValueError."""
    possible = SCOPES_OF_KIND[kind]
    given = list(names)
    if not given or any(name not in possible for name in given):
        raise ValueError(f"Must be some of {', '.join(scope for scope in KeyScope if scope in possible)}.")
    return frozenset(KeyScope(str(name)) for name in given)


def in_order(scopes: Iterable[KeyScope]) -> list[KeyScope]:
    """Scopes in the order in which they are always shown."""
    found = frozenset(scopes)
    return [scope for scope in KeyScope if scope in found]


def make_key(kind: KeyKind) -> tuple[str, str]:
    """A new key: its id, and its whole text, which is stored nowhere."""
    key_id = _random(_ID_CHARACTERS, ID_LENGTH)
    return key_id, f"tt_{kind}_{key_id}_{_random(_SECRET_CHARACTERS, SECRET_LENGTH)}"


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def fingerprint_of(digest: bytes) -> str:
    return hashlib.sha256(b"session of " + digest).hexdigest()


def _random(characters: str, length: int) -> str:
    return "".join(secrets.choice(characters) for _ in range(length))
