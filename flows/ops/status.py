"""`relearn status`: disk, servers and UIs of a home; live version, schedule and data of each model.

All queries run at once, each with a time limit: a server that hangs delays no other line.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
from rich.filesize import decimal

from relearn.flows import environment
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.timeouts import iterate_with_timeout
from relearn.model.home import MLFLOW_UI_URL, Home, disk_usage
from relearn.serving.deployment.discovery import RunningServer, find_running_servers
from relearn.serving.predictions.reader import count_entries
from relearn.serving.releases.store import ReleaseStore, list_released_names

QUERY_TIMEOUT_SECONDS = 3.0  # queries of the home take milliseconds
QUERY_TIMEOUTS_SECONDS = {"retrained": 30.0}  # importing MLflow takes 2 s, 16 s from a cold disk
UNIT_SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
DEFAULT_MLFLOW_URL = "http://127.0.0.1:5000"  # of `mlflow server` and `relearn up`

StatusQuery = Callable[[], str]


@dataclass(frozen=True)
class StatusLine:
    """A line of `relearn status` about `subject`, which is the home or a model name."""

    subject: str
    label: str
    text: str


def status(home: Home) -> Iterator[StatusLine]:
    """Yield the lines of the home, then those of each released model."""
    queries: dict[tuple[str, str], StatusQuery] = {
        ("home", "disk"): partial(describe_disk, home),
        ("home", "servers"): partial(describe_servers, home),
        ("home", "UIs"): partial(describe_ui_urls, home),
    }
    for name in list_released_names(home):
        queries |= {
            (name, "live"): partial(describe_live_version, home, name),
            (name, "retrained"): partial(describe_last_retraining, home, name),
            (name, "next"): partial(describe_next_runs, home, name),
            (name, "data"): partial(describe_data, home, name),
            (name, "predictions"): partial(describe_prediction_log, home, name),
        }
    with environment.short_mlflow_timeouts():
        results = {
            key: iterate_with_timeout(
                QUERY_TIMEOUTS_SECONDS.get(key[1], QUERY_TIMEOUT_SECONDS), partial(_run_query, query)
            )
            for key, query in queries.items()
        }
        for (subject, label), result in results.items():
            yield StatusLine(subject, label, _read_result(result))
    if not list_released_names(home):
        yield StatusLine("home", "releases", "nothing is released yet: run relearn run")


def describe_disk(home: Home) -> str:
    """Return the home, its size and the sizes of its folders."""
    if not home.root.is_dir():
        return f"{home.root} is not there yet"
    sizes = {path.name: disk_usage(path) for path in home.root.iterdir()}
    names_by_size = sorted(sizes, key=lambda name: -sizes[name])
    folder_sizes = ", ".join(
        f"{name} {decimal(sizes[name])}" for name in names_by_size if sizes[name] >= 1_000
    )
    return f"{home.root}, {decimal(sum(sizes.values()))}" + (f": {folder_sizes}" if folder_sizes else "")


def describe_servers(home: Home) -> str:
    """Return the running servers of this home, with version and uptime."""
    return "; ".join(map(_describe_server, find_running_servers(home))) or "none: relearn serve starts one"


def _describe_server(server: RunningServer) -> str:
    version = server.get_served_version()
    state = f"version {version}" if version else "which does not answer"
    uptime = f"for {_humanize(_current_timestamp() - server.create_time)}"
    return f"{server.model_name or server.bento} at {server.url}, {state}, {uptime}"


def describe_ui_urls(home: Home) -> str:
    """Return the URLs of Prefect's and MLflow's UIs, and the process of `relearn up`."""
    prefect = PrefectApi.from_environment(home)
    lines = [f"Prefect at {prefect.ui_url}"] if prefect.get_state() in ("up", "unauthorized") else []
    stack = LocalStack.read(home)
    local_url = stack.service_urls.get("mlflow", DEFAULT_MLFLOW_URL) if stack else DEFAULT_MLFLOW_URL
    mlflow_url = httpx.URL(
        home.tracking_uri.rstrip("/") if home.tracking_uri.startswith("http") else local_url
    )
    with suppress(httpx.HTTPError):
        if httpx.get(f"{mlflow_url}/health", timeout=1, trust_env=False).text == "OK":
            lines.append(f"MLflow at {os.environ.get(MLFLOW_UI_URL) or mlflow_url.copy_with(userinfo=b'')}")
    if stack:
        lines.append(f"kept alive by relearn up, process {stack.process_id}")
    return ", ".join(lines) or "neither Prefect nor MLflow runs"


def describe_live_version(home: Home, name: str) -> str:
    """Return the live version, since when it has been live, and the rollback target."""
    last_entry = ReleaseStore(home.releases_dir(name)).ledger.read_last()
    if last_entry is None or last_entry.live is None:
        return "nothing: every candidate was rejected"
    rollback_note = (
        f"; a rollback makes {last_entry.rollback_target} live again" if last_entry.rollback_target else ""
    )
    return (
        f"version {last_entry.live.version} since"
        f" {_format_time(last_entry.live.published_at.timestamp())}{rollback_note}"
    )


def describe_last_retraining(home: Home, name: str) -> str:
    """Return the result, time and run of the last retraining."""
    from relearn.flows.results import GATE_DECISION_TAG
    from relearn.flows.tracking.store import connect_existing

    client = connect_existing(home)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return "never"
    experiment_ids = [experiment.experiment_id]
    newest_first = ["attributes.start_time DESC"]
    runs = client.search_runs(
        experiment_ids, "tags.`relearn.job_type` = 'retrain'", order_by=newest_first, max_results=1
    )
    if not runs:
        return "never by relearn run"
    run = runs[0]
    child_runs = client.search_runs(experiment_ids, f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    gate_decisions = [
        child_run.data.tags[GATE_DECISION_TAG]
        for child_run in child_runs
        if GATE_DECISION_TAG in child_run.data.tags
    ]
    result = gate_decisions[0].upper() if gate_decisions else run.info.status
    return f"{result}, {_format_time(run.info.start_time / 1000)}, run {run.info.run_id[:8]}"


def describe_next_runs(home: Home, name: str) -> str:
    """Return the times of the next retraining and the next monitoring of the model."""
    prefect = PrefectApi.from_environment(home)
    if not prefect.is_up():
        return "nothing is scheduled: no Prefect server is up"
    next_starts = {
        deployment["flow_name"]: prefect.find_next_run_time(deployment)
        for deployment in prefect.list_deployments(name)
    }
    lines = [f"{flow} {_format_time(start.timestamp())}" for flow, start in next_starts.items() if start]
    return ", ".join(lines) or "nothing is scheduled"


def describe_data(home: Home, name: str) -> str:
    """Return the dataset of the live version, and whether newer data was prepared after its training."""
    releases = ReleaseStore(home.releases_dir(name))
    last_entry = releases.ledger.read_last()
    if last_entry is None or last_entry.live is None:
        return "none"
    card = json.loads((releases.version_folder(last_entry.live.version) / "card.json").read_bytes())
    text = f"{card['dataset']}, {len(card['classes'])} classes, fingerprint {card['fingerprint'][:12]}"
    datasets = sorted(
        _list_prepared_datasets(home, card["dataset"]), key=lambda dataset: float(dataset["since"])
    )
    matches = [dataset for dataset in datasets if dataset["fingerprint"] == card["fingerprint"]]
    if matches:
        text += f", {matches[-1]['images']:,} images"
    if datasets and datasets[-1]["fingerprint"] != card["fingerprint"]:
        text += f"; prepared since: {datasets[-1]['images']:,} images, {datasets[-1]['fingerprint'][:12]}"
    return text


def describe_prediction_log(home: Home, name: str) -> str:
    """Return the numbers of logged predictions and of predictions with feedback."""
    prediction_count, feedback_count = count_entries(home.prediction_log_dir(name))
    return (
        f"{prediction_count:,} logged, {feedback_count:,} with feedback"
        if prediction_count or feedback_count
        else "none"
    )


def _list_prepared_datasets(home: Home, dataset: str) -> Iterator[dict[str, Any]]:
    for file in home.dataset_cache.glob("*/manifest.json"):
        card = json.loads(file.read_bytes())
        if card["name"] == dataset:
            images = sum(sum(class_counts) for class_counts in card["counts"].values())
            yield {"fingerprint": card["fingerprint"], "images": images, "since": file.stat().st_mtime}


def _run_query(query: StatusQuery) -> list[str]:
    return [query()]


def _read_result(result: Iterator[str]) -> str:
    try:
        return next(result)
    except Exception as error:  # printed in this line; the others are not affected
        return f"unknown, see relearn doctor: {' '.join(str(error).split())}"


def _current_timestamp() -> float:
    return datetime.now(UTC).timestamp()


def _format_time(timestamp: float) -> str:
    """Format a Unix time, in seconds, with its distance from now."""
    seconds_ahead = timestamp - _current_timestamp()
    distance = f"in {_humanize(seconds_ahead)}" if seconds_ahead > 0 else f"{_humanize(-seconds_ahead)} ago"
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC ({distance})"


def _humanize(seconds: float) -> str:
    """Format a duration in the largest unit that gives 2 or more, such as 90 minutes, not 1 hour."""
    for unit, unit_seconds in UNIT_SECONDS.items():
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return "a second"
