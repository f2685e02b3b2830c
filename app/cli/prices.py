"""Commands on prices: what a model costs by kind of usage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import click

from app.billing.estimate import EstimateRequest
from app.bootstrap import Container
from app.catalog.prices import NewPrice
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.keys import Caller
from app.domain.pages import NEWEST
from app.domain.rates import TIERS_MAX, Rates, Tier
from app.domain.reports import Scope
from app.domain.usage import REQUESTS_MAX, USAGE_TOKENS_MAX, Usage
from app.wire.prices import RATE_FIELDS, explained_estimate_answer, price_answer

Command = Callable[..., Any]

TOKENS = click.IntRange(0, USAGE_TOKENS_MAX)


class TierParam(click.ParamType[Tier]):
    """`200000:input_per_million=4,output_per_million=12`."""

    name = "tier"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Tier:
        if isinstance(value, Tier):
            return value
        above: Any
        above, _, named = str(value).partition(":")
        rates: dict[str, int] = {}
        for part in filter(None, named.split(",")):
            field, _, number = part.partition("=")
            if field not in RATE_FIELDS or RATE_FIELDS[field] in rates:
                self.fail(f"{field} must be one of {', '.join(RATE_FIELDS)}, each once.", param, ctx)
            kind = support.REQUEST_RATE if field == "per_request" else support.RATE
            rates[RATE_FIELDS[field]] = kind.convert(number, param, ctx)
        if not rates:
            self.fail("Must look like 200000:input_per_million=4,output_per_million=12.", param, ctx)
        return Tier(TOKENS.convert(above, param, ctx), **rates)


def rate_options(*, required: bool) -> Callable[[Command], Command]:
    """Adds an option for each rate, and one for tiers."""

    def decorate(command: Command) -> Command:
        command = click.option(
            "--tier",
            "tiers",
            type=TierParam(),
            multiple=True,
            help="ABOVE_INPUT_TOKEN:FIELD=TOKENS,... for whole runs with more input; may be repeated.",
        )(command)
        for field, name in reversed(RATE_FIELDS.items()):
            is_whole = field in ("input_per_million", "output_per_million")
            command = click.option(
                f"--{field.replace('_', '-')}",
                name,
                type=support.REQUEST_RATE if field == "per_request" else support.RATE,
                required=required and is_whole,
                help=_HELP[field],
            )(command)
        return command

    return decorate


_HELP = {
    "input_per_million": "Tokens for a million input tokens.",
    "output_per_million": "Tokens for a million output tokens.",
    "cached_input_per_million": "Of input read from a cache.  [as input]",
    "cache_write_per_million": "Of input written to a cache.  [as input]",
    "reasoning_per_million": "Of output spent on reasoning.  [as output]",
    "per_request": "Tokens for a request.  [0]",
}


@click.group()
def prices() -> None:
    """Prices: tokens for each kind of usage of a model. The most specific one in force wins."""


@prices.command("add")
@click.option(
    "--model", type=support.MODEL_OR_PATTERN, help="Only for this model; with a * at the end, all models that begin so."
)
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Only for this feature endpoint.")
@click.option("--effective-from", type=support.MOMENT, help="ISO 8601 with offset.  [now]")
@rate_options(required=True)
@support.by
@as_json
@with_services
def add_price(
    services: Container,
    /,
    *,
    model: str | None,
    feature_endpoint_id: str | None,
    effective_from: datetime | None,
    caller: Caller,
    as_json: bool,
    **rates: Any,
) -> None:
    """Add a price. A price never changes: to replace it, add a newer one for the same model and feature.

    \b
    flask prices add --model "gpt-4.1*" --input-per-million 2 --output-per-million 8 --cached-input-per-million 0.5
    """
    price = NewPrice(_rates(**rates), feature_endpoint_id, model, effective_from)
    created = services.price_admin.add(price, caller)
    echo_object(_flat(price_answer(created), as_json=as_json), as_json=as_json)


@prices.command("list")
@click.option("--model", type=support.ID, help="Only those for exactly this model or pattern.")
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Only those for this feature endpoint.")
@page_size
@support.before_number
@as_json
@with_services
def list_prices(
    services: Container,
    *,
    model: str | None,
    feature_endpoint_id: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List prices, newest first.

    \b
    flask prices list --model "gpt-4.1*"
    """
    page = services.price_admin.list(Scope(feature_endpoint_id, model), limit, before or NEWEST)
    columns = ("id", "feature_endpoint_id", "model", "effective_from", *RATE_FIELDS, "tiers")
    echo_page(page, lambda card: _flat(price_answer(card), as_json=as_json), columns, as_json=as_json, more="--before")


