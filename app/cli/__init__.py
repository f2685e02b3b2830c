"""The command line: does what the admin API does, from a terminal with access to the stores.

`flask` in the project's root finds these commands by itself; `tokentill-server` is the same from any folder. They use
the same services as the API. An error of a service is printed as one line, with exit code 1; a wrong setting or option
gives exit code 2.
"""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import ScriptInfo

from app.cli.archive import archive, archives
from app.cli.audit_log import audit_log
from app.cli.balance_rules import balance_rules
from app.cli.bulk_actions import bulk_actions
from app.cli.catalog import features, packages, profit_rules
from app.cli.debts import debts
from app.cli.demo import demo
from app.cli.ends import ends
from app.cli.failed_ends import failed_ends
from app.cli.keys import keys
from app.cli.price_imports import COMMANDS as PRICE_IMPORT_COMMANDS
from app.cli.prices import prices
from app.cli.reconcile import reconcile
from app.cli.reports import reports_group, transactions
from app.cli.repricings import repricings
from app.cli.samples import samples
from app.cli.top_ups import top_up_schedules, top_ups
from app.cli.wallets import wallets
from app.cli.webhooks import webhooks

for _command in PRICE_IMPORT_COMMANDS:
    prices.add_command(_command)

COMMANDS = (
    features,
    packages,
    profit_rules,
    prices,
    wallets,
    balance_rules,
    webhooks,
    ends,
    repricings,
    top_ups,
    top_up_schedules,
    failed_ends,
    bulk_actions,
    debts,
    reports_group,
    samples,
    transactions,
    reconcile,
    archive,
    archives,
    keys,
    audit_log,
    demo,
)


def register_commands(app: Flask) -> None:
    """Add the commands to an application."""
    for command in COMMANDS:
        app.cli.add_command(command)


cli = click.Group("tokentill", commands=COMMANDS, help="Manage what Tokentill sells and its users' wallets.")


def main() -> None:
    """The `tokentill-server` script. It names the application instead of importing it: imports run the other way."""
    cli.main(obj=ScriptInfo("app:create_app"))
