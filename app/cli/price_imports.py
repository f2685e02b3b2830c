"""Commands that import price lists: a dry run that is kept, and its approval. Part of `flask prices`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from app.bootstrap import Container
from app.catalog.price_imports import ImportRequest
from app.catalog.price_lists import Format, Selection
from app.catalog.price_lists.document import NotReadable, parse
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, echo_table, page_size, with_services
from app.domain.errors import PriceListRefused
from app.domain.keys import Caller
from app.domain.pages import NEWEST
from app.wire.price_imports import price_import_answer, price_import_head_answer

F = TypeVar("F", bound=Callable[..., Any])

_import_id = click.argument("import_id", type=click.IntRange(1, NEWEST))
_RATES = (
    "input_per_million",
    "cached_input_per_million",
    "cache_write_per_million",
    "output_per_million",
    "reasoning_per_million",
    "per_request",
)


def _selection(command: F) -> F:
    for option in (
        click.option("--no-dated-ids", is_flag=True, help="Don't apply a model's price to its dated ids."),
        click.option(
            "--strip-provider", is_flag=True, help="Remove the provider: gemini/gemini-2.5-pro becomes gemini-2.5-pro."
        ),
        click.option(
            "--exclude",
            "excluded_models",
            type=support.ID,
            multiple=True,
            help="Exclude this model, or a pattern such as gpt-*.",
        ),
        click.option(
            "--model", "models", type=support.ID, multiple=True, help="Only this model, or a pattern such as gpt-*."
        ),
        click.option("--provider", "providers", type=support.ID, multiple=True, help="Only of this provider."),
    ):
        command = option(command)
    return command


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "list_format", type=click.Choice([each.value for each in Format]), required=True)
@click.option(
    "--tokens-per-dollar",
    "micros_per_dollar",
    type=support.CREDIT,
    required=True,
    help="How many tokens a dollar is worth.",
)
@_selection
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Make prices for this feature endpoint only.")
@click.option("--effective-from", type=support.MOMENT, help="ISO 8601 with offset.  [time of the approval]")
@support.by
@as_json
@with_services
def import_prices(
    services: Container,
    *,
    file: Path,
    list_format: str,
    micros_per_dollar: int,
    providers: Sequence[str],
    models: Sequence[str],
    excluded_models: Sequence[str],
    strip_provider: bool,
    no_dated_ids: bool,
    feature_endpoint_id: str | None,
    effective_from: datetime | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Show what a price list would change, and store that as a draft. No price changes yet.

    \b
    flask prices import prices.json --format litellm --tokens-per-dollar 1000 --provider openai
    """
    try:
        request = ImportRequest(
            document=parse(file.read_bytes()),
            list_format=Format(list_format),
            micros_per_dollar=micros_per_dollar,
            selection=Selection(
                providers=tuple(providers),
                models=tuple(models),
                excluded_models=tuple(excluded_models),
                strips_provider=strip_provider,
                with_dated=not no_dated_ids,
            ),
            feature_endpoint_id=feature_endpoint_id,
            effective_from=effective_from,
        )
        draft = services.price_imports.draft(request, caller)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
    except NotReadable as error:
        raise click.ClickException(f"{file}: {error}") from None
    except PriceListRefused as error:
        for row, reasons in (error.errors or {}).items():
            click.echo(f"{row}: {' '.join(reasons)}", err=True)
        raise click.ClickException(error.message) from None
    _echo(price_import_answer(draft), as_json=as_json)


@click.command("imports")
@page_size
@support.before_number
@as_json
@with_services
def list_imports(services: Container, limit: int, before: int | None, as_json: bool) -> None:
    """List imports of price lists, newest first.

    \b
    flask prices imports
    """
    page = services.price_imports.list(limit, before or NEWEST)
    columns = ("id", "state", "format", "tokens_per_dollar", "feature_endpoint_id", "created_at", "approved_at")
    echo_page(page, price_import_head_answer, columns, as_json=as_json, more="--before")


@click.command("show-import")
@_import_id
@as_json
@with_services
def show_import(services: Container, import_id: int, as_json: bool) -> None:
    """Show what an import would change, or has changed.

    \b
    flask prices show-import 1
    """
    _echo(price_import_answer(services.price_imports.get(import_id)), as_json=as_json)


@click.command("approve")
@_import_id
@click.option("--allow-jumps", is_flag=True, help="Approve price changes of more than 50 % too.")
@support.by
@as_json
@with_services
def approve_import(services: Container, import_id: int, allow_jumps: bool, caller: Caller, as_json: bool) -> None:
    """Make the prices of a draft, all or none. Approving again changes nothing.

    \b
    flask prices approve 1 --allow-jumps
    """
    approved = services.price_imports.approve(import_id, allow_jumps=allow_jumps, caller=caller)
    if approved.replayed:
        click.echo("Approved before; nothing was changed now.", err=True)
    answer = price_import_answer(approved.price_import)
    if as_json:
        echo_object(answer, as_json=True)
    else:
        echo_object(price_import_head_answer(approved.price_import) | {"counts": _told(answer)}, as_json=False)


COMMANDS = (import_prices, list_imports, show_import, approve_import)


def _echo(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_object(dict(answer), as_json=True)
        return
    click.echo(f"Import {answer['id']} ({answer['state']}): {_told(answer)}")
    changes = [
        {**change, "model": row["model"], "jump": "jump" if change["jump"] else ""}
        for row in (*answer["changed"], *answer["new"])
        for change in row["changes"]
    ]
    _echo_part("Changes", ("model", "kind", "above_input_token", "old", "new", "percent", "jump"), changes)
    _echo_part("New", ("model", *_RATES, "tiers"), [{**row, "tiers": len(row["tiers"])} for row in answer["new"]])
    _echo_part("Kept, as the list doesn't have them", ("model", "price_id"), answer["kept"])
    skipped = [{"model": model, "reason": reason} for model, reason in answer["skipped"].items()]
    _echo_part("Skipped", ("model", "reason"), skipped)
    passed_over = [{"field": name, "models": models} for name, models in answer["passed_over"].items()]
    _echo_part("Passed over", ("field", "models"), passed_over)
    _echo_part("Rounded", ("model", "fields"), answer["rounded"])
    _echo_part("Free", ("model",), [{"model": model} for model in answer["free"]])
    usage = answer["usage"]
    click.echo(f"\nUsage of 30 days: {usage['runs']} runs, {usage['old_cost']} -> {usage['new_cost']} tokens")
    effect = ("runs", "old_cost", "new_cost")
    _echo_part("By model", ("model", "feature_endpoint_id", *effect), usage["by_model"])
    _echo_part("By user", ("user_id", *effect), usage["by_user"])
    if answer["state"] == "draft":
        allow = " --allow-jumps" if answer["counts"]["jumps"] else ""
        click.echo(f"\nApprove it with: flask prices approve {answer['id']}{allow}")


def _echo_part(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        click.echo(f"\n{title}")
        echo_table(columns, rows)


def _told(answer: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in answer["counts"].items())
