"""The watch: what was answered in the last hours, beside what the classifier was judged by."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from relearn.flows.alarm import give
from relearn.flows.reference import Reference
from relearn.flows.rendering import write_figure
from relearn.flows.settings import MonitorConfig
from relearn.flows.truth import Truth
from relearn.flows.watch_report import gauges, page
from relearn.flows.watched import Watched, look
from relearn.model import atomic
from relearn.model.canvas import shown
from relearn.model.classifier import Classifier
from relearn.model.drift import Sample
from relearn.model.drift_plots import beside
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.model.traits import measure
from relearn.serving import recorded
from relearn.serving.monitored import MONITOR, Monitored
from relearn.serving.releases import Releases

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = MonitorConfig()
PAGE, FIGURE, NUMBERS = "report.md", "report.png", "report.json"  # in `home.watch(name)`


@flow(name="monitor", flow_run_name="monitor {name}")
def monitor(name: str, config: MonitorConfig = DEFAULT, ask: bool = True) -> Watched:
    """Look at what was answered under `name`; where it has drifted, or is wrong too often, give the alarm.

    Unless nobody is there to hear it, and so not to `ask`.
    An alarm is an event, and what comes of it a matter of whoever waits for it. Raises `NotFoundError` where
    nothing is live.
    """
    watched = watch(name, config)
    told = {"version": watched.version, "images": watched.images}
    cooldown = timedelta(hours=config.cooldown_hours)
    reasons = watched.reasons if ask else {}
    alarms = give(Home.from_environment(), name, reasons, cooldown, watched.at, **told)
    watched = watched.model_copy(update={"alarms": alarms})
    tell(watched)
    return watched


@task(task_run_name="look at the answers")
def watch(name: str, config: MonitorConfig) -> Watched:
    """Measure the window beside the reference images, which the live classifier answers now; draw it."""
    home, at = Home.from_environment(), datetime.now(UTC)
    releases = Releases(home.releases(name))
    truth = Truth.read(releases)
    if truth.live is None or truth.reference is None:
        raise NotFoundError(f"nothing is live as {name!r}: there is nothing to watch")
    classifier = Classifier.load(releases.folder(truth.live.version))
    images = Reference.load(releases, truth.reference).images
    # Nothing is kept of this: 10,000 images of 28 × 28 take 0.2 s, the test itself as long.
    reference = Sample(measure(images.images), classifier.predict(images.images))
    window = recent(home, name, at, config.window_hours)
    classes = classifier.card.classes
    watched, now = look(name, truth.live.version, window, reference, images.labels, classes, config, at)
    draw(home.watch(name) / FIGURE, watched, reference, now, classes, window["time"])
    return watched


def recent(home: Home, name: str, at: datetime, hours: float) -> "pd.DataFrame":
    """What was recorded in the `hours` before `at`."""
    frame = recorded.read(home.records(name))
    return frame[(frame["time"] > at - timedelta(hours=hours)) & (frame["time"] <= at)]


def draw(
    path: Path,
    watched: Watched,
    reference: Sample,
    now: Sample,
    classes: tuple[str, ...],
    times: "pd.Series[pd.Timestamp]",
) -> None:
    """The figure of a look; none, and no older one either, where nothing was tested."""
    if not watched.drift.measures:
        path.unlink(missing_ok=True)
        return
    ages = ((watched.at - times).dt.total_seconds() / 3_600).to_numpy()
    title = (
        f"{shown(watched.name)}, version {shown(watched.version)}: {watched.outcome}\n"
        f"{watched.window}, beside {len(reference.traits):,} reference images"
    )
    config = watched.config
    figure = beside(
        title, watched.drift, reference, now, classes, ages, config.window_hours, config.least_distance
    )
    write_figure(path, figure)


@task(task_run_name="tell it")
def tell(watched: Watched) -> None:
    """Leave the report in the home and in Prefect, the numbers for Prometheus with the records."""
    home = Home.from_environment()
    folder = home.watch(watched.name)
    told = page(watched)
    drawn = f"\n![The window beside the reference]({FIGURE})\n" if watched.drift.measures else ""
    atomic.write_bytes(folder / PAGE, f"{told}{drawn}".encode())
    atomic.write_bytes(folder / NUMBERS, watched.model_dump_json(indent=2).encode() + b"\n")
    Monitored(MONITOR, gauges(watched)).write(home.records(watched.name))
    create_markdown_artifact(told, key="monitor", description=f"What was answered as {watched.name}")
