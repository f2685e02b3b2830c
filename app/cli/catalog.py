"""Commands on what is sold: features, packages and profit rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, echo_page, page_size, with_services
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.catalog import FeatureEndpoint, Unpriced
from app.domain.corrections import REVERSAL_SECONDS_MAX
from app.domain.keys import Caller
from app.domain.pages import FIRST_ID, NEWEST
from app.domain.reports import Scope
from app.wire.answers import feature_answer, package_answer, rule_answer

unpriced_choice = click.option(
    "--unpriced",
    type=click.Choice([choice.value for choice in Unpriced]),
    help="For a model without a price: bill by the default rule, or refuse the start.  [default]",
)


@click.group()
def features() -> None:
    """Feature endpoints: what a service server runs for a user."""


reversal_seconds = click.option(
    "--reversal-seconds",
    type=click.IntRange(0, REVERSAL_SECONDS_MAX),
    help="How long service servers may reverse a run.  [0: not at all]",
)


@features.command("create")
@click.argument("feature_id", type=support.NEW_ID)
@click.option("--name", type=support.NAME, required=True)
@click.option("--min-token", "min_micros", type=support.LIMIT, help="Minimum spendable tokens to start a run.  [1]")
@unpriced_choice
@reversal_seconds
@support.by
@as_json
@with_services
def create_feature(
    services: Container,
    *,
    feature_id: str,
    name: str,
    min_micros: int | None,
    unpriced: str | None,
    reversal_seconds: int | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Add a feature endpoint.

    \b
    flask features create chat --name "Chat" --min-token 2.5
    """
    least_micros = MICROS_PER_TOKEN if min_micros is None else min_micros
    policy = Unpriced(unpriced or Unpriced.DEFAULT)
    feature = FeatureEndpoint(feature_id, name, least_micros, policy, reversal_seconds or 0)
    echo_object(feature_answer(services.catalog_admin.create_feature(feature, caller)), as_json=as_json)


@features.command("list")
@page_size
@support.after_id
@as_json
@with_services
def list_features(services: Container, limit: int, after: str | None, as_json: bool) -> None:
    """List feature endpoints by id.

    \b
    flask features list --limit 20
    """
    page = services.catalog_admin.features(limit, after or FIRST_ID)
    echo_page(page, feature_answer, ("id", "name", "min_token", "unpriced"), as_json=as_json, more="--after")


@features.command("update")
@click.argument("feature_id", type=support.ID)
@click.option("--name", type=support.NAME)
@click.option("--min-token", "min_micros", type=support.LIMIT, help="Minimum spendable tokens to start a run.")
@unpriced_choice
@reversal_seconds
@support.by
@as_json
@with_services
def update_feature(
    services: Container,
    *,
    feature_id: str,
    name: str | None,
    min_micros: int | None,
    unpriced: str | None,
    reversal_seconds: int | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Change a feature endpoint.

    \b
    flask features update chat --min-token 5
    """
    given: dict[str, Any] = {
        "name": name,
        "min_micros": min_micros,
        "unpriced": unpriced,
        "reversal_seconds": reversal_seconds,
    }
    changes = {column: value for column, value in given.items() if value is not None}
    echo_object(feature_answer(services.catalog_admin.update_feature(feature_id, changes, caller)), as_json=as_json)


@click.group()
def packages() -> None:
    """Packages: the feature endpoints that a wallet may use."""


@packages.command("create")
@click.argument("package_id", type=support.NEW_ID)
@click.option("--name", type=support.NAME, required=True)
@click.option(
    "--feature", "feature_ids", type=support.ID, multiple=True, help="A feature endpoint to include; may be repeated."
)
@support.by
@as_json
@with_services
def create_package(
    services: Container, *, package_id: str, name: str, feature_ids: tuple[str, ...], caller: Caller, as_json: bool
) -> None:
    """Add a package.

    \b
    flask packages create basic --name "Basic" --feature chat --feature images
    """
    created = services.catalog_admin.create_package(package_id, name, feature_ids, caller)
    echo_object(package_answer(created), as_json=as_json)


@packages.command("list")
@page_size
@support.after_id
@as_json
@with_services
def list_packages(services: Container, limit: int, after: str | None, as_json: bool) -> None:
    """List packages by id.

    \b
    flask packages list
    """
    page = services.catalog_admin.packages(limit, after or FIRST_ID)
    echo_page(page, package_answer, ("id", "name", "feature_endpoint_ids"), as_json=as_json, more="--after")


@packages.command("update")
@click.argument("package_id", type=support.ID)
@click.option("--name", type=support.NAME)
@click.option(
    "--feature",
    "feature_ids",
    type=support.ID,
    multiple=True,
    help="Replaces the included feature endpoints; may be repeated.",
)
@click.option("--no-features", is_flag=True, help="Include no feature endpoints.")
@support.by
@as_json
@with_services
def update_package(
    services: Container,
    *,
    package_id: str,
    name: str | None,
    feature_ids: tuple[str, ...],
    no_features: bool,
    caller: Caller,
    as_json: bool,
) -> None:
    """Rename a package, or replace what it includes.

    \b
    flask packages update basic --feature chat --feature images --feature speech
    """
    if no_features and feature_ids:
        raise click.UsageError("--feature and --no-features exclude each other.")
    replaced = feature_ids if feature_ids or no_features else None
    changed = services.catalog_admin.update_package(package_id, name=name, feature_ids=replaced, caller=caller)
    echo_object(package_answer(changed), as_json=as_json)


@click.group("profit-rules")
def profit_rules() -> None:
    """Profit rules: the percentage on top of the base cost. The most specific one in force wins."""


@profit_rules.command("create")
@click.option("--percentage", "basis_points", type=support.PERCENTAGE, required=True, help="0 to 10000.")
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Only for this feature endpoint.")
@click.option("--model", type=support.ID, help="Only for this model.")
@click.option("--effective-from", type=support.MOMENT, help="ISO 8601 with offset.  [now]")
@support.by
@as_json
@with_services
def create_profit_rule(
    services: Container,
    *,
    basis_points: int,
    feature_endpoint_id: str | None,
    model: str | None,
    effective_from: datetime | None,
    caller: Caller,
    as_json: bool,
) -> None:
    """Add a profit rule.

    \b
    flask profit-rules create --percentage 12.5 --feature chat --effective-from 2030-01-01T00:00:00Z
    """
    created = services.catalog_admin.create_rule(
        basis_points,
        feature_endpoint_id=feature_endpoint_id,
        model=model,
        effective_from=effective_from,
        caller=caller,
    )
    echo_object(rule_answer(created), as_json=as_json)


@profit_rules.command("list")
@click.option("--feature", "feature_endpoint_id", type=support.ID, help="Only those made for this feature endpoint.")
@click.option("--model", type=support.ID, help="Only those made for this model.")
@page_size
@support.before_number
@as_json
@with_services
def list_profit_rules(
    services: Container,
    *,
    feature_endpoint_id: str | None,
    model: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List profit rules, newest first.

    \b
    flask profit-rules list
    """
    page = services.catalog_admin.rules(Scope(feature_endpoint_id, model), limit, before or NEWEST)
    columns = ("id", "percentage", "feature_endpoint_id", "model", "effective_from")
    echo_page(page, rule_answer, columns, as_json=as_json, more="--before")
