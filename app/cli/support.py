"""Shared by all commands: access to the services, checked options, errors in one line, output."""

from __future__ import annotations

import getpass
import logging
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import SQLAlchemyError

from app.bootstrap import EXTENSION, Container
from app.config import ConfigError
from app.domain import inputs
from app.domain.errors import DomainError, Unavailable
from app.domain.failed_ends import duration_seconds
from app.domain.keys import Caller, command_caller
from app.domain.pages import Page
from app.domain.price_limits import RATE_MICROS_MAX, REQUEST_MICROS_MAX
from app.domain.reports import moment_or_day
from app.wire.json import write_readable

P = ParamSpec("P")
T = TypeVar("T")


class Checked(click.ParamType[T]):
    """An option's text, checked by a function that raises ValueError with the reason."""

    def __init__(self, name: str, check: Callable[[str], T]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        try:
            return self._check(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


ID = Checked("id", partial(inputs.identifier, length_max=inputs.ID_LENGTH_MAX))
NEW_ID = Checked("id", inputs.path_id)
NEW_USER_ID = Checked("id", inputs.new_user_id)
NAME = Checked("name", partial(inputs.printable, length_max=inputs.NAME_LENGTH_MAX))
REFERENCE = Checked("reference", partial(inputs.identifier, length_max=inputs.REFERENCE_LENGTH_MAX))
REASON = Checked("reason", partial(inputs.printable, length_max=inputs.REASON_LENGTH_MAX))
ACTOR = Checked("actor", partial(inputs.identifier, length_max=inputs.ACTOR_LENGTH_MAX))
CREDIT = Checked("tokens", lambda text: inputs.amount_micros(inputs.number(text)))
ADJUSTMENT = Checked("tokens", lambda text: inputs.amount_micros(inputs.number(text), allow_negative=True))
LIMIT = Checked("tokens", lambda text: inputs.amount_micros(inputs.number(text), allow_zero=True))
ANY_AMOUNT = Checked(
    "tokens", lambda text: inputs.amount_micros(inputs.number(text), allow_negative=True, allow_zero=True)
)
PERCENTAGE = Checked("percentage", lambda text: inputs.profit_basis_points(inputs.number(text)))
MODEL_OR_PATTERN = Checked("model", inputs.model_or_pattern)
RATE = Checked("tokens", lambda text: inputs.rate_micros(inputs.number(text), RATE_MICROS_MAX))
REQUEST_RATE = Checked("tokens", lambda text: inputs.rate_micros(inputs.number(text), REQUEST_MICROS_MAX))
MOMENT = Checked("moment", inputs.moment)
MOMENT_OR_DAY = Checked("moment", moment_or_day)
DURATION = Checked("duration", duration_seconds)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
page_size = click.option(
    "--limit",
    type=click.IntRange(1, inputs.PAGE_SIZE_MAX),
    default=inputs.PAGE_SIZE_DEFAULT,
    show_default=True,
    help="How many to print.",
)
after_id = click.option("--after", "after", type=ID, help="Start after this one.")
before_number = click.option(
    "--before", "before", type=click.IntRange(1, 2**63 - 1), help="Start after this one (continue with older ones)."
)


def operator() -> str:
    """The operating system's name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # In a container the uid may have no user name.
        return f"uid-{os.getuid()}"


def _caller(context: click.Context, parameter: click.Parameter, by: str | None) -> Caller:
    return command_caller(by or operator(), f"{operator()}@{socket.gethostname()}")


# Every command that changes something takes this option: the person is written to the ledger and the audit log.
by = click.option("--by", "caller", type=ACTOR, callback=_caller, help="Who decided it.  [your operating system user]")


def with_services(command: Callable[Concatenate[Container, P], None]) -> Callable[P, None]:
    """Decorates a command that takes the container as its first argument. Prints errors of services as one line."""

    @with_appcontext
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        container: Container = current_app.extensions[EXTENSION]
        try:
            with _quiet():
                command(container, *args, **kwargs)
        except Unavailable:
            raise click.ClickException(f"{_silent_store(container)}. Please try again.") from None
        except DomainError as error:
            reasons = [f"{field}: {' '.join(texts)}" for field, texts in (error.errors or {}).items()]
            raise click.ClickException(": ".join([error.message, *reasons])) from None
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise click.ClickException(f"Postgres refused: {reason} (`alembic upgrade head` done?)") from None
        finally:
            # Send the messages that the command has queued before the process ends.
            container.doorbell.close()

    return run


def _silent_store(container: Container) -> str:
    """Says which store doesn't answer. If both gates are open, Postgres was too slow or too busy."""
    if container.postgres_gate.is_open and not container.redis_gate.is_open:
        return "Redis doesn't answer (REDIS_URL)"
    return "Postgres doesn't answer (DATABASE_URL)"


def echo_object(answer: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one object: a line for each field, or JSON."""
    if as_json:
        _echo_json(answer)
        return
    width = max(map(len, answer))
    for name, value in answer.items():
        click.echo(f"{name:<{width}}  {_cell(value)}")


def echo_page(
    page: Page[T, Any],
    answer: Callable[[T], Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    more: str,
) -> None:
    """Print a list: a table of these columns, or JSON with all fields. `more` is the option for the next page."""
    items = [answer(item) for item in page.items]
    if as_json:
        _echo_json({"items": items, "next": page.next_key})
        return
    echo_table(columns, items)
    if page.next_key is not None:
        click.echo(f"There are more: {more} {shlex.quote(str(page.next_key))}", err=True)


def echo_table(columns: Sequence[str], items: Iterable[Mapping[str, Any]]) -> None:
    """Print a table of these columns."""
    rows = [list(columns), *([_cell(item.get(column)) for column in columns] for item in items)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _echo_json(value: Any) -> None:
    click.echo(write_readable(value))


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return ", ".join(value) if isinstance(value, list) else str(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Turn logging off, as the command prints errors itself."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
