"""The monitor flow: its analysis of a real prediction log, its reports and its alerts."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from prefect.events import emit_event
from prometheus_client.parser import text_string_to_metric_families

from relearn.flows.cli.app import run_command_line
from relearn.flows.config import MonitorConfig
from relearn.flows.feedback.samples import record_label
from relearn.flows.monitor import monitor
from relearn.flows.monitoring import retraining_triggers
from relearn.flows.monitoring.report import describe_power, to_metrics
from relearn.flows.monitoring.retraining_triggers import emit_alerts
from relearn.flows.monitoring.window import WindowReport, build_window_report, join_names
from relearn.flows.orchestration.events import ACCURACY_EVENT, DRIFT_EVENT
from relearn.model.config import TrainConfig
from relearn.model.drift.detect import DriftSample
from relearn.model.drift.image_statistics import STATISTICS
from relearn.model.errors import NotFoundError
from relearn.model.evaluation.groups import number_groups
from relearn.model.evaluation.robustness import add_noise
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset
from relearn.serving.config import ServeConfig
from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE, MONITOR_FILE
from relearn.serving.predictions import prediction_log
from relearn.serving.predictions.entries import Feedback
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel, load_release

CONFIG = MonitorConfig(min_predictions=100)
LogPredictions = Callable[..., None]


@pytest.fixture
def home(ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Home in which version 1 of `digits` is live, with an empty prediction log."""
    home = Home(tmp_path / "home", tmp_path / "data")
    shutil.copytree(ran.home.releases_dir("digits"), home.releases_dir("digits"))
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    return home


@pytest.fixture(scope="module")
def live(ran) -> ServedModel:
    releases = ReleaseStore(ran.home.releases_dir("digits"))
    return load_release(releases, releases.read_live())


@pytest.fixture(scope="module")
def unseen(ran) -> tuple[np.ndarray, np.ndarray]:
    """Images that the live version was not trained on, and their labels."""
    splits = prepare_dataset(TrainConfig(dataset="digits"), ran.home).splits
    unseen_splits = (splits.test, splits.validation)
    return (
        np.concatenate([split.images for split in unseen_splits]),
        np.concatenate([split.labels for split in unseen_splits]),
    )


@pytest.fixture
def log_predictions(home: Home, live: ServedModel, monkeypatch: pytest.MonkeyPatch) -> LogPredictions:
    """Return a function that logs predictions of `version` some hours ago, one image a request."""

    def log(
        images: np.ndarray, hours_ago: float = 1.0, id_prefix: str = "request", version: str = "1"
    ) -> None:
        timestamp = time.time() - 3_600 * hours_ago
        served_model = ServedModel(version, live.classifier)
        with monkeypatch.context() as patch:
            patch.setattr(prediction_log, "time", SimpleNamespace(time=lambda: timestamp))
            writer = PredictionLog(
                home.prediction_log_dir("digits"),
                ServeConfig(),
                1,
                lambda count: pytest.fail(f"{count} lost"),
            )
            for number, image in enumerate(images):
                batch = np.ascontiguousarray(image[None])
                writer.log(f"{id_prefix}-{number}", served_model, batch, live.classifier.predict(batch))
            writer.close()

    return log


def log_feedback(home: Home, labels: list[str], id_prefix: str = "request") -> None:
    """Log labels that clients volunteer for the first images."""
    writer = PredictionLog(
        home.prediction_log_dir("digits"), ServeConfig(), 2, lambda count: pytest.fail(f"{count} lost")
    )
    for number, label in enumerate(labels):
        writer.log_feedback(Feedback(f"{id_prefix}-{number}", 0, time.time(), label=label))
    writer.close()


def label_blind(home: Home, labels: list[str], id_prefix: str = "request") -> None:
    """Label the first images as samples."""
    for number, label in enumerate(labels):
        record_label(home, "digits", (f"{id_prefix}-{number}", 0), label, tuple("0123456789"))


def load_events(url: str, since: datetime) -> list[tuple[str, str]]:
    """Return name and resource of the alert events since then, once a later event has reached the server."""
    marker = f"test.{time.time_ns()}"
    emit_event(marker, resource={"prefect.resource.id": marker})
    query = {
        "filter": {
            "occurred": {"since": since.isoformat(), "until": (since + timedelta(hours=1)).isoformat()},
            "event": {"name": [DRIFT_EVENT, ACCURACY_EVENT, marker]},
        }
    }
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = httpx.post(f"{url}/api/events/filter", json=query).json()["events"]
        if any(event["event"] == marker for event in events):
            return sorted(
                (event["event"], event["resource"]["prefect.resource.id"])
                for event in events
                if event["event"] != marker
            )
        time.sleep(0.2)
    raise AssertionError("the server stored no event")


