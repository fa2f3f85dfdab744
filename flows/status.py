"""What there is, what runs and what comes next, each in a line; what cannot be asked says so in its own.

All is asked at once: who does not answer holds up nobody else.
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
from relearn.flows.patience import within
from relearn.flows.prefect_server import PrefectServer
from relearn.flows.standing import Standing
from relearn.model.home import RUNS_PAGE, Home, disk_use
from relearn.serving.recorded import counts
from relearn.serving.releases import Releases, names
from relearn.serving.servers import Known, servers

LIMIT = 3.0  # seconds for an answer; those of the home take milliseconds
LIMITS = {"retrained": 10.0}  # to import MLflow takes 2 of them
UNITS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
PAGE = "http://127.0.0.1:5000"  # where `mlflow server` and `relearn up` show the runs

Ask = Callable[[], str]


@dataclass(frozen=True)
class Line:
    """`about` the home or a name, `label` what is told of it."""

    about: str
    label: str
    told: str


def status(home: Home) -> Iterator[Line]:
    """The lines of the home, then those of each name that something is released under."""
    asked: dict[tuple[str, str], Ask] = {
        ("home", "disk"): partial(disk, home),
        ("home", "servers"): partial(running, home),
        ("home", "pages"): partial(pages, home),
    }
    for name in names(home):
        asked |= {
            (name, "live"): partial(live, home, name),
            (name, "retrained"): partial(retrained, home, name),
            (name, "next"): partial(due, home, name),
            (name, "data"): partial(data, home, name),
            (name, "records"): partial(records, home, name),
        }
    with environment.impatient():
        answers = {key: within(LIMITS.get(key[1], LIMIT), partial(_once, ask)) for key, ask in asked.items()}
        for (about, label), answer in answers.items():
            yield Line(about, label, _told(answer))
    if not names(home):
        yield Line("home", "releases", "nothing is released yet: run relearn run")


def disk(home: Home) -> str:
    """The home, and how much lies in each of its folders."""
    if not home.root.is_dir():
        return f"{home.root} is not there yet"
    sizes = {path.name: disk_use(path) for path in home.root.iterdir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    parts = ", ".join(f"{name} {decimal(sizes[name])}" for name in largest if sizes[name] >= 1_000)
    return f"{home.root}, {decimal(sum(sizes.values()))}" + (f": {parts}" if parts else "")


def running(home: Home) -> str:
    """The servers of this home."""
    return "; ".join(map(_server, servers(home))) or "none runs: relearn serve starts one"


def _server(server: Known) -> str:
    version = server.answers()
    answer = f"version {version}" if version else "which does not answer"
    since = f"for {_long(_now() - server.started)}"
    return f"{server.follows or server.bento} at {server.url}, {answer}, {since}"


def pages(home: Home) -> str:
    """Where flows and runs can be looked at; and whether `relearn up` keeps all alive."""
    prefect = PrefectServer.of(home)
    told = [f"flows at {prefect.page}"] if prefect.answers() else []
    standing = Standing.read(home)
    own = standing.parts.get("runs", PAGE) if standing else PAGE
    where = httpx.URL(home.tracking_uri.rstrip("/") if home.tracking_uri.startswith("http") else own)
    with suppress(httpx.HTTPError):
        if httpx.get(f"{where}/health", timeout=1, trust_env=False).is_success:
            told.append(f"runs at {os.environ.get(RUNS_PAGE) or where.copy_with(userinfo=b'')}")
    if standing:
        told.append(f"kept alive by relearn up, process {standing.process}")
    return ", ".join(told) or "neither Prefect's nor MLflow's is up"


def live(home: Home, name: str) -> str:
    """The version, and since when."""
    last = Releases(home.releases(name)).ledger.last()
    if last is None or last.live is None:
        return "nothing: every candidate was rejected"
    back = f"; a rollback brings {last.previous} back" if last.previous else ""
    return f"version {last.live.version} since {_when(last.live.published_at.timestamp())}{back}"


def retrained(home: Home, name: str) -> str:
    """The last retraining, and what came of it."""
    from relearn.flows.results import VERDICT
    from relearn.flows.store import look_into

    client = look_into(home)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return "never"
    ids = [experiment.experiment_id]
    newest = ["attributes.start_time DESC"]
    found = client.search_runs(ids, "tags.`relearn.kind` = 'retrain'", order_by=newest, max_results=1)
    if not found:
        return "never by relearn run"
    run = found[0]
    children = client.search_runs(ids, f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    verdicts = [child.data.tags[VERDICT] for child in children if VERDICT in child.data.tags]
    outcome = verdicts[0].upper() if verdicts else run.info.status
    return f"{outcome}, {_when(run.info.start_time / 1000)}, run {run.info.run_id[:8]}"


def due(home: Home, name: str) -> str:
    """When it is retrained, and monitored, next."""
    prefect = PrefectServer.of(home)
    if not prefect.answers():
        return "nothing is scheduled: no Prefect server is up"
    planned = {one["flow_name"]: prefect.next_run(one) for one in prefect.deployments(name)}
    told = [f"{flow} {_when(moment.timestamp())}" for flow, moment in planned.items() if moment]
    return ", ".join(told) or "nothing is scheduled"


def data(home: Home, name: str) -> str:
    """What the live version learned from, and whether something else has been prepared since."""
    releases = Releases(home.releases(name))
    last = releases.ledger.last()
    if last is None or last.live is None:
        return "none"
    card = json.loads((releases.folder(last.live.version) / "card.json").read_bytes())
    told = f"{card['dataset']}, {len(card['classes'])} classes, fingerprint {card['fingerprint'][:12]}"
    prepared = sorted(_prepared(home, card["dataset"]), key=lambda one: float(one["since"]))
    own = [one for one in prepared if one["fingerprint"] == card["fingerprint"]]
    if own:
        told += f", {own[-1]['images']:,} images"
    if prepared and prepared[-1]["fingerprint"] != card["fingerprint"]:
        told += f"; prepared since: {prepared[-1]['images']:,} images, {prepared[-1]['fingerprint'][:12]}"
    return told


def records(home: Home, name: str) -> str:
    """How many predictions are recorded, and how much feedback."""
    predictions, feedback = counts(home.records(name))
    return f"{predictions:,} predictions, {feedback:,} with feedback" if predictions or feedback else "none"


def _prepared(home: Home, dataset: str) -> Iterator[dict[str, Any]]:
    for file in home.prepared.glob("*/card.json"):
        card = json.loads(file.read_bytes())
        if card["name"] == dataset:
            images = sum(sum(counted) for counted in card["counts"].values())
            yield {"fingerprint": card["fingerprint"], "images": images, "since": file.stat().st_mtime}


def _once(ask: Ask) -> list[str]:
    return [ask()]


def _told(answer: Iterator[str]) -> str:
    try:
        return next(answer)
    except Exception as error:  # whatever it is, it is told in this line, and the others go on
        return f"cannot be told, see relearn doctor: {' '.join(str(error).split())}"


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _when(moment: float) -> str:
    """A moment (Unix, seconds), and how far away it is."""
    away = moment - _now()
    far = f"in {_long(away)}" if away > 0 else f"{_long(-away)} ago"
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC ({far})"


def _long(seconds: float) -> str:
    """`seconds` in the largest unit of which there are two."""
    for unit, length in UNITS.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "a second"
