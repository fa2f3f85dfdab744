"""Monitor flow: compare the predictions of the last hours with the reference set."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from relearn.flows.config import MonitorConfig
from relearn.flows.feedback.samples import load_labels
from relearn.flows.monitoring.report import to_markdown, to_metrics
from relearn.flows.monitoring.retraining_triggers import emit_alerts
from relearn.flows.monitoring.window import WindowReport, build_window_report
from relearn.flows.orchestration.flow_process import record_process
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.terminal.rendering import write_figure
from relearn.model.drift.detect import DriftSample
from relearn.model.drift.image_statistics import compute_statistics
from relearn.model.errors import NotFoundError
from relearn.model.evaluation.groups import number_groups
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.inference.model_card import read_training_hashes
from relearn.model.plots.drift import plot_drift
from relearn.model.plots.style import ellipsize
from relearn.serving.metrics.textfile_metrics import MONITOR_FILE, TextfileMetrics
from relearn.serving.predictions import reader
from relearn.serving.releases.store import ReleaseStore

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_CONFIG = MonitorConfig()
# Files in `home.monitoring_dir(name)`.
REPORT_FILE, FIGURE_FILE, NUMBERS_FILE = "report.md", "report.png", "report.json"


@flow(name="monitor", flow_run_name="monitor {name}", on_running=[record_process])
def monitor(name: str, config: MonitorConfig = DEFAULT_CONFIG, emit: bool = True) -> WindowReport:
    """Analyze the recent predictions of model `name`; emit alerts for drift and for low live accuracy.

    An alert is a Prefect event, to which a deployment may react. With `emit=False` (no persistent Prefect
    server) none is emitted. Raises `NotFoundError` if no version is live.
    """
    report = analyze_window(name, config)
    payload = {"version": report.live_version, "images": report.images}
    cooldown = timedelta(hours=config.cooldown_hours)
    alert_reasons = report.alert_reasons if emit else {}
    alerts = emit_alerts(Home.from_environment(), name, alert_reasons, cooldown, report.window_end, **payload)
    report = report.model_copy(update={"alerts": alerts})
    publish_monitoring_report(report)
    return report


@task(task_run_name="analyze-window")
def analyze_window(name: str, config: MonitorConfig) -> WindowReport:
    """Compare the window with the live classifier's predictions of the reference set; write the figure."""
    home, window_end = Home.from_environment(), datetime.now(UTC)
    releases = ReleaseStore(home.releases_dir(name))
    release_state = ReleaseState.from_store(releases)
    if release_state.live is None or release_state.reference_fingerprint is None:
        raise NotFoundError(f"nothing is live as {name!r}: there is nothing to monitor")
    classifier = releases.load(release_state.live.version)
    # Without images that the live version learned from: it is more accurate and more confident on them.
    training_hashes = read_training_hashes(
        releases.version_folder(release_state.live.version), classifier.card
    )
    reference = ReferenceSet.load(releases, release_state.reference_fingerprint)
    (images,) = reference.fit_unseen([(classifier.card, training_hashes)])
    # Not cached: 10,000 images of 28 × 28 take 2 s to decode, 0.2 s to predict, and 0.2 s the drift test.
    reference_sample = DriftSample(compute_statistics(images.images), classifier.predict(images.images))
    window = load_window(home, name, window_end, config.window_hours)
    classes = classifier.card.classes
    report, window_sample = build_window_report(
        name,
        release_state.live.version,
        window,
        reference_sample,
        images.labels,
        number_groups(images.groups),
        classes,
        config,
        window_end,
    )
    write_report_figure(
        home.monitoring_dir(name) / FIGURE_FILE,
        report,
        reference_sample,
        window_sample,
        classes,
        window["time"],
    )
    return report


def load_window(home: Home, name: str, end: datetime, window_hours: float) -> "pd.DataFrame":
    """Return the predictions logged in the `window_hours` before `end`.

    `label` is that of the samples that were labeled blind: feedback is mostly about errors.
    """
    frame, labels = reader.load_predictions(home.prediction_log_dir(name)), load_labels(home, name)
    keys = zip(frame["request_id"], frame["index"].tolist(), strict=True)
    frame["label"] = [labels.get(key) for key in keys]
    return frame[(frame["time"] > end - timedelta(hours=window_hours)) & (frame["time"] <= end)]


def write_report_figure(
    path: Path,
    report: WindowReport,
    reference_sample: DriftSample,
    window_sample: DriftSample,
    classes: tuple[str, ...],
    times: "pd.Series[pd.Timestamp]",
) -> None:
    """Write the figure of the report; if nothing was tested, delete the previous figure."""
    if not report.drift.tests:
        path.unlink(missing_ok=True)
        return
    ages = ((report.window_end - times).dt.total_seconds() / 3_600).to_numpy()
    title = (
        f"{ellipsize(report.name)}, version {ellipsize(report.live_version)}: {report.summary}\n"
        f"{report.window_summary}, compared with {len(reference_sample.statistics):,} reference images"
    )
    config = report.config
    figure = plot_drift(
        title,
        report.drift,
        reference_sample,
        window_sample,
        classes,
        ages,
        config.window_hours,
        config.min_effect_size,
    )
    write_figure(path, figure)


@task(task_run_name="publish-report")
def publish_monitoring_report(report: WindowReport) -> None:
    """Write the report to the home and to Prefect, and its metrics beside the prediction log."""
    home = Home.from_environment()
    folder = home.monitoring_dir(report.name)
    markdown = to_markdown(report)
    figure_link = f"\n![Window and reference set]({FIGURE_FILE})\n" if report.drift.tests else ""
    write_bytes_atomically(folder / REPORT_FILE, f"{markdown}{figure_link}".encode())
    write_bytes_atomically(folder / NUMBERS_FILE, report.model_dump_json(indent=2).encode() + b"\n")
    TextfileMetrics(MONITOR_FILE, to_metrics(report)).write(home.prediction_log_dir(report.name))
    create_markdown_artifact(markdown, key="monitor", description=f"Recent predictions of {report.name}")
