"""What `ops/` has for Prometheus and Grafana is checked by Prometheus's own tools and against live metrics."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.procfile import ROOT
from tests.debian import Debian, debian

OPS = ROOT / "ops"
RULES = OPS / "prometheus" / "tokentill.rules.yml"
DASHBOARDS = sorted((OPS / "grafana").glob("*.json"))
# Prometheus's own.
OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def prometheus(pytestconfig: pytest.Config) -> Debian:
    return debian(pytestconfig, {"promtool": "prometheus"})


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions() -> list[str]:
    """All that rules and dashboards ask Prometheus for."""
    found = [alert["expr"] for alert in alerts()]
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            found += [target["expr"] for target in panel.get("targets", ())]
    return found


def metrics_in(expression: str) -> set[str]:
    """Names of metrics, without what is in braces and without the suffixes of a histogram's series."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", expression)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\btokentill_\w+", bare)}


def test_promtool_takes_the_rules_and_the_configuration(prometheus: Debian) -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in prometheus.run("promtool", "check", "rules", RULES)
    checked = prometheus.run("promtool", "check", "config", OPS / "prometheus" / "prometheus.yml")
    assert "FAILED" not in checked


def test_each_alert_fires_when_it_should(prometheus: Debian) -> None:
    tests = OPS / "prometheus" / "tokentill.test.yml"
    done = subprocess.run(
        [prometheus.programs["promtool"], "test", "rules", tests],
        env=prometheus.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Each alert is seen to fire, and seen not to.
    fires: set[str] = set()
    is_silent: set[str] = set()
    for one in yaml.safe_load(tests.read_text())["tests"]:
        for case in one["alert_rule_test"]:
            (fires if "exp_alerts" in case else is_silent).add(case["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert fires == names
    assert is_silent >= names - {"TokentillPoolFull"}


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = {alert["annotations"]["runbook"]: alert["alert"] for alert in alerts()}
    assert len(pages) == len(alerts())
    on_disk = {f"docs/runbooks/{path.name}" for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert on_disk == set(pages)
    for page, name in pages.items():
        text = (ROOT / page).read_text()
        assert text.startswith(f"# {name}\n"), page
        for part in ("## What it means", "## Look", "## Do"):
            assert f"\n{part}\n" in text, f"{page}: {part}"
        # Who comes from the alert learns how its commands are run in containers.
        assert "](../operations.md#where-commands-run)" in text, page


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboards_are_whole(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert panel["targets"]
            for target in panel["targets"]:
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_rules_and_dashboards_ask_for_what_there_is() -> None:
    """What docs/metrics.md has in its tables is what is served: tests/http/test_metrics.py."""
    served = set(re.findall(r"^\| `(tokentill_\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    asked = {name for expression in expressions() for name in metrics_in(expression)}
    assert len(asked) > 20
    assert asked - served == set()
    assert {alert["alert"] for alert in alerts() if not metrics_in(alert["expr"])} == {"TokentillDown"}


def test_what_the_whole_installation_has_is_never_added_up() -> None:
    """Every target tells the same of it."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    of_the_whole = re.search(r"## Of the whole\n(.*?)\n## ", text, re.DOTALL)
    assert of_the_whole is not None
    names = re.findall(r"^\| `(tokentill_\w+)", of_the_whole[1], re.MULTILINE)
    assert len(names) > 20
    taken_once = re.compile(rf"\bmax( by \([^)]*\))? ?\(({'|'.join(names)})(\{{[^}}]*\}})?( offset \w+)?\)")
    rests = {expression: taken_once.sub("", expression) for expression in expressions()}
    wrong = [expression for expression, rest in rests.items() if metrics_in(rest) & set(names)]
    assert wrong == []
