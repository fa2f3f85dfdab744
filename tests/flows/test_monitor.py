"""What the monitor sees of real records, what it leaves behind, and when it gives the alarm."""

import json
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
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from prefect.events import emit_event
from prometheus_client.parser import text_string_to_metric_families

from relearn.flows.cli.app import run_command_line
from relearn.flows.config import MonitorConfig
from relearn.flows.monitor import monitor
from relearn.flows.monitoring import alerts
from relearn.flows.monitoring.alerts import ACCURACY_EVENT, DRIFT_EVENT, emit_alerts
from relearn.flows.monitoring.window import LiveAccuracy, WindowReport, join_names
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import NotFoundError
from relearn.model.evaluation.robustness import add_noise
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE, MONITOR_FILE
from relearn.serving.predictions import prediction_log
from relearn.serving.predictions.prediction_log import Feedback, PredictionLog
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel, load_release

CONFIG = MonitorConfig(min_predictions=100)
Asked = Callable[..., None]


@pytest.fixture
def home(ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home where version 1 of `digits` is live, and nothing was asked yet."""
    home = Home(tmp_path / "home", tmp_path / "data")
    shutil.copytree(ran.home.releases_dir("digits"), home.releases_dir("digits"))
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    return home


@pytest.fixture(scope="module")
def live(ran) -> ServedModel:
    releases = ReleaseStore(ran.home.releases_dir("digits"))
    return load_release(releases, releases.read_current())


@pytest.fixture(scope="module")
def unseen(ran) -> tuple[np.ndarray, np.ndarray]:
    """Images that the live version has not learned from, and their labels."""
    splits = prepare_dataset(TrainConfig(dataset="digits"), ran.home).splits
    parts = (splits.test, splits.validation)
    return np.concatenate([one.images for one in parts]), np.concatenate([one.labels for one in parts])


@pytest.fixture
def asked(home: Home, live: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Records what `version` would have answered to images some hours ago, one image a request."""

    def done(images: np.ndarray, hours_ago: float = 1.0, start: str = "asked", version: str = "1") -> None:
        then = time.time() - 3_600 * hours_ago
        answering = ServedModel(version, live.classifier)
        with monkeypatch.context() as patch:
            patch.setattr(prediction_log, "time", SimpleNamespace(time=lambda: then))
            one = PredictionLog(
                home.prediction_log_dir("digits"),
                ServeConfig(),
                1,
                lambda count: pytest.fail(f"{count} lost"),
            )
            for number, image in enumerate(images):
                batch = np.ascontiguousarray(image[None])
                one.log(f"{start}-{number}", answering, batch, live.classifier.predict(batch))
            one.close()

    return done


def told(home: Home, labels: list[str], start: str = "asked") -> None:
    """Somebody says what the first images show."""
    one = PredictionLog(
        home.prediction_log_dir("digits"), ServeConfig(), 2, lambda count: pytest.fail(f"{count} lost")
    )
    for number, label in enumerate(labels):
        one.log_feedback(Feedback(f"{start}-{number}", 0, time.time(), label))
    one.close()


def events(url: str, since: datetime) -> list[tuple[str, str]]:
    """Our events that the server has kept since then: name and resource; all that was given before is in."""
    mark = f"test.{time.time_ns()}"
    emit_event(mark, resource={"prefect.resource.id": mark})
    wanted = {
        "filter": {
            "occurred": {"since": since.isoformat(), "until": (since + timedelta(hours=1)).isoformat()},
            "event": {"name": [DRIFT_EVENT, ACCURACY_EVENT, mark]},
        }
    }
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        kept = httpx.post(f"{url}/api/events/filter", json=wanted).json()["events"]
        if any(one["event"] == mark for one in kept):
            return sorted(
                (one["event"], one["resource"]["prefect.resource.id"]) for one in kept if one["event"] != mark
            )
        time.sleep(0.2)
    raise AssertionError("the server kept no event")


def test_what_is_alike_gives_no_alarm(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Images of the kind that was judged by: counted, tested, told, and nobody is woken."""
    asked(unseen[0][:150], 3)
    asked(unseen[0][150:300], 1, "later")
    asked(unseen[0][:50], 30, "yesterday")

    watched = monitor("digits", CONFIG)

    assert ("digits", "1", 300, 300) == (watched.name, watched.live_version, watched.images, watched.requests)
    assert {"1": 300} == watched.images_by_version
    assert ((), (), {}) == (watched.drift.drifted_tests, watched.alerts, watched.drift.insufficient_data)
    assert ("no drift", "300 answers in the last 24 hours") == (watched.summary, watched.window_summary)


def test_drift_gives_the_alarm_once(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """One event for whoever waits for it; then the report says that it goes on, until the cool-down ends."""
    begun = datetime.now(UTC)
    asked(add_noise(unseen[0][:150]))

    first, second = monitor("digits", CONFIG), monitor("digits", CONFIG)

    assert {"brightness", "vertical_gradient_rms"} <= {one.name for one in first.drift.drifted_tests}
    assert [(DRIFT_EVENT, True)] == [(one.event, one.emitted_now) for one in first.alerts]
    assert [(DRIFT_EVENT, False, first.window_end)] == [
        (one.event, one.emitted_now, one.last_emitted) for one in second.alerts
    ]
    page = (home.monitoring_dir("digits") / "report.md").read_text()
    assert (
        f"relearn.drift goes on: a retraining was asked for at {first.window_end:%Y-%m-%d %H:%M} UTC" in page
    )
    third = monitor("digits", CONFIG.model_copy(update={"cooldown_hours": 0.0}))
    assert [(True, third.window_end)] == [(one.emitted_now, one.last_emitted) for one in third.alerts]
    assert [(DRIFT_EVENT, "relearn.name.digits")] * 2 == events(on_server, begun)


def test_wrong_answers_give_the_alarm(
    home: Home, asked: Asked, live: ServedModel, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Accuracy is that of the truths told, with Wilson's interval; too few of them wake nobody."""
    images = unseen[0][:120]
    labels = live.classifier.to_labels(live.classifier.predict(images))
    asked(images)
    wrong = [str((int(label) + 1) % 10) for label in labels[:20]]
    told(home, wrong[:15])
    few = monitor("digits", CONFIG)
    told(home, wrong + labels[20:40])
    begun = datetime.now(UTC)

    watched = monitor("digits", CONFIG)

    assert ((0, 15), ()) == ((few.live_accuracy.correct, few.live_accuracy.labels), few.alerts)
    assert (20, 40) == (watched.live_accuracy.correct, watched.live_accuracy.labels)
    assert (0.352, 0.648) == pytest.approx(
        (watched.live_accuracy.ci_low, watched.live_accuracy.ci_high), abs=0.001
    )
    assert [ACCURACY_EVENT] == [one.event for one in watched.alerts]
    assert [(ACCURACY_EVENT, "relearn.name.digits")] == events(on_server, begun)
    assert () == monitor("digits", CONFIG.model_copy(update={"min_live_accuracy": 0.6})).alerts


def test_other_versions_tell_of_images_alone(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Just after a release: what came before it is tested by its traits, not by how sure the old one was."""
    asked(unseen[0][:200], 5, "old", version="0")
    asked(unseen[0][200:230], 1, "new")
    told(home, ["0"] * 10, "old")

    watched = monitor("digits", CONFIG)

    assert ({"0": 200, "1": 30}, 30) == (watched.images_by_version, watched.window_predictions.images)
    assert {"confidence": 30, "labels": 30} == watched.drift.insufficient_data
    assert {230} == {one.images for one in watched.drift.tests}
    assert watched.live_accuracy is None
    page = (home.monitoring_dir("digits") / "report.md").read_text()
    assert "confidence and labels not tested: version 1 has 30 answers, accepted: 100 or more" in page


def test_a_look_leaves_a_report(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """A page, a figure and the numbers in the home; the page in Prefect, the numbers for Prometheus."""
    asked(add_noise(unseen[0][:150]))
    watched = monitor("digits", CONFIG)
    folder = home.monitoring_dir("digits")

    assert {"report.md", "report.png", "report.json", "alarms.json", ".lock"} == {
        file.name for file in folder.iterdir()
    }
    assert watched == WindowReport.model_validate_json((folder / "report.json").read_bytes())
    with Image.open(folder / "report.png") as figure:
        assert 900 == figure.width
    text = (folder / "report.md").read_text()
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.startswith("<h1>digits: drift in ")
    assert "relearn_request_seconds" in page
    assert 2 == page.count("<table>")
    assert '<img src="report.png"' in page
    (artifact,) = httpx.post(
        f"{on_server}/api/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["monitor"]}}, "sort": "UPDATED_DESC", "limit": 1},
    ).json()
    assert text.startswith(artifact["data"])
    families = {
        one.name: {tuple(sample.labels.values()): sample.value for sample in one.samples}
        for one in text_string_to_metric_families(
            (home.prediction_log_dir("digits") / MONITOR_FILE).read_text()
        )
    }
    assert set(GAUGES_BY_FILE[MONITOR_FILE]) - set(families) == {
        name for name in GAUGES_BY_FILE[MONITOR_FILE] if "live_accuracy" in name
    }
    assert {(): 150} == families["relearn_monitor_predictions"]
    assert {(one.name,): one.has_drifted for one in watched.drift.tests} == families["relearn_drift"]
    assert 1 == pytest.approx(sum(families["relearn_class_fraction"].values()))


def test_an_empty_window_is_told(home: Home, asked: Asked, unseen: tuple, on_server: str):
    """Without any record, and with old ones only; the figure of an earlier look goes."""
    figure = home.monitoring_dir("digits") / "report.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"old")
    never = monitor("digits", CONFIG)
    asked(unseen[0][:20], 30)
    old = monitor("digits", CONFIG)

    assert ["no answers", "no answers"] == [never.summary, old.summary]
    assert "0 answers in the last 24 hours; accepted: 100 or more" == old.window_summary
    assert (None, None, ()) == (old.window_predictions, old.live_accuracy, old.alerts)
    assert not figure.exists()


def test_few_answers_are_told(home: Home, asked: Asked, unseen: tuple, on_server: str):
    """However strange they are."""
    asked(255 - unseen[0][:99])
    watched = monitor("digits", CONFIG)

    assert "too few answers to tell drift" == watched.summary
    assert "99 answers in the last 24 hours; accepted: 100 or more" == watched.window_summary
    assert () == watched.alerts


def test_nothing_live_is_refused(home: Home, on_server: str):
    """A name that nobody released has nothing to watch."""
    with pytest.raises(NotFoundError, match="nothing is live as 'nobody'"):
        monitor("nobody", CONFIG)


def test_several_monitors_at_once_give_one_alarm(home: Home, on_server: str):
    """Whoever comes first gives it, the others see that it was given."""
    now, given = datetime.now(UTC), []
    gate = threading.Barrier(8)

    def one() -> None:
        gate.wait()
        given.extend(emit_alerts(home, "digits", {DRIFT_EVENT: "a test"}, timedelta(hours=1), now))

    threads = [threading.Thread(target=copy_context().run, args=(one,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (8, 1) == (len(given), sum(one.emitted_now for one in given))


@pytest.mark.parametrize(
    "left", [b"", b"{", b"[]", b'{"relearn.drift": 3}', b'{"relearn.drift": "x"}', b"\xff"]
)
def test_what_was_given_and_cannot_be_read_was_not(left: bytes, tmp_path: Path):
    """A damaged note holds up no alarm."""
    (tmp_path / alerts.LAST_EMITTED_FILE).write_bytes(left)
    assert {} == alerts.load_last_emitted(tmp_path / alerts.LAST_EMITTED_FILE)


def test_a_clock_that_was_put_back_holds_up_no_alarm(home: Home, on_server: str):
    """An alarm given in the future was not given lately."""
    now, reasons = datetime.now(UTC), {DRIFT_EVENT: "a test"}
    emit_alerts(home, "digits", reasons, timedelta(hours=1), now + timedelta(days=300))
    (again,) = emit_alerts(home, "digits", reasons, timedelta(hours=1), now)
    assert again.emitted_now


def test_the_verb_says_what_was_seen(
    home: Home,
    asked: Asked,
    unseen: tuple,
    on_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Each measure, how sure and how right, the alarm, the outcome, and where there is more."""
    monkeypatch.setenv("COLUMNS", "200")
    asked(add_noise(unseen[0][:150]))

    assert 0 == run_command_line(["monitor", "--min-predictions", "100"])

    said = capsys.readouterr()
    assert "" == said.err
    rows = {cells[1]: cells for cells in map(str.split, said.out.splitlines()) if len(cells) > 10}
    assert "yes" == rows["vertical_gradient_rms"][-2]
    assert "version 1 has a mean confidence of " in said.out
    assert "nobody told the truth about an answer of version 1: POST /feedback does" in said.out
    assert "a retraining was asked for by the event relearn.drift" in said.out
    assert "digits: drift in " in said.out
    assert f"full report: {home.monitoring_dir('digits')}" in said.out


def test_the_verb_refuses_what_is_not_live(capsys: pytest.CaptureFixture[str]):
    """In one line, before a Prefect server is started."""
    assert 2 == run_command_line(["monitor"])
    assert "error[not_found]: nothing released yet: run `relearn run`\n" == capsys.readouterr().err


def test_accuracy_is_told_with_its_interval():
    """Wilson's, as the textbooks have it for 9 of 10."""
    accuracy = LiveAccuracy.from_counts(9, 10)
    assert "90.0% of 10 told truths (95 % interval 59.6 to 98.2)" == str(accuracy)


@pytest.mark.parametrize(
    ("names", "expected"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_listed_as_people_do(names: list[str], expected: str):
    assert expected == join_names(names)


def test_the_numbers_are_plain_json(home: Home, on_server: str):
    """For other programs: one object, times in UTC."""
    monitor("digits", CONFIG)
    numbers = json.loads((home.monitoring_dir("digits") / "report.json").read_text())
    assert ("digits", 0) == (numbers["name"], numbers["images"])
    assert numbers["window_end"].endswith("Z")
