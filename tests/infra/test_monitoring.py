"""Promises of the monitoring: alerts fire for their causes, and every queried metric exists."""

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.chaos.prometheus import shorten_durations
from infra.chaos.trigger_alerts import FAULTS
from relearn.serving.metrics.prometheus import LATENCY_BUCKETS, Metrics
from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "monitoring"
ALERTS, CASES = MONITORING / "alerts.yml", MONITORING / "alerts_test.yml"
GRAFANA = MONITORING / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "relearn.json"
PROVISIONED = sorted(GRAFANA.rglob("*.yml"))

PROMETHEUS_SERIES = {"up", "ALERTS"}  # created by Prometheus itself
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@cache
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def cases() -> list[dict[str, Any]]:
    tests = yaml.safe_load(CASES.read_text())["tests"]
    return [case for test in tests for case in test["alert_rule_test"]]


@cache
def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    """Return the panels without rows, which are only headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> dict[str, str]:
    """Return the queries of the dashboard by the panel or annotation that has them."""
    queries = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    annotations = dashboard()["annotations"]["list"]
    return queries | {annotation["name"]: annotation["target"]["expr"] for annotation in annotations}


def expressions() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules()} | dashboard_queries()


def exported_series() -> set[str]:
    """Return the names of all series that `/metrics` can export."""
    metrics = Metrics().registry.collect()
    own_series = {metric.name + suffix for metric in metrics for suffix in SUFFIXES[metric.type]}
    return own_series | {name for gauges in GAUGES_BY_FILE.values() for name in gauges}


def queried_series(expression: str) -> set[str]:
    """Return the series in an expression: every word that is no label, keyword or function."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", " ", text)
    words = set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", text))
    return words - {"and", "or", "unless", "offset", "sum", "max"}  # the last two come before `by`


def family_of(series: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", series)


def promtool(*arguments: str | Path) -> str:
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stdout + result.stderr
    return result.stdout


def write_local_config(folder: Path) -> Path:
    """Write prometheus.yml to `folder`, with local paths instead of those in the container."""
    (folder / "key").write_text("a key\n")
    local_paths = {"/etc/prometheus/alerts.yml": str(ALERTS), "/run/secrets/metrics_key": str(folder / "key")}
    text = (MONITORING / "prometheus.yml").read_text()
    for container_path, local_path in local_paths.items():
        assert container_path in text
        text = text.replace(container_path, local_path)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


@pytest.mark.needs("promtool")
def test_prometheus_accepts_its_config(tmp_path: Path):
    """It also loads all alert rules."""
    output = promtool("check", "config", write_local_config(tmp_path))
    assert f"{len(rules())} rules found" in output


@pytest.mark.needs("promtool")
def test_alerts_fire_for_their_causes():
    """The cases in alerts_test.yml also say when an alert stays silent, and with what text it fires."""
    promtool("test", "rules", CASES)


@pytest.mark.needs("promtool")
def test_prometheus_parses_the_dashboard_queries(tmp_path: Path):
    recording_rules = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(dashboard_queries().values())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recording_rules}]}))
    assert f"{len(recording_rules)} rules found" in promtool("check", "rules", path)


@pytest.mark.parametrize("name", expressions())
def test_every_queried_series_is_exported(name: str):
    """A series that does not exist would mean an alert that never fires, or an empty panel."""
    series = queried_series(expressions()[name])
    assert series
    assert set() == series - exported_series() - PROMETHEUS_SERIES


def test_every_exported_metric_is_used():
    """Metrics in neither dashboard nor alerts are listed here."""
    used = {
        family_of(series) for expression in expressions().values() for series in queried_series(expression)
    }
    unused = {
        *("relearn_model_reloads", "relearn_orphaned_threads", "relearn_no_answers"),
        *("relearn_monitor_predictions", "relearn_class_fraction"),
        *("relearn_mean_confidence", "relearn_low_confidence_fraction"),
    }
    assert unused == {family_of(series) for series in exported_series()} - used


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_alert_has_a_case_that_fires_and_one_that_does_not(alert: str):
    outcomes = {bool(case.get("exp_alerts")) for case in cases() if case["alertname"] == alert}
    assert {True, False} == outcomes


