"""The dashboard, the alert rules and the unit beside MIGRATION.md, held against a running proxy and their own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.engines import ENGINES
from tests.end_to_end.serving import Serve, backend

FOLDER = Path(__file__).parents[2] / "proxy" / "monitoring"
METRIC = re.compile(r"\bproxy_\w+")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)"
)


@pytest.fixture(scope="module", params=ENGINES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The engine and the /metrics of a proxy that has served a request."""
    with backend() as made:
        config = {
            "server": {"port": 0},
            "admin": {"port": 0},
            "endpoints": [{"name": "a", "url": f"http://127.0.0.1:{made.port}"}],
        }
        proxy = Serve(tmp_path_factory.mktemp("monitored"), config, "--engine", request.param)
        try:
            assert proxy.get()[0] == 200
            yield request.param, str(proxy.admin("/metrics"))
        finally:
            proxy.close()


def expressions() -> dict[str, list[str]]:
    """Every PromQL expression: of the rules, and of each row of the dashboard."""
    found: dict[str, list[str]] = {"rules": [rule["expr"] for rule in rules()]}
    row = ""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        found.setdefault(row, []).extend(target["expr"] for target in panel.get("targets", ()))
    return found


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def accepted(*command: str, text: str | None = None) -> None:
    """Run a tool that must have nothing to say against it."""
    done = subprocess.run(command, cwd=FOLDER, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return loaded


def test_every_series_that_is_drawn_or_watched_is_exported(exported: tuple[str, str]) -> None:
    engine, text = exported
    known = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    asked = {
        name
        for row, found in expressions().items()
        if engine == "olla" or not row.startswith("Olla only")
        for expr in found
        for name in METRIC.findall(expr)
    }
    # Garbage collections and stalls have series once there was one; their families are there from the beginning.
    known |= set(re.findall(r"# TYPE (proxy_\w+)", text))
    olla_only = {name for name in asked if "breaker" in name or "waiting" in name or "transport" in name}
    assert asked - known <= (olla_only if engine == "sherpa" else set())


def test_series_that_only_olla_has_are_in_a_row_that_says_so() -> None:
    for row, found in expressions().items():
        if row not in ("rules",) and not row.startswith("Olla only"):
            assert not [expr for expr in found if re.search("breaker|pool_|transport", expr)], row


def test_panels_have_ids_of_their_own_and_none_lies_on_another() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for a, b in combinations([panel["gridPos"] for panel in panels], 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"]
        assert apart or b["y"] + b["h"] <= a["y"], (a, b)


@needs_promtool
def test_the_rules_are_valid_and_fire_where_they_should() -> None:
    accepted("promtool", "check", "rules", "alerts.yaml")
    accepted("promtool", "test", "rules", "alerts_test.yaml")


def test_every_rule_is_played() -> None:
    played = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    firing = {case["alertname"] for test in played for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert firing == {rule["alert"] for rule in rules()}


@needs_promtool
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{i}", "expr": expr.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for i, expr in enumerate(expr for found in expressions().values() for expr in found)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    accepted("promtool", "check", "rules", str(file))


@needs_promtool
def test_what_is_exported_is_what_prometheus_reads(exported: tuple[str, str]) -> None:
    accepted("promtool", "check", "metrics", text=exported[1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian package systemd)")
def test_the_unit_is_valid() -> None:
    accepted("systemd-analyze", "verify", "proxy-engines.service")
