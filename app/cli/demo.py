"""Something to try Tokentill with."""

from __future__ import annotations

import click

from app.bootstrap import Container
from app.cli import support
from app.cli.support import as_json, echo_object, with_services
from app.domain.keys import Caller
from app.wire.answers import wallet_answer


@click.group()
def demo() -> None:
    """A demo catalog and wallet, for a local stack."""


@demo.command("seed")
@support.by
@as_json
@with_services
def seed(services: Container, caller: Caller, as_json: bool) -> None:
    """Add the demo: a feature, a package, 10 % profit if there is no rule yet, a wallet with 1,000 tokens.

    Only with TOKENTILL_MODE=local. What is there already stays as it is.

    \b
    flask demo seed
    """
    echo_object(wallet_answer(services.demo.seed(caller)), as_json=as_json)