def test_cases_belong_to_existing_alerts():
    """A silent case of a renamed alert would always pass."""
    assert {rule["alert"] for rule in rules()} == {case["alertname"] for case in cases()}


def test_every_alert_was_triggered_by_a_fault():
    """The result of each in a real Prometheus is documented."""
    alerts = {rule["alert"] for rule in rules()}
    assert alerts == {alert for fault in FAULTS for alert in fault.alerts}
    page = (ROOT / "docs" / "reliability" / "alerts.md").read_text()
    assert alerts == set(re.findall(r"^\| `(\w+)`", page, re.M))


def test_shorter_durations_change_only_numbers():
    """The rules with shorter durations are otherwise the real ones."""
    number = re.compile(r"\d+( \* 3600|[smh])?")
    text = ALERTS.read_text()
    assert text != shorten_durations(text)
    assert number.sub("#", text) == number.sub("#", shorten_durations(text))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]):
    """Its text names a command for the diagnosis, and only subcommands that `relearn` has."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["alert"].startswith("Relearn")
    description = " ".join(rule["annotations"]["description"].split())
    assert {"summary", "description"} == set(rule["annotations"])
    subcommands = set(
        re.findall(r"^## relearn (\w+)$", (ROOT / "docs/reference/commands.md").read_text(), re.M)
    )
    commands = re.findall(r"\brelearn (\w+)", description)
    assert set() == set(commands) - subcommands
    assert commands or "docker" in description or "prometheus.yml" in description


def test_latency_threshold_is_a_bucket_bound():
    """The fraction above a bound of the histogram is exact, not interpolated."""
    expression = next(rule["expr"] for rule in rules() if rule["alert"] == "RelearnHighLatency")
    assert float(expression.rsplit(">", 1)[1]) in LATENCY_BUCKETS


def test_dashboard_is_independent_of_an_installation():
    """It has a fixed uid, its own panel ids, and the provisioned data source."""
    board = dashboard()
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    assert ("relearn", None) == (board["uid"], board.get("id"))
    panel_ids = [panel["id"] for panel in board["panels"]]
    assert len(panel_ids) == len(set(panel_ids))
    for element in [*panels(), *board["annotations"]["list"]]:
        assert {"type": "prometheus", "uid": uid} == element["datasource"]
    assert not {"__inputs", "__requires", "pluginVersion", "iteration"} & set(all_keys(board))
    assert {"stat", "timeseries", "state-timeline"} == {panel["type"] for panel in panels()}


def all_keys(value: Any) -> Iterator[str]:
    """Yield all keys of a JSON value, at any depth."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, (dict, list)):
        for element in value.values() if isinstance(value, dict) else value:
            yield from all_keys(element)


def test_panels_do_not_overlap():
    """They fill the 24 columns without gaps."""
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        area = panel["gridPos"]
        columns = range(area["x"], area["x"] + area["w"])
        rows = range(area["y"], area["y"] + area["h"])
        for x, y in itertools.product(columns, rows):
            assert 0 <= x < 24
            assert (x, y) not in cells, f"{panel['title']} and {cells[x, y]}"
            cells[x, y] = panel["title"]
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_panel_has_a_description_and_a_unit(panel: dict[str, Any]):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    targets = [target["refId"] for target in panel["targets"]]
    assert len(targets) == len(set(targets)) > 0


@pytest.mark.parametrize("path", PROVISIONED, ids=lambda path: str(path.relative_to(GRAFANA)))
def test_provisioning_files_have_the_format_of_grafana(path: Path):
    content = yaml.safe_load(path.read_text())
    assert 1 == content.pop("apiVersion")
    assert {path.parent.name: "datasources", "dashboards": "providers"}[path.parent.name] in content
