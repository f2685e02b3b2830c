"""Commands on API keys."""

from __future__ import annotations

from datetime import datetime

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.keys import (
    OVERLAP_SECONDS_DEFAULT,
    OVERLAP_SECONDS_MAX,
    SCOPES_OF_KIND,
    Caller,
    KeyKind,
    KeyScope,
    key_name,
    scopes_of,
)
from app.domain.pages import NEWEST
from app.operations.keys import MadeKey
from app.stores.postgres.api_keys import KeyFilter, KeyState
from app.wire.keys import key_answer, made_key_answer

NAME = support.Checked("name", key_name)

key_id = click.argument("key_id", type=support.ID)
expires_at = click.option(
    "--expires-at", type=support.MOMENT_OR_DAY, help="A day (UTC), or a moment with its offset.  [never]"
)


@click.group()
def keys() -> None:
    """API keys of service servers and operators."""


@keys.command("create")
@click.argument("name", type=NAME)
@click.option("--kind", type=click.Choice([kind.value for kind in KeyKind]), required=True)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in KeyScope]),
    multiple=True,
    help="What the key may do; may be repeated.  [for service keys: all scopes of service servers]",
)
@expires_at
@support.by
@as_json
@with_services
def create(
    services: Container,
    *,
    name: str,
    kind: str,
    scopes: tuple[str, ...],
    expires_at: datetime | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Make a key, and print it, only this once.

    \b
    flask keys create chat-backend --kind service
    flask keys create night-shift --kind operator --scope read --scope failed-ends --expires-at 2031-01-01
    """
    of_kind = KeyKind(kind)
    names = scopes or (SCOPES_OF_KIND[of_kind] if of_kind is KeyKind.SERVICE else ())
    try:
        allowed = scopes_of(of_kind, names)
    except ValueError as error:
        raise click.UsageError(f"--scope: {error}") from None
    made = services.key_admin.create(name, of_kind, allowed, expires_at=expires_at, caller=caller)
    _echo(made, as_json=as_json)


@keys.command("list")
@click.option("--name", type=support.ID)
@click.option("--kind", type=click.Choice([kind.value for kind in KeyKind]))
@click.option("--state", type=click.Choice([state.value for state in KeyState]))
@page_size
@support.before_number
@as_json
@with_services
def list_keys(
    services: Container,
    *,
    name: str | None,
    kind: str | None,
    state: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List keys, newest first, without the secret keys themselves.

    \b
    flask keys list --state active
    """
    page = services.key_admin.list(limit, before or NEWEST, KeyFilter(name, kind, state))
    columns = ("id", "name", "kind", "state", "scopes", "expires_at", "last_used_at", "last_used_address")
    echo_page(page, key_answer, columns, as_json=as_json, more="--before")


@keys.command("show")
@key_id
@as_json
@with_services
def show(services: Container, key_id: str, as_json: bool) -> None:
    """Print all that is known of a key.

    \b
    flask keys show k7m2p9x4qa
    """
    echo_object(key_answer(services.key_admin.get(key_id)), as_json=as_json)


@keys.command("rotate")
@key_id
@click.option(
    "--overlap-seconds",
    type=click.IntRange(0, OVERLAP_SECONDS_MAX),
    default=OVERLAP_SECONDS_DEFAULT,
    show_default=True,
    help="How long the old key goes on working.",
)
@click.option(
    "--expires-at", type=support.MOMENT_OR_DAY, help="Expiry of the new key.  [the old key's lifetime, from now]"
)
@support.by
@as_json
@with_services
def rotate(
    services: Container,
    *,
    key_id: str,
    overlap_seconds: int,
    expires_at: datetime | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Make a key's successor with the same name and scopes, and print it, only this once.

    \b
    flask keys rotate k7m2p9x4qa --overlap-seconds 3600
    """
    made = services.key_admin.rotate(key_id, overlap_seconds=overlap_seconds, expires_at=expires_at, caller=caller)
    _echo(made, as_json=as_json)


@keys.command("revoke")
@key_id
@support.by
@as_json
@with_services
def revoke(services: Container, key_id: str, caller: Caller, as_json: bool) -> None:
    """Revoke a key. Every process refuses it within a second.

    \b
    flask keys revoke k7m2p9x4qa --by alice
    """
    echo_object(key_answer(services.key_admin.revoke(key_id, caller=caller)), as_json=as_json)


def _echo(made: MadeKey, *, as_json: bool) -> None:
    echo_object(made_key_answer(made), as_json=as_json)
    if not as_json:
        click.echo("Keep the key now: it is told this once.", err=True)
