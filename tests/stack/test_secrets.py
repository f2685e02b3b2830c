"""The secrets of docker-compose.yml: made as its head tells, changed as docs/deploy.md tells."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stack.procfile import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text()
REQUIRED = set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE))


def shell(line: str, folder: Path) -> None:
    subprocess.run(["/bin/sh", "-ec", line], cwd=folder, check=True, capture_output=True)


def values(folder: Path) -> dict[str, str]:
    """As Compose reads them: a name, `=`, and the rest of the line."""
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def edits(variable: str) -> list[str]:
    """The commands of docs/deploy.md that change this variable."""
    section = (ROOT / "docs" / "deploy.md").read_text().split("\n## Keys and passwords\n", 1)[1]
    return re.findall(rf'^\$ (sed -i "s/\^{variable}=.*)$', section, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = COMPOSE.split("\nname:", 1)[0]
    told = [line.removeprefix("#   ") for line in head.splitlines() if line.startswith("#   ")]
    assert told[-1].startswith("docker compose up")
    shell("\n".join(told[:-1]), tmp_path)
    return tmp_path


def test_the_head_makes_what_is_required(folder: Path) -> None:
    made = values(folder)
    assert set(made) == REQUIRED
    assert len(set(made.values())) == len(REQUIRED) == 5
    for name in REQUIRED - {"FLOWER_BASIC_AUTH"}:
        assert re.fullmatch(r"[a-z0-9]{48}", made[name]), name
    assert re.fullmatch(r"operator:[a-z0-9]{24}", made["FLOWER_BASIC_AUTH"])
    assert (folder / ".env").stat().st_mode & 0o077 == 0
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_a_key_is_rotated_without_a_gap(folder: Path) -> None:
    before = values(folder)
    [add, remove] = edits("SERVER_API_KEY")
    shell(add, folder)
    both = values(folder)
    old, new = both.pop("SERVER_API_KEY").split(",")
    assert old == before.pop("SERVER_API_KEY") != new
    assert len(new) == 48
    shell(remove, folder)
    after = values(folder)
    assert after.pop("SERVER_API_KEY") == new
    assert before == both == after


@pytest.mark.parametrize("variable", ["POSTGRES_PASSWORD", "REDIS_PASSWORD"])
def test_a_password_is_replaced(folder: Path, variable: str) -> None:
    before = values(folder)
    [edit] = edits(variable)
    shell(f"NEW=of-postgres\n{edit}", folder)
    after = values(folder)
    assert after.pop(variable) not in ("", before.pop(variable))
    assert before == after
