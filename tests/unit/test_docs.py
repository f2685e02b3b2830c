"""The documents say what is so: every variable, route, command, target and file that they name exists."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from app.bootstrap import Container
from app.cli import cli
from app.config import Config
from app.web import create_app
from stack.procfile import commands
from tests.conftest import ADMIN_KEY, PROJECT, SERVER_KEY

README = PROJECT / "README.md"
DOCUMENTS = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs" / "decisions").glob("*.md")),
    *sorted((PROJECT / "docs" / "runbooks").glob("*.md")),
]
FOLDERS = "app|worker|stack|deploy|migrations|tests|docs|benchmarks|clients|requirements|ops"
ROUTE = re.compile(r"(?:GET|POST|PATCH|PUT|DELETE) /[\w/{}-]+")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))


def code(path: Path) -> list[str]:
    """What stands in backticks, and the lines of fenced blocks without their prompts."""
    found, prose = [], []
    is_fenced = False
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced:
            found.append(line.removeprefix("$ "))
        else:
            prose.append(line)
    assert not is_fenced, "a fence is left open"
    return found + [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", "\n".join(prose))]


def settings_of(file: str) -> dict[str, str | None]:
    """Variables that a file reads by `env.get("NAME")` or `_kind(env, "NAME", default)`, with a literal default."""
    found: dict[str, str | None] = {}
    for node in ast.walk(ast.parse((PROJECT / file).read_text())):
        if not isinstance(node, ast.Call):
            continue
        literals = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if literals and re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", str(literals[0])):
            default = literals[1] if len(literals) > 1 else None
            known = found.get(str(literals[0]))
            text = f"{default:g}" if isinstance(default, (int, float)) else default
            found[str(literals[0])] = known or (None if text is None else str(text))
    return found


def settings_of_procfile() -> dict[str, str]:
    return dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", "\n".join(commands().values())))


def configuration_table() -> dict[str, str]:
    """Variable -> default, as the README says."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\|", README.read_text(), re.MULTILINE))


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    read = {**settings_of("app/config.py"), **settings_of_procfile()}
    assert {"DATABASE_URL", "LOG_LEVEL", "SWEEP_SECONDS", "PORT", "DATA_DIR"} <= set(read)
    told = configuration_table()
    missing = (set(read) | set(settings_of("stack/settings.py"))) - set(told)
    assert missing == set(), "add a row to the README's configuration table"
    assert set(told) - set(read) == set(), "nothing reads these any more"
    for name, default in read.items():
        if default is not None:
            assert told[name] == default, f"the README's default of {name}"


def test_the_readme_has_every_route_of_the_apis() -> None:
    config = Config.from_environment(
        {
            "TOKENTILL_MODE": "local",
            "DATABASE_URL": "postgresql://127.0.0.1:1/none",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "SERVER_API_KEY": SERVER_KEY,
            "ADMIN_API_KEY": ADMIN_KEY,
        }
    )
    served = {
        f"{method} {re.sub(r'<[^>]+>', '{}', rule.rule)}"
        for rule in create_app(container=Container(config)).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    told = {re.sub(r"{\w+}", "{}", text) for text in code(README) if ROUTE.fullmatch(text)}
    assert told - served == set(), "the README names what isn't there"
    assert {route for route in served if " /api/" in route} - told == set(), "add these to the README's tables"


@each_document
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert "up" in targets
    for line in code(path):
        words = line.partition("#")[0].split()
        if words[:1] == ["make"]:
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, line


@each_document
def test_commands_can_be_run(path: Path) -> None:
    for words in _flask_calls(path):
        command: click.Command = cli
        for i, word in enumerate(words):
            if not isinstance(command, click.Group) or word.startswith("-"):
                break
            assert word in command.commands, f"{path.name}: flask {shlex.join(words)}"
            command, rest = command.commands[word], words[i + 1 :]
            if rest and not isinstance(command, click.Group) and "--help" not in rest:
                # Reads the options and arguments, and runs nothing.
                command.make_context(word, list(rest))


def _flask_calls(path: Path) -> Iterator[list[str]]:
    """The words after `flask` or `tokentill` of every call."""
    for line in code(path):
        call = line.removeprefix("docker compose exec api ").removeprefix(".venv/bin/")
        if call.startswith(("flask ", "tokentill ")) and "..." not in call:
            yield shlex.split(call, comments=True)[1:]


@each_document
def test_files_exist(path: Path) -> None:
    for text in code(path):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./*-]+", text):
            assert list(PROJECT.glob(text.rstrip("/"))), f"{path.name} names {text}"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_architecture_has_the_rooms_in_the_order_of_their_contract() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    table = text.partition("| Room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    told = [room.removesuffix(".py").replace("/", ".") for row in rows for room in re.findall(r"`([^`]+)`", row)]
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer.split(" | ") for layer in contracts[0]["layers"]]
    floor = {room: number for number, layer in enumerate(layers) for room in layer}
    assert sorted(told) == sorted(floor)
    assert [floor[room] for room in told] == sorted(floor.values())
    rooms = {f"`app/{path.parent.name}`" for path in (PROJECT / "app").glob("*/__init__.py")}
    assert {room for room in rooms if room not in text} == set()


def test_the_architecture_tells_of_every_task_that_beat_starts() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    tasks = set(re.findall(r'every\("([\w.]+)"', (PROJECT / "worker" / "schedule.py").read_text()))
    assert len(tasks) > 10
    assert set(re.findall(r"`(tokentill\.\w+)`", text)) == tasks
