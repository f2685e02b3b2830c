"""API keys: which there are, who made them and when they were last used; made, rotated, revoked.

A key is shown only once, in the answer to the form that makes it: it isn't stored, so that page can't be shown again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, url_for

from app.console import text
from app.console.access import acting, needs, services
from app.console.changes import Done, Review, change
from app.console.filters import Filters
from app.console.forms import REASON, Choice, Field, Form, Kind, identifier, moment, plain
from app.console.pages import page
from app.console.paging import paged
from app.domain.audit import AuditFilter
from app.domain.errors import Invalid
from app.domain.keys import (
    NAME_LENGTH_MAX,
    OVERLAP_SECONDS_DEFAULT,
    SCOPES_OF_KIND,
    KeyKind,
    KeyScope,
    in_order,
    key_name,
    scopes_of,
)
from app.operations.keys import MadeKey
from app.stores.postgres.api_keys import KeyFilter, KeyRow, KeyState
from app.wire.cursors import NEWEST_FIRST

blueprint = Blueprint("keys", __name__, url_prefix="/keys")

ENTRIES_SHOWN = 20
HOUR_SECONDS, DAY_SECONDS = 3_600, 86_400
_KINDS: Sequence[Choice] = ((KeyKind.SERVICE, "service server"), (KeyKind.OPERATOR, "operator"))
_STATES: Sequence[Choice] = [(state, state) for state in KeyState]
_SCOPES: Sequence[Choice] = [
    (scope, f"{scope} ({'service server' if scope in SCOPES_OF_KIND[KeyKind.SERVICE] else 'operator'})")
    for scope in KeyScope
]
_OVERLAPS: Sequence[Choice] = (
    ("0", "not at all"),
    (str(HOUR_SECONDS), "an hour"),
    (str(OVERLAP_SECONDS_DEFAULT), "a day"),
    (str(7 * DAY_SECONDS), "a week"),
    (str(30 * DAY_SECONDS), "30 days"),
)
_TONES = {KeyState.ACTIVE: "good", KeyState.EXPIRED: "warn", KeyState.REVOKED: ""}
_EXPIRES = Field(
    "expires_at", "Expires", moment, is_required=False, unit="UTC", help="A day, or a day and a time. Empty: never."
)
FILTERS = Filters(
    Field("name", "Name", identifier(NAME_LENGTH_MAX), is_required=False),
    Field("kind", "For", plain, Kind.CHOICE, is_required=False, choices=_KINDS),
    Field("state", "State", plain, Kind.CHOICE, is_required=False, choices=_STATES),
)
_NEW = Form(
    (
        Field("name", "Name", key_name, help="It stands in the ledger and the audit log for whatever is done by it."),
        Field("kind", "For a", plain, Kind.CHOICE, choices=_KINDS),
        Field(
            "scopes",
            "What it may do",
            KeyScope,
            Kind.MANY,
            is_required=False,
            choices=_SCOPES,
            help="Nothing chosen for a service server: all that service servers do. An operator's key needs some.",
        ),
        _EXPIRES,
        REASON,
    )
)
_ROTATE = Form(
    (
        Field(
            "overlap_seconds",
            "The old key goes on working for",
            int,
            Kind.CHOICE,
            choices=_OVERLAPS,
            default=str(OVERLAP_SECONDS_DEFAULT),
        ),
        Field(
            "expires_at",
            "The new one expires",
            moment,
            is_required=False,
            unit="UTC",
            help="Empty: it lives as long as the old one was made for.",
        ),
        REASON,
    )
)
_REVOKE = Form((REASON,))


@blueprint.get("")
@needs(KeyScope.KEYS)
def index() -> Response:
    filtered = FILTERS.read()
    found = None
    if filtered.is_valid:
        wanted, keys = KeyFilter(**filtered.values), services().key_admin
        found = paged(NEWEST_FIRST, lambda limit, before: keys.list(limit, before, wanted))
    return page("keys/index.html", filtered.status, filtered=filtered, paged=found, tones=_TONES, in_order=in_order)


@blueprint.get("/key/<id:key_id>")
@needs(KeyScope.KEYS)
def show(key_id: str) -> Response:
    key = services().key_admin.get(key_id)
    return page("keys/show.html", key=key, facts=_facts(key), tones=_TONES, entries=_entries(key_id))


@blueprint.route("/new", methods=["GET", "POST"])
@needs(KeyScope.KEYS)
def new() -> Response:
    def perform(values: Mapping[str, Any]) -> Done:
        kind = KeyKind(values["kind"])
        made = services().key_admin.create(
            values["name"], kind, _scopes(values), expires_at=values["expires_at"], caller=acting(values)
        )
        return _told(made, f"Key {made.row.name} was made.")

    return change(
        _NEW,
        title="New key",
        action="Make it",
        back=url_for("keys.index"),
        review=_review,
        perform=perform,
        intro="The key is shown once, right after it was made. Nobody can show it again, as only its hash is kept.",
    )


@blueprint.route("/rotate/<id:key_id>", methods=["GET", "POST"])
@needs(KeyScope.KEYS)
def rotate(key_id: str) -> Response:
    key = services().key_admin.get(key_id)

    def review(values: Mapping[str, Any]) -> Review:
        seconds = values["overlap_seconds"]
        end = services().clock.now() + timedelta(seconds=seconds)
        until = f"until {text.moment(end)} UTC" if seconds else "no longer, from within a second on"
        return Review(
            f"The key {key.name} gets a successor of the same name and scopes. The old one works {until}.",
            [*_uses(key), ("Reason", values["reason"])],
            warning=None if seconds else "Whoever uses the old key is refused at once.",
        )

    def perform(values: Mapping[str, Any]) -> Done:
        made = services().key_admin.rotate(
            key_id,
            overlap_seconds=values["overlap_seconds"],
            expires_at=values["expires_at"],
            caller=acting(values),
        )
        return _told(made, f"Key {key.name} was rotated.")

    return change(
        _ROTATE,
        title=f"Rotate key {key.name} ({key_id})",
        action="Rotate it",
        back=url_for("keys.show", key_id=key_id),
        review=review,
        perform=perform,
        intro=_intro(key),
    )


@blueprint.route("/revoke/<id:key_id>", methods=["GET", "POST"])
@needs(KeyScope.KEYS)
def revoke(key_id: str) -> Response:
    key = services().key_admin.get(key_id)

    def perform(values: Mapping[str, Any]) -> Done:
        services().key_admin.revoke(key_id, caller=acting(values))
        return Done(url_for("keys.show", key_id=key_id), f"Key {key.name} was revoked.")

    return change(
        _REVOKE,
        title=f"Revoke key {key.name} ({key_id})",
        action="Revoke it",
        back=url_for("keys.show", key_id=key_id),
        review=lambda values: Review(
            f"The key {key.name} opens nothing any more, anywhere, from within a second on. This can't be undone.",
            [*_uses(key), ("Reason", values["reason"])],
            warning="It was used in the last hour." if _is_in_use(key) else None,
        ),
        perform=perform,
        intro=_intro(key),
        is_dangerous=True,
    )


def _intro(key: KeyRow) -> str:
    """What operators should know before they change a key: what it allows, and whether it is in use."""
    may_do = ", ".join(in_order(key.scopes))
    used = "It was never used."
    if key.last_used_at is not None:
        used = f"It was last used {text.ago(key.last_used_at, services().clock.now())}, from {key.last_used_address}."
    return f"It is for {dict(_KINDS)[key.kind]}s and may do: {may_do}. {used}"


def _told(made: MadeKey, message: str) -> Done:
    """The page that shows the new key. Reloading it leads to the page about the key, which doesn't show it."""
    location = url_for("keys.show", key_id=made.row.id)
    answer = page("keys/made.html", made=made, message=message, location=location)
    return Done(location, f"{message} It was shown once; if it got lost, rotate it.", answer)


