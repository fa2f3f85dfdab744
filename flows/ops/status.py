"""`relearn status`: disk, servers and UIs of a home; live version, schedule and data of each model.

All queries run at once, each with a time limit: a server that hangs delays no other line.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from rich.filesize import decimal

from relearn.flows.ops.descriptions import describe_classifier, describe_server, format_time, read_card
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.process import environment
from relearn.flows.process.timeouts import iterate_with_timeout
from relearn.flows.tracking.local_runs import find_local_store, list_local_runs
from relearn.model.home import MLFLOW_UI_URL, Home, disk_usage
from relearn.serving.deployment.discovery import find_running_servers
from relearn.serving.predictions.reader import count_entries
from relearn.serving.releases.store import ReleaseStore, list_released_names

QUERY_TIMEOUT_SECONDS = 3.0  # queries of the home take milliseconds
QUERY_TIMEOUTS_SECONDS = {
    "retrained": 30.0,
    "MLflow": 30.0,
}  # importing MLflow takes 2 s, 16 s from a cold disk
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
            (name, "MLflow"): partial(describe_aliases, home, name),
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
    return "; ".join(map(describe_server, find_running_servers(home))) or "none: relearn serve starts one"


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
    """Return the live version, its accuracy, since when it has been live, and the rollback target."""
    last_entry = ReleaseStore(home.releases_dir(name)).ledger.read_last()
    if last_entry is None or last_entry.live is None:
        return "nothing: every candidate was rejected"
    card = read_card(home, name, last_entry.live.version)
    rollback_note = (
        f"; a rollback makes {last_entry.rollback_target} live again" if last_entry.rollback_target else ""
    )
    return (
        f"version {last_entry.live.version}, {describe_classifier(card)}, since"
        f" {format_time(last_entry.live.published_at.timestamp())}{rollback_note}"
    )


def describe_aliases(home: Home, name: str) -> str:
    """Return whether MLflow's aliases name the runs of the ledger, and the fix if they do not."""
    from relearn.flows.releases.release_state import describe_mismatches

    mismatches = describe_mismatches(home, name)
    if not mismatches:
        return "its aliases agree with the releases"
    return f"{'; '.join(mismatches)}; see relearn doctor"


def describe_last_retraining(home: Home, name: str) -> str:
    """Return the name, which has the result, time and id of the run of the last retraining."""
    if find_local_store(home):
        with suppress(sqlite3.Error):  # MLflow gives the reason, and migrates a store of an older version
            for run in list_local_runs(home):
                if (run.model_name, run.job_type) == (name, "retrain"):
                    return _describe_run(run.name, run.status, run.started, run.run_id)
            return "never"
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
        return "never"
    info = runs[0].info
    return _describe_run(str(info.run_name), info.status, info.start_time / 1000, info.run_id)


def _describe_run(name: str, status: str, started: float, run_id: str) -> str:
    state = "" if status == "FINISHED" else f", {status.lower()}"
    return f"{name}{state}, {format_time(started)}, run {run_id[:8]}"


def describe_next_runs(home: Home, name: str) -> str:
    """Return the times of the next retraining and the next monitoring of the model."""
    prefect = PrefectApi.from_environment(home)
    if not prefect.is_up():
        return "nothing is scheduled: no Prefect server is up"
    next_starts = {
        deployment["flow_name"]: prefect.find_next_run_time(deployment)
        for deployment in prefect.list_deployments(name)
    }
    lines = [f"{flow} {format_time(start.timestamp())}" for flow, start in next_starts.items() if start]
    return ", ".join(lines) or "nothing is scheduled"


def describe_data(home: Home, name: str) -> str:
    """Return the dataset of the live version, and whether newer data was prepared after its training."""
    last_entry = ReleaseStore(home.releases_dir(name)).ledger.read_last()
    if last_entry is None or last_entry.live is None:
        return "none"
    card = read_card(home, name, last_entry.live.version)
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
