"""Classifiers, servers and times in a few words, for `relearn` alone and `relearn status`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from relearn.model.home import Home
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.releases.store import ReleaseStore

UNIT_SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def read_card(home: Home, name: str, version: str) -> dict[str, Any]:
    """Return the content of a card; `read_card` would import torch."""
    file = ReleaseStore(home.releases_dir(name)).version_folder(version) / "card.json"
    card: dict[str, Any] = json.loads(file.read_bytes())
    return card


def describe_classifier(card: Mapping[str, Any]) -> str:
    """Return network and accuracy of the classifier of `card`, such as "mlp, 97.3% of 292 test images"."""
    network, metrics = card["config"]["network"], card["metrics"]
    accuracy = f", {metrics['accuracy']:.1%} of {metrics['images']:,.0f} test images" if metrics else ""
    return f"{network}{accuracy}"


def describe_server(server: RunningServer) -> str:
    """Return model, URL, served version and uptime of a server."""
    version = server.get_served_version()
    state = f"version {version}" if version else "which does not answer"
    uptime = f"for {_humanize(_current_timestamp() - server.started_at)}"
    return f"{server.model_name or server.bento} at {server.url}, {state}, {uptime}"


def _current_timestamp() -> float:
    return datetime.now(UTC).timestamp()


def format_time(timestamp: float) -> str:
    """Format a Unix time, in seconds, with its distance from now."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC ({format_age(timestamp)})"


def format_age(timestamp: float) -> str:
    """Return how far a Unix time is from now, such as "in 2 hours" or "3 days ago"."""
    seconds_ahead = timestamp - _current_timestamp()
    return f"in {_humanize(seconds_ahead)}" if seconds_ahead > 0 else f"{_humanize(-seconds_ahead)} ago"


def _humanize(seconds: float) -> str:
    """Format a duration in the largest unit that gives 2 or more, such as 90 minutes, not 1 hour."""
    for unit, unit_seconds in UNIT_SECONDS.items():
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return "a second"
