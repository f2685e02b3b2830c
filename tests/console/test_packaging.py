"""Whatever the pages are made of is shipped with the code."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.conftest import PROJECT


def test_every_template_and_asset_is_packaged() -> None:
    console = PROJECT / "app/console"
    with (PROJECT / "pyproject.toml").open("rb") as file:
        globs = tomllib.load(file)["tool"]["setuptools"]["package-data"]["app.console"]
    shipped = {path for glob in globs for path in console.glob(glob) if path.is_file()}
    there = {path for folder in ("assets", "templates") for path in Path(console, folder).rglob("*") if path.is_file()}
    assert len(there) > 15
    assert shipped == there


def test_the_image_takes_them_along() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().split()
    assert "!app" in ignored
    assert not any(name.endswith((".css", ".html", ".js", ".svg")) for name in ignored)