def _scopes(values: Mapping[str, Any]) -> frozenset[KeyScope]:
    """Raises Invalid."""
    kind, chosen = KeyKind(values["kind"]), values["scopes"]
    if not chosen and kind is KeyKind.SERVICE:
        return SCOPES_OF_KIND[kind]
    try:
        return scopes_of(kind, chosen)
    except ValueError as error:
        raise Invalid(errors={"scopes": [str(error)]}) from None


def _review(values: Mapping[str, Any]) -> Review:
    scopes, expires_at = in_order(_scopes(values)), values["expires_at"]
    return Review(
        f"The key {values['name']} is made, for {dict(_KINDS)[values['kind']]}s. It works at once, everywhere.",
        [
            ("It may do", ", ".join(scopes)),
            ("Expires", "never" if expires_at is None else f"{text.moment(expires_at)} UTC"),
            ("Reason", values["reason"]),
        ],
        warning="It may make keys of any scope that it has." if KeyScope.KEYS in scopes else None,
    )


def _facts(key: KeyRow) -> Sequence[tuple[str, Any]]:
    where = "SERVER_API_KEY" if key.kind is KeyKind.SERVICE else "ADMIN_API_KEY"
    return [
        ("Id", key.id),
        ("For a", dict(_KINDS)[key.kind]),
        ("May do", ", ".join(in_order(key.scopes))),
        ("Kept in", where if key.is_of_environment else "the database, as a hash"),
        ("Made by", key.created_by or "-"),
        *_uses(key),
    ]


def _uses(key: KeyRow) -> Sequence[tuple[str, Any]]:
    if key.last_used_at is None:
        return [("Last used", "never")]
    return [("Last used", f"{text.moment(key.last_used_at)} UTC"), ("From", key.last_used_address or "-")]


def _is_in_use(key: KeyRow) -> bool:
    now = services().clock.now()
    return key.last_used_at is not None and now - key.last_used_at < timedelta(seconds=HOUR_SECONDS)


def _entries(key_id: str) -> Sequence[Any]:
    """The audit entries about a key, newest first."""
    wanted = AuditFilter(subject_kind="key", subject_id=key_id)
    return services().audit_log.list(wanted, ENTRIES_SHOWN).items
