"""Overview of a home, for `relearn` alone: what is trained, released and running, and the next command.

It imports and asks as little as it can: its first line appears within a second.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from relearn.flows.ops.descriptions import describe_classifier, describe_server, format_age, read_card
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.tracking.local_runs import LocalRun, find_local_store, list_local_runs
from relearn.model.errors import RelearnError
from relearn.model.home import Home
from relearn.serving.deployment.discovery import find_running_servers
from relearn.serving.releases.store import ReleaseStore, list_released_names


@dataclass(frozen=True)
class OverviewLine:
    """A line of the overview; `label` is empty where it continues the one before."""

    label: str
    text: str


def describe_home(home: Home) -> Iterator[OverviewLine]:
    """Yield the lines about trained, released and running classifiers."""
    yield from _label("Trained", _describe_trainings(home))
    names = list_released_names(home)
    yield from _label("Released", [f"{name}: {_describe_release(home, name)}" for name in names])
    stack = LocalStack.read(home)
    running = [f"relearn up, process {stack.process_id}"] if stack else []
    yield from _label("Running", running + [describe_server(server) for server in find_running_servers(home)])


def find_next_command(home: Home) -> tuple[str, ...]:
    """Return the arguments of the command that leads one step further."""
    names = list_released_names(home)
    if any(home.checkpoints.glob("*/*.safetensors")):
        return "train", "--resume"
    if not names:
        return ("run",)
    if not any(find_running_servers(home)):
        return ("up", *(("--model-name", names[0]) if len(names) > 1 else ()))
    return ("status",)


def _label(label: str, texts: list[str]) -> Iterator[OverviewLine]:
    for number, text in enumerate(texts or ["nothing"]):
        yield OverviewLine("" if number else label, text)


def _describe_trainings(home: Home) -> list[str]:
    """Return the newest training of each model name, with the number of all."""
    if find_local_store(home) is None:
        return ["see relearn compare: the runs are not on this machine"]
    try:
        runs = list_local_runs(home)
    except sqlite3.Error as error:
        return [f"unknown, see relearn doctor: {error}"]
    runs_by_name: dict[str, list[LocalRun]] = {}
    for run in runs:
        runs_by_name.setdefault(run.model_name, []).append(run)
    return [_describe_runs(*runs) for runs in runs_by_name.values()]


def _describe_runs(newest: LocalRun, *others: LocalRun) -> str:
    name = newest.name
    if newest.job_type == "train":  # the name of a retraining has model name, accuracy and verdict
        accuracy = f" · {newest.accuracy:.1%}" if newest.accuracy is not None else ""
        name = f"{newest.model_name} · {newest.name}{accuracy}"
    state = "" if newest.status == "FINISHED" else f", {newest.status.lower()}"
    count = f"; {len(others)} before" if others else ""
    return f"{name}{state}, {format_age(newest.started)}{count}"


def _describe_release(home: Home, name: str) -> str:
    try:
        live = ReleaseStore(home.releases_dir(name)).read_live()
        if live is None:
            return "nothing, every candidate was rejected"
        classifier = describe_classifier(read_card(home, name, live.version))
    except (OSError, ValueError, KeyError, RelearnError) as error:
        return f"unknown, see relearn doctor: {error}"
    return f"version {live.version}, {classifier}, {format_age(live.published_at.timestamp())}"
