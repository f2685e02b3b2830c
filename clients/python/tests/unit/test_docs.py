"""What the documents say of this client, held against it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tokentill

CLIENT = Path(__file__).resolve().parents[2]
DOCS = CLIENT.parents[1] / "docs" / "clients"


def test_the_tests_that_the_usage_table_names_are_there() -> None:
    # A row's fourth cell is Python's.
    rows = [row.split("|") for row in (DOCS / "usage.md").read_text().splitlines() if row.startswith("| ")]
    cells = " ".join(row[4] for row in rows if len(row) > 5)
    named = set(re.findall(r"::(test_\w+)", cells))
    written = "".join(path.read_text() for path in (CLIENT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert sorted(name for name in named if f"def {name}(" not in written) == []
    for path in re.findall(r"`((?:unit|providers)/test_\w+\.py)", cells):
        assert (CLIENT / "tests" / path).is_file()


def test_the_versions_that_the_usage_table_names_are_those_locked() -> None:
    table = (DOCS / "usage.md").read_text()
    locks = "\n".join(path.read_text() for path in CLIENT.glob("requirements-*.lock"))
    # Those for an older Python than the tests' are another matter.
    newest = "\n".join(line for line in locks.splitlines() if "python_full_version <" not in line)
    for package in ("openai", "anthropic", "google-genai", "ollama", "langchain-core"):
        versions = re.findall(rf"^{package}==([\d.]+)", newest, re.MULTILINE)
        assert versions
        for version in versions:
            assert re.search(rf"{package} (\S+ and )?{re.escape(version)}", table), (package, version)


@pytest.mark.parametrize("document", ["python.md", "usage.md", "moving-from-the-guide.md"])
def test_what_the_examples_import_is_there(document: str) -> None:
    text = (DOCS / document).read_text()
    for names in re.findall(r"^from tokentill import (?:\(([^)]*)\)|(.*))$", text, re.MULTILINE):
        for name in re.split(r"[,\s]+", "".join(names)):
            assert not name or hasattr(tokentill, name), name
