"""The commands import price lists as the admin API does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
from click.testing import Result
from flask import Flask

from app.cli import cli
from tests.support import Billing

GPT = {"mode": "chat", "litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06}

Run = Callable[..., Result]


@pytest.fixture
def run(app: Flask, till: Billing) -> Run:
    runner = app.test_cli_runner()
    return lambda *arguments: runner.invoke(cli, ["prices", *arguments])


@pytest.fixture
def show(run: Run) -> Callable[..., Any]:
    def called(*arguments: str) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return simplejson.loads(result.stdout, use_decimal=True)

    return called


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[Any], tuple[str, ...]]:
    """Writes a list; the arguments that import it."""

    def write(models: Any) -> tuple[str, ...]:
        path = tmp_path / "prices.json"
        path.write_text(models if isinstance(models, str) else json.dumps(models))
        return "import", str(path), "--format", "litellm", "--tokens-per-dollar", "1000"

    return write


def test_from_a_list_to_prices(run: Run, show: Callable[..., Any], listed: Callable[[Any], tuple[str, ...]]) -> None:
    draft = show(*listed({"gpt-5": GPT, "gemini/gemini-2.5-pro": {**GPT, "litellm_provider": "gemini"}}))
    assert draft["state"] == "draft"
    assert [row["model"] for row in draft["new"]] == [
        "gpt-5",
        "gemini/gemini-2.5-pro",
        "gpt-5-202*",
        "gemini/gemini-2.5-pro-202*",
    ]
    done = show("approve", str(draft["id"]), "--by", "alice")
    assert (done["state"], done["approved_by"]) == ("approved", "cli/alice")
    assert all(row["price_id"] for row in done["new"])
    assert show("show-import", str(draft["id"])) == done
    again = run("approve", str(draft["id"]))
    assert again.stderr == "Approved before; nothing was changed now.\n"
    assert [item["id"] for item in show("imports")["items"]] == [draft["id"]]


def test_options_choose_and_scope(show: Callable[..., Any], listed: Callable[[Any], tuple[str, ...]]) -> None:
    models = {
        "gpt-5": GPT,
        "gpt-4": GPT,
        "gemini/gemini-2.5-pro": {**GPT, "litellm_provider": "gemini"},
        "other": {**GPT, "litellm_provider": "other"},
    }
    draft = show(
        *listed(models),
        *("--provider", "openai", "--provider", "gemini", "--model", "g*", "--exclude", "gpt-4"),
        *("--strip-provider", "--no-dated-ids", "--feature", "feature-text"),
        *("--effective-from", "2100-01-01T00:00:00Z"),
    )
    assert [row["model"] for row in draft["new"]] == ["gpt-5", "gemini-2.5-pro"]
    assert draft["feature_endpoint_id"] == "feature-text"
    assert draft["effective_from"] == "2100-01-01T00:00:00.000Z"


def test_what_changes_is_printed_for_people(run: Run, listed: Callable[[Any], tuple[str, ...]]) -> None:
    run(*listed({"gpt-5": GPT}), "--no-dated-ids")
    run("approve", "1")
    models = {"gpt-5": {**GPT, "input_cost_per_token": 2e-06}, "draw": {"mode": "image_generation"}}
    printed = run(*listed(models), "--no-dated-ids")
    assert printed.exit_code == 0, printed.output
    lines = [" ".join(line.split()) for line in printed.stdout.splitlines()]
    assert "gpt-5 input_per_million 0 1000 2000 100 jump" in lines
    assert "draw mode image_generation" in lines
    assert "Usage of 30 days: 0 runs, 0 -> 0 tokens" in lines
    assert lines[-1] == "Approve it with: flask prices approve 2 --allow-jumps"
    refused = run("approve", "2")
    assert refused.exit_code == 1
    assert "these jump: gpt-5" in refused.stderr
    assert run("approve", "2", "--allow-jumps").exit_code == 0


def test_a_list_with_nonsense_is_refused_row_by_row(run: Run, listed: Callable[[Any], tuple[str, ...]]) -> None:
    refused = run(
        *listed({"gpt-5": {**GPT, "input_cost_per_token": -1}, "gpt-6": {**GPT, "output_cost_per_token": "x"}})
    )
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert refused.stderr.splitlines() == [
        "gpt-5.input_cost_per_token: Must not be negative.",
        "gpt-6.output_cost_per_token: Must be a number.",
        "Error: Price list refused: 2 problems",
    ]


@pytest.mark.parametrize("text", ["", "{", "not JSON"])
def test_a_file_that_is_no_json(run: Run, listed: Callable[[Any], tuple[str, ...]], text: str) -> None:
    refused = run(*listed(text))
    assert refused.exit_code == 1
    assert "Not valid JSON: line 1" in refused.stderr


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    refused = run("import", str(tmp_path / "none"), "--format", "litellm", "--tokens-per-dollar", "1")
    assert (refused.exit_code, refused.stderr) == (1, f"Error: {tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.parametrize("arguments", [("approve", "9"), ("show-import", "9")])
def test_an_import_that_is_not_there(run: Run, arguments: tuple[str, ...]) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, refused.stderr) == (1, "Error: Price import not found\n")


@pytest.mark.parametrize("amount", ["0", "-1", "many"])
def test_a_dollar_buys_something(run: Run, listed: Callable[[Any], tuple[str, ...]], amount: str) -> None:
    assert run(*listed({"gpt-5": GPT})[:-1], amount).exit_code == 2