def test_similar_images_raise_no_alert(
    home: Home, log_predictions: LogPredictions, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Test images of the same dataset are counted and tested, without drift."""
    log_predictions(unseen[0][:150], 3)
    log_predictions(unseen[0][150:300], 1, "later")
    log_predictions(unseen[0][:50], 30, "yesterday")

    result = monitor("digits", CONFIG)

    assert ("digits", "1", 300, 300) == (result.name, result.live_version, result.images, result.requests)
    assert {"1": 300} == result.images_by_version
    assert ((), (), {}) == (result.drift.drifted_tests, result.alerts, result.drift.insufficient_data)
    assert ("no drift", "300 predictions in the last 24 hours") == (result.summary, result.window_summary)


def test_drift_raises_one_alert_until_the_cooldown_ends(
    home: Home, log_predictions: LogPredictions, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Within the cooldown the second report names the first alert, without a new event."""
    start_time = datetime.now(UTC)
    log_predictions(add_noise(unseen[0][:150]))

    first, second = monitor("digits", CONFIG), monitor("digits", CONFIG)

    assert {"brightness", "vertical_gradient_rms"} <= {test.name for test in first.drift.drifted_tests}
    assert [(DRIFT_EVENT, True)] == [(alert.event, alert.emitted_now) for alert in first.alerts]
    assert [(DRIFT_EVENT, False, first.window_end)] == [
        (alert.event, alert.emitted_now, alert.last_emitted) for alert in second.alerts
    ]
    report = (home.monitoring_dir("digits") / "report.md").read_text()
    assert (
        f"relearn.drift continues: a retraining was asked for at {first.window_end:%Y-%m-%d %H:%M} UTC"
        in report
    )
    third = monitor("digits", CONFIG.model_copy(update={"cooldown_hours": 0.0}))
    assert [(True, third.window_end)] == [(alert.emitted_now, alert.last_emitted) for alert in third.alerts]
    assert [(DRIFT_EVENT, "relearn.name.digits")] * 2 == load_events(on_server, start_time)


def test_low_live_accuracy_raises_an_alert(
    home: Home,
    log_predictions: LogPredictions,
    live: ServedModel,
    unseen: tuple[np.ndarray, np.ndarray],
    on_server: str,
):
    """The accuracy is that of labeled predictions, with Wilson's interval; too few labels raise no alert.

    An accuracy that is not clearly further below that on the reference images than allowed raises none.
    """
    images = unseen[0][:120]
    labels = live.classifier.to_labels(live.classifier.predict(images))
    log_predictions(images)
    wrong = [str((int(label) + 1) % 10) for label in labels[:20]]
    log_feedback(home, wrong)  # volunteered corrections do not measure
    label_blind(home, wrong[:15])
    with_few_labels = monitor("digits", CONFIG)
    label_blind(home, wrong + labels[20:40])
    start_time = datetime.now(UTC)

    result = monitor("digits", CONFIG)

    few_labels = with_few_labels.live_accuracy
    assert ((0, 15), ()) == ((few_labels.correct, few_labels.images), with_few_labels.alerts)
    assert (20, 40) == (result.live_accuracy.correct, result.live_accuracy.images)
    assert (0.352, 0.648) == pytest.approx((result.live_accuracy.low, result.live_accuracy.high), abs=0.001)
    assert [ACCURACY_EVENT] == [alert.event for alert in result.alerts]
    assert f"on the reference images {result.reference_accuracy}, accepted: a drop of 5 points" in (
        result.alerts[0].reason
    )
    assert [(ACCURACY_EVENT, "relearn.name.digits")] == load_events(on_server, start_time)
    assert () == monitor("digits", CONFIG.model_copy(update={"max_accuracy_drop": 0.4})).alerts


def window_report(
    reference_accuracy: float, live_accuracy: float, images: int = 300, group_size: int = 1
) -> WindowReport:
    """Return the report of as many reference images and labeled predictions of two classes.

    `group_size` reference images belong together, and as many images are in a request.
    """
    generator = np.random.default_rng(0)

    def predictions(accuracy: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        predicted = np.arange(images) % 2
        is_wrong = np.arange(images) // 2 >= round(accuracy * images / 2)
        return (
            generator.random((images, 6), np.float32),
            (np.eye(2)[predicted] * 0.9 + 0.05).astype(np.float32),  # as of a classifier
            predicted ^ is_wrong,
        )

    statistics, probabilities, labels = predictions(reference_accuracy)
    window_statistics, window_probabilities, window_labels = predictions(live_accuracy)
    window = pd.DataFrame(window_statistics, columns=list(STATISTICS)).assign(
        version="1",
        request_id=[f"request {number // group_size}" for number in range(images)],
        label=np.array(["no", "yes"])[window_labels],
        predicted_label=np.array(["no", "yes"])[window_probabilities.argmax(1)],
        p_no=window_probabilities[:, 0],
        p_yes=window_probabilities[:, 1],
    )
    reference = DriftSample(statistics, probabilities)
    return build_window_report(
        "pets",
        "1",
        window,
        reference,
        labels,
        number_groups(np.arange(images) // group_size),
        ("no", "yes"),
        MonitorConfig(min_predictions=20),
        datetime.now(UTC),
    )[0]


@pytest.mark.parametrize(
    ("reference", "live", "has_dropped"),
    [(0.99, 0.82, True), (0.6, 0.6, False), (0.6, 0.4, True), (0.99, 0.97, False), (0.8, 0.95, False)],
)
def test_accuracy_alert_is_relative_to_the_reference(reference: float, live: float, has_dropped: bool):
    """A champion of 99 % that falls to 82 % raises an alert; one that was never above 60 % does not."""
    report = window_report(reference, live)

    assert has_dropped == report.has_accuracy_dropped == (ACCURACY_EVENT in report.alert_reasons)
    assert {"": has_dropped} == to_metrics(report)["relearn_live_accuracy_dropped"]


def test_images_that_belong_together_are_no_more_evidence():
    """A fall from 80 to 65 % on 300 images raises an alert; not with 20 images in each request and group."""
    assert window_report(0.8, 0.65).has_accuracy_dropped
    report = window_report(0.8, 0.65, group_size=20)
    assert not report.has_accuracy_dropped
    assert (15, 15) == (report.reference_accuracy.groups, report.live_accuracy.groups)


def test_too_few_images_are_not_reported_as_no_drift():
    """The report says which changes it could find, and what helps where those are large ones only."""
    few, enough = window_report(0.9, 0.9, images=40), window_report(0.9, 0.9)

    assert ("too few images to see drift", "no drift") == (few.summary, enough.summary)
    assert re.fullmatch(
        r"with 300 reference images and 300 predictions, drift is found with a probability of 90 % or more "
        r"if it changes 2\d % of the images",
        describe_power(enough),
    )
    assert "a longer window (--window-hours) make smaller changes visible" in describe_power(few)


def test_predictions_of_other_versions_count_for_image_statistics_only(
    home: Home, log_predictions: LogPredictions, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Just after a release, confidence and labels are tested on predictions of the live version alone."""
    log_predictions(unseen[0][:200], 5, "old", version="0")
    log_predictions(unseen[0][200:230], 1, "new")
    label_blind(home, ["0"] * 10, "old")

    result = monitor("digits", CONFIG)

    assert ({"0": 200, "1": 30}, 30) == (result.images_by_version, result.window_predictions.images)
    assert {"confidence": 30, "labels": 30} == result.drift.insufficient_data
    assert {230} == {test.images for test in result.drift.tests}
    assert result.live_accuracy is None
    report = (home.monitoring_dir("digits") / "report.md").read_text()
    assert "confidence and labels not tested: version 1 has 30 predictions, accepted: 100 or more" in report


def test_monitor_writes_its_reports(
    home: Home, log_predictions: LogPredictions, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Markdown, figure and JSON are in the home, Markdown in Prefect, metrics in a file for Prometheus."""
    log_predictions(add_noise(unseen[0][:150]))
    result = monitor("digits", CONFIG)
    folder = home.monitoring_dir("digits")

    assert {"report.md", "report.png", "report.json", "alarms.json", ".lock"} == {
        file.name for file in folder.iterdir()
    }
    assert result == WindowReport.model_validate_json((folder / "report.json").read_bytes())
    with Image.open(folder / "report.png") as figure:
        assert 900 == figure.width
    text = (folder / "report.md").read_text()
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert html.startswith("<h1>digits: drift in ")
    assert "relearn_request_seconds" in html
    assert 2 == html.count("<table>")
    assert '<img src="report.png"' in html
    (artifact,) = httpx.post(
        f"{on_server}/api/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["monitor"]}}, "sort": "UPDATED_DESC", "limit": 1},
    ).json()
    assert text.startswith(artifact["data"])
    families = {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(
            (home.prediction_log_dir("digits") / MONITOR_FILE).read_text()
        )
    }
    assert set(GAUGES_BY_FILE[MONITOR_FILE]) - set(families) == {
        name for name in GAUGES_BY_FILE[MONITOR_FILE] if "live_accuracy" in name
    }
    assert {(): 150} == families["relearn_monitor_predictions"]
    assert {(test.name,): test.has_drifted for test in result.drift.tests} == families["relearn_drift"]
    assert 1 == pytest.approx(sum(families["relearn_class_fraction"].values()))


def test_empty_window_is_reported(home: Home, log_predictions: LogPredictions, unseen: tuple, on_server: str):
    """The log is empty or has old predictions only; an earlier figure is deleted."""
    figure = home.monitoring_dir("digits") / "report.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"old")
    empty = monitor("digits", CONFIG)
    log_predictions(unseen[0][:20], 30)
    outdated = monitor("digits", CONFIG)

    assert ["no predictions", "no predictions"] == [empty.summary, outdated.summary]
    assert "0 predictions in the last 24 hours; accepted: 100 or more" == outdated.window_summary
    assert (None, None, ()) == (outdated.window_predictions, outdated.live_accuracy, outdated.alerts)
    assert not figure.exists()


def test_too_few_predictions_are_not_tested(
    home: Home, log_predictions: LogPredictions, unseen: tuple, on_server: str
):
    """Inverted images raise no alert if there are too few of them."""
    log_predictions(255 - unseen[0][:99])
    result = monitor("digits", CONFIG)

    assert "too few predictions to test drift" == result.summary
    assert "99 predictions in the last 24 hours; accepted: 100 or more" == result.window_summary
    assert () == result.alerts


def test_model_without_a_live_version_is_rejected(home: Home, on_server: str):
    """There is nothing to monitor."""
    with pytest.raises(NotFoundError, match="nothing is live as 'nobody'"):
        monitor("nobody", CONFIG)


def test_concurrent_monitors_emit_one_alert(home: Home, on_server: str):
    """The first one emits it, the others report it."""
    now, emitted = datetime.now(UTC), []
    barrier = threading.Barrier(8)

    def emit() -> None:
        barrier.wait()
        emitted.extend(emit_alerts(home, "digits", {DRIFT_EVENT: "a test"}, timedelta(hours=1), now))

    threads = [threading.Thread(target=copy_context().run, args=(emit,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (8, 1) == (len(emitted), sum(alert.emitted_now for alert in emitted))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"relearn.drift": 3}', b'{"relearn.drift": "x"}', b"\xff"]
)
def test_damaged_file_of_last_alerts_suppresses_no_alert(content: bytes, tmp_path: Path):
    """It counts as empty."""
    (tmp_path / retraining_triggers.LAST_EMITTED_FILE).write_bytes(content)
    assert {} == retraining_triggers.load_last_emitted(tmp_path / retraining_triggers.LAST_EMITTED_FILE)


def test_clock_that_was_set_back_suppresses_no_alert(home: Home, on_server: str):
    """An alert in the future does not count for the cooldown."""
    now, reasons = datetime.now(UTC), {DRIFT_EVENT: "a test"}
    emit_alerts(home, "digits", reasons, timedelta(hours=1), now + timedelta(days=300))
    (alert,) = emit_alerts(home, "digits", reasons, timedelta(hours=1), now)
    assert alert.emitted_now


def test_command_prints_the_report(
    home: Home,
    log_predictions: LogPredictions,
    unseen: tuple,
    on_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """It has each drift test, confidence, accuracy, alert, result and the folder of the reports."""
    monkeypatch.setenv("COLUMNS", "200")
    log_predictions(add_noise(unseen[0][:150]))

    assert 0 == run_command_line(["monitor", "--min-predictions", "100"])

    printed = capsys.readouterr()
    assert "" == printed.err
    rows = {cells[1]: cells for cells in map(str.split, printed.out.splitlines()) if len(cells) > 10}
    assert "yes" == rows["vertical_gradient_rms"][-2]
    assert "version 1 has a mean confidence of " in printed.out
    assert "no sampled prediction of version 1 is labeled yet: serve with --image-sample-rate" in printed.out
    assert "a retraining was asked for by the event relearn.drift" in printed.out
    assert "digits: drift in " in printed.out
    assert f"full report: {home.monitoring_dir('digits')}" in printed.out


def test_command_without_a_release_is_rejected(capsys: pytest.CaptureFixture[str]):
    """It prints one line, before a Prefect server is started."""
    assert 2 == run_command_line(["monitor"])
    assert "error[not_found]: nothing released yet: run `relearn run`\n" == capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_joined_with_and(names: list[str], expected: str):
    """Two or more names end with "and"."""
    assert expected == join_names(names)


def test_json_report_can_be_read_by_other_programs(home: Home, on_server: str):
    """It is one object with times in UTC."""
    monitor("digits", CONFIG)
    numbers = json.loads((home.monitoring_dir("digits") / "report.json").read_text())
    assert ("digits", 0) == (numbers["name"], numbers["images"])
    assert numbers["window_end"].endswith("Z")
