"""What watches the service: alerts fire for their causes, and nothing asks for a number that nobody tells."""

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

from infra.prometheus import faster
from infra.when_alerts_sound import CAUSES
from relearn.serving.metrics.prometheus import LATENCY_BUCKETS, Metrics
from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "infra" / "monitoring"
ALERTS, CASES = MONITORING / "alerts.yml", MONITORING / "alerts_test.yml"
GRAFANA = MONITORING / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "relearn.json"
PROVISIONED = sorted(GRAFANA.rglob("*.yml"))

PROMETHEUS = {"up", "ALERTS"}  # that it makes itself
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
    """Those that show something; rows are only headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def asked() -> dict[str, str]:
    """What the dashboard asks Prometheus, by where it does."""
    of_panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    return of_panels | {one["name"]: one["target"]["expr"] for one in dashboard()["annotations"]["list"]}


def expressions() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in rules()} | asked()


def told() -> set[str]:
    """The names of all series that `/metrics` can tell."""
    own = {one.name + suffix for one in Metrics().registry.collect() for suffix in SUFFIXES[one.type]}
    return own | {name for gauges in GAUGES_BY_FILE.values() for name in gauges}


def names(expression: str) -> set[str]:
    """The series that an expression asks for: every word that is no label, no keyword and no function."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", " ", bare)
    words = set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare))
    return words - {"and", "or", "unless", "offset", "sum", "max"}  # the last two stand before their `by`


def family(series: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", series)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def in_place(folder: Path) -> Path:
    """The config with the files it names in `folder` instead of the container."""
    (folder / "key").write_text("a key\n")
    places = {"/etc/prometheus/alerts.yml": str(ALERTS), "/run/secrets/metrics_key": str(folder / "key")}
    text = (MONITORING / "prometheus.yml").read_text()
    for place, here in places.items():
        assert place in text
        text = text.replace(place, here)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


@pytest.mark.needs("promtool")
def test_prometheus_takes_its_config(tmp_path: Path):
    """And the alerts that it names."""
    said = promtool("check", "config", in_place(tmp_path))
    assert f"{len(rules())} rules found" in said


@pytest.mark.needs("promtool")
def test_alerts_fire_for_their_causes():
    """And for nothing else: the cases beside them say when, and with what words."""
    promtool("test", "rules", CASES)


@pytest.mark.needs("promtool")
def test_prometheus_understands_the_dashboard(tmp_path: Path):
    """Every question in it is one that Prometheus can read."""
    recorded = [
        {"record": f"asked:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(asked().values())
    ]
    path = tmp_path / "asked.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", path)


@pytest.mark.parametrize("where", expressions())
def test_only_what_is_told_is_asked_for(where: str):
    """A number that the service does not tell would be an alert that never comes, or an empty panel."""
    asked_for = names(expressions()[where])
    assert asked_for
    assert set() == asked_for - told() - PROMETHEUS


def test_everything_the_service_tells_is_watched():
    """What is told, but neither shown nor a cause of alerts, is listed here."""
    shown = {family(name) for each in expressions().values() for name in names(each)}
    left_out = {
        *("relearn_model_reloads", "relearn_orphaned_threads"),
        *("relearn_monitor_predictions", "relearn_class_fraction"),
        *("relearn_mean_confidence", "relearn_low_confidence_fraction"),
    }
    assert left_out == {family(name) for name in told()} - shown


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_an_alert_has_a_case_for_and_one_against_it(alert: str):
    """None is there without a proof that it fires, and that it can be silent."""
    fires = {bool(case.get("exp_alerts")) for case in cases() if case["alertname"] == alert}
    assert {True, False} == fires


def test_cases_are_of_alerts_that_are_there():
    """A case of an alert that was renamed would be silent for ever."""
    assert {rule["alert"] for rule in rules()} == {case["alertname"] for case in cases()}


def test_every_alert_has_a_cause_that_is_planted():
    """And has been heard for it in a real Prometheus: what came of it is written down."""
    alerts = {rule["alert"] for rule in rules()}
    assert alerts == {alert for cause in CAUSES for alert in cause.alerts}
    told = (ROOT / "docs" / "when-alerts-sound.md").read_text()
    assert alerts == set(re.findall(r"^\| `(\w+)`", told, re.M))


def test_a_faster_clock_changes_nothing_but_numbers():
    """What is heard by it are the rules that are there."""
    number = re.compile(r"\d+( \* 3600|[smh])?")
    text = ALERTS.read_text()
    assert text != faster(text)
    assert number.sub("#", text) == number.sub("#", faster(text))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]):
    """Its words name a command to look with, and only verbs that `relearn` has."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["alert"].startswith("Relearn")
    description = " ".join(rule["annotations"]["description"].split())
    assert {"summary", "description"} == set(rule["annotations"])
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(), re.M)
    verbs = {verb for row in rows for verb in re.findall(r"`(\w+)`", row)}
    commands = re.findall(r"\brelearn (\w+)", description)
    assert set() == set(commands) - verbs
    assert commands or "docker" in description or "prometheus.yml" in description


def test_the_slow_are_told_from_the_others_exactly():
    """The limit of the latency alert is a bound of the histogram, where no value is guessed."""
    slow = next(rule["expr"] for rule in rules() if rule["alert"] == "RelearnHighLatency")
    assert float(slow.rsplit(">", 1)[1]) in LATENCY_BUCKETS


def test_the_dashboard_belongs_to_no_installation():
    """Its address is fixed, its numbers are its own, and its source is the one that is provisioned."""
    page = dashboard()
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    assert ("relearn", None) == (page["uid"], page.get("id"))
    numbers = [panel["id"] for panel in page["panels"]]
    assert len(numbers) == len(set(numbers))
    for one in [*panels(), *page["annotations"]["list"]]:
        assert {"type": "prometheus", "uid": uid} == one["datasource"]
    assert not {"__inputs", "__requires", "pluginVersion", "iteration"} & set(keys(page))
    assert {"stat", "timeseries", "state-timeline"} == {panel["type"] for panel in panels()}


def keys(value: Any) -> Iterator[str]:
    """All keys of a JSON value, however deep."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from keys(one)


def test_no_panel_lies_on_another():
    """Within 24 columns, each in a place of its own, without holes between the rows."""
    places: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        for x, y in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert 0 <= x < 24
            assert (x, y) not in places, f"{panel['title']} and {places[x, y]}"
            places[x, y] = panel["title"]
    assert len(places) == 24 * (1 + max(y for _, y in places))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_explains_itself(panel: dict[str, Any]):
    """What it shows stands in a sentence, and its numbers have a unit."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    targets = [target["refId"] for target in panel["targets"]]
    assert len(targets) == len(set(targets)) > 0


@pytest.mark.parametrize("path", PROVISIONED, ids=lambda path: str(path.relative_to(GRAFANA)))
def test_grafana_finds_what_is_provisioned(path: Path):
    """Files of the form that Grafana reads at its start."""
    content = yaml.safe_load(path.read_text())
    assert 1 == content.pop("apiVersion")
    assert {path.parent.name: "datasources", "dashboards": "providers"}[path.parent.name] in content