@prices.command("estimate")
@click.option("--feature", "feature_endpoint_id", type=support.ID, required=True)
@click.option("--model", type=support.ID)
@click.option("--user", "user_id", type=support.ID, help="Also say whether this user's wallet covers it.")
@click.option("--input-token", "input_tokens", type=TOKENS, required=True)
@click.option("--output-token", "output_tokens", type=TOKENS, required=True)
@click.option("--cached-input-token", "cached_input_tokens", type=TOKENS, default=0, help="Part of the input.")
@click.option("--cache-write-token", "cache_write_tokens", type=TOKENS, default=0, help="Part of the input.")
@click.option("--reasoning-token", "reasoning_tokens", type=TOKENS, default=0, help="Part of the output.")
@click.option("--requests", type=click.IntRange(1, REQUESTS_MAX), default=1, show_default=True)
@rate_options(required=False)
@as_json
@with_services
def estimate(
    services: Container,
    /,
    *,
    feature_endpoint_id: str,
    model: str | None,
    user_id: str | None,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int,
    cache_write_tokens: int,
    reasoning_tokens: int,
    requests: int,
    as_json: bool,
    **rates: Any,
) -> None:
    """Print what a run would cost now, or by a price with the given rates. Nothing changes.

    \b
    flask prices estimate --feature chat --model gpt-4.1 --input-token 1000 --output-token 500
    """
    usage = Usage(input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, requests)
    for field, reasons in usage.errors().items():
        raise click.BadParameter(" ".join(reasons), param_hint=f"--{field.replace('_', '-')}")
    draft = None
    if any(value not in (None, ()) for value in rates.values()):
        for field in ("input_per_million", "output_per_million"):
            if rates[RATE_FIELDS[field]] is None:
                raise click.UsageError(f"Rates of a draft need --{field.replace('_', '-')}.")
        draft = NewPrice(_rates(**rates), feature_endpoint_id, model)
    asked = EstimateRequest(feature_endpoint_id, usage, model, user_id)
    # A command's process has no watcher, so the catalog isn't loaded yet.
    services.catalog.refresh()
    answer = explained_estimate_answer(services.estimate.explain(asked, draft))
    echo_object(_flat(answer, as_json=as_json), as_json=as_json)


def _rates(*, tiers: tuple[Tier, ...], **rates: Any) -> Rates:
    if len(tiers) > TIERS_MAX or len({tier.above_input_tokens for tier in tiers}) < len(tiers):
        raise click.UsageError(f"At most {TIERS_MAX} tiers, each above another input.")
    return Rates(**rates, tiers=tuple(sorted(tiers, key=lambda tier: tier.above_input_tokens)))


def _flat(answer: Mapping[str, Any], *, as_json: bool) -> Mapping[str, Any]:
    """An answer with its nested values as text, to print it as lines or as the cells of a table."""
    if as_json:
        return answer
    flat = dict(answer)
    if "tiers" in flat:
        flat["tiers"] = [
            f"{tier['above_input_token']}:"
            + ",".join(f"{field}={number}" for field, number in tier.items() if field in RATE_FIELDS)
            for tier in flat["tiers"]
        ]
    if "parts" in flat:
        flat |= {f"of {kind}": number for kind, number in flat.pop("parts").items()}
    return flat
