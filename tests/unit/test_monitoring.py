"""The dashboard and the alerts ask for figures that are there, in forms that Grafana and Prometheus read.

Grafana itself is not here. The dashboard is read by its own SDK, which is generated from Grafana's schemas, and written again:
a field that the schemas do not know, or that has another type, does not come back.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from support.http_door import DoorClient

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "packaging" / "grafana" / "stillframe.json"
ALERTS = ROOT / "packaging" / "prometheus" / "alerts.yml"
# Prometheus makes it of each scrape
NOT_OURS = {"up"}
# what ends in no unit counts these, or says yes or no
COUNTED = ("operations", "requests", "connections", "workers", "snapshots", "reachable")
UNITS = ("seconds", "bytes", "total", "info")


@cache
def scraped() -> dict[str, Any]:
    """Family -> the family, of a scrape of the whole door with everything that can be known."""
    door = DoorClient()
    door.app.state.crowd = ()  # in its place: here is no server that has connections
    door.watched.metrics.memory_saved(1)
    page = door.request("GET", "/metrics").text
    return {family.name: family for family in text_string_to_metric_families(page)}


@cache
def sample_names() -> frozenset[str]:
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}
    return frozenset(name + end for name, family in scraped().items() for end in ends[family.type])


def names_in(expression: str) -> set[str]:
    """The metrics that PromQL asks for."""
    # what Grafana fills in
    filled = expression.replace("$__rate_interval", "5m").replace("$instance", "a")
    return set(_selected(promql_parser.parse(filled)))


def _selected(node: Any) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    for part in ("lhs", "rhs", "expr", "vector_selector", "param"):
        inner = getattr(node, part, None)
        if inner is not None:
            yield from _selected(inner)
    for argument in getattr(node, "args", None) or ():
        yield from _selected(argument)


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


# --- the figures ----------------------------------------------------------------------------------------------------


def test_every_figure_has_its_unit_and_its_meaning() -> None:
    assert len(scraped()) > 20
    for name, family in scraped().items():
        if name.startswith("process_"):
            continue  # named by Prometheus' own library, as everywhere
        assert name.startswith("stillframe_")
        assert family.documentation.endswith("."), f"{name}: {family.documentation}"
        full = name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        assert full.rpartition("_")[2] in (*UNITS, *COUNTED), full


def test_every_figure_is_in_the_document_and_nothing_else() -> None:
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text[text.index("## Metrics and health") :]
    columns = re.findall(r"^\|([^|]+)\|", section[: section.index("\n## ", 1)], re.MULTILINE)
    table = {name for column in columns for name in re.findall(r"`(stillframe_\w+)`", column)}
    told = {
        name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for name, family in scraped().items()
        if name.startswith("stillframe_")
    }
    assert table == told


# --- the dashboard --------------------------------------------------------------------------------------------------


def test_the_dashboard_is_what_grafanas_schemas_say() -> None:
    plugins.register_default_plugins()
    back = json.loads(json.dumps(Dashboard.from_json(dashboard()), cls=JSONEncoder))
    assert list(_lost(dashboard(), back, "$")) == []


def _lost(one: Any, other: Any, path: str) -> Iterator[str]:
    """Where ``other`` has not what ``one`` has."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            yield from _lost(value, other.get(key, "nothing"), f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, value in enumerate(one):
            yield from _lost(value, other[number], f"{path}[{number}]")
    elif one != other:
        yield f"{path}: {one!r} has become {other!r}"


@pytest.mark.parametrize("spoil", ["panel", "option", "target"])
def test_the_check_of_the_dashboard_sees_what_is_wrong(spoil: str) -> None:
    plugins.register_default_plugins()
    wrong = dashboard()
    panel = next(panel for panel in wrong["panels"] if panel["type"] == "timeseries")
    {"panel": panel, "option": panel["options"], "target": panel["targets"][0]}[spoil]["misspelt"] = 1
    back = json.loads(json.dumps(Dashboard.from_json(wrong), cls=JSONEncoder))
    assert len(list(_lost(wrong, back, "$"))) == 1


def test_the_dashboards_panels_have_a_place_each() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_dashboard_asks_for_figures_that_are_there() -> None:
    asked: set[str] = set()
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            names = names_in(target["expr"])
            assert names, f"{panel['title']} asks for nothing"
            assert names <= sample_names(), panel["title"]
            asked |= names
    families = {name for name in scraped() if name.startswith("stillframe_")}
    shown = {family for family in families if any(name.startswith(family) for name in asked)}
    # of the budget of memory an alert speaks
    assert families - shown == {"stillframe_tenant_memory_budget_bytes"}


# --- the alerts -----------------------------------------------------------------------------------------------------


def test_the_alerts_ask_for_figures_that_are_there() -> None:
    for rule in alerts():
        names = names_in(rule["expr"])
        assert names, rule["alert"]
        assert names <= sample_names() | NOT_OURS, rule["alert"]


def test_each_alert_says_what_happened_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["alert"].startswith("Stillframe")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        grouped = re.search(r"by \(([\w, ]+)\)", rule["expr"])
        if grouped is not None:
            assert named <= set(grouped[1].split(", ")), f"{rule['alert']} names a label that it has summed away"


def test_labels_and_codes_that_alerts_name_exist() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for rule in alerts():
        for codes in re.findall(r'scode=~?"([\d|]+)"', rule["expr"]):
            for code in codes.split("|"):
                assert code in page


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_agrees() -> None:
    rules = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert rules.returncode == 0, rules.stdout + rules.stderr
    page = DoorClient().request("GET", "/metrics").text
    said = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
