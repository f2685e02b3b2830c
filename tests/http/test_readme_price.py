"""The README's three commands: a newcomer sets a price, ends a run with that model, and sees it billed."""

from __future__ import annotations

import json
import re
import shlex

from flask import Flask
from flask.testing import FlaskClient

from app.cli import cli
from tests.conftest import PROJECT
from tests.support import Billing


def readme_commands(heading: str) -> list[str]:
    """The commands of the first console block behind a heading."""
    _, _, behind = (PROJECT / "README.md").read_text().partition(heading)
    block = re.search(r"```console\n(.*?)```", behind, re.DOTALL)
    assert block is not None
    return [line.removeprefix("$ ") for line in block[1].splitlines() if line.startswith("$ ")]


def readme_block(heading: str) -> str:
    _, _, behind = (PROJECT / "README.md").read_text().partition(heading)
    return behind.partition("```console\n")[2].partition("```")[0]


def test_a_price_is_set_and_billed_with_three_commands(app: Flask, client: FlaskClient, billing: Billing) -> None:
    heading = "**A price for a model.**"
    runner = app.test_cli_runner()

    def flask(command: str) -> str:
        words = shlex.split(command)
        assert words[0] == "flask"
        done = runner.invoke(cli, words[1:])
        assert done.exit_code == 0, done.output
        return done.stdout

    for command in readme_commands("## Your own wallet in a minute"):
        if command.startswith("flask"):
            flask(command)
    add, curl, show = readme_commands(heading)

    flask(add)
    words = shlex.split(curl)
    url = words[words.index("-s") + 1]
    headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
    answer = client.post(url.removeprefix("http://127.0.0.1:5000"), data=words[words.index("-d") + 1], headers=headers)
    assert answer.json is not None
    billing.settle_everything()
    printed = flask(show)

    # As the README shows it: the cost, its parts and the price's number. Balances there follow another run.
    shown = readme_block(heading)
    told = json.loads(next(line for line in shown.splitlines() if line.startswith('{"success"')))
    assert (answer.json["data"]["cost"], answer.json["data"]["status"]) == (told["data"]["cost"], "return-able")
    entry, told_entry = (
        dict(zip(*(line.split() for line in text.splitlines()[-2:]), strict=True)) for text in (printed, shown)
    )
    for column in ("kind", "token", "base_cost", "profit", "model", "price_id"):
        assert entry[column] == told_entry[column]
