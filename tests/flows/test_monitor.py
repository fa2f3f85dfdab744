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

from relearn.flows import alarm, cli
from relearn.flows.alarm import ACCURACY, DRIFT, give
from relearn.flows.monitor import monitor
from relearn.flows.settings import MonitorConfig
from relearn.flows.watched import Accuracy, Watched, listed
from relearn.model.config import TrainConfig
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.model.prepared import prepare
from relearn.model.robustness import noisy
from relearn.serving import records
from relearn.serving.live import Live, load
from relearn.serving.monitored import GAUGES, MONITOR
from relearn.serving.records import Feedback, Records
from relearn.serving.releases import Releases
from relearn.serving.settings import ServeConfig

CONFIG = MonitorConfig(least_answers=100)
Asked = Callable[..., None]


@pytest.fixture
def home(ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home where version 1 of `digits` is live, and nothing was asked yet."""
    home = Home(tmp_path / "home", tmp_path / "data")
    shutil.copytree(ran.home.releases("digits"), home.releases("digits"))
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    return home


@pytest.fixture(scope="module")
def live(ran) -> Live:
    releases = Releases(ran.home.releases("digits"))
    return load(releases, releases.live())


@pytest.fixture(scope="module")
def unseen(ran) -> tuple[np.ndarray, np.ndarray]:
    """Images that the live version has not learned from, and their labels."""
    splits = prepare(TrainConfig(dataset="digits"), ran.home).splits
    parts = (splits.test, splits.validation)
    return np.concatenate([one.images for one in parts]), np.concatenate([one.labels for one in parts])


@pytest.fixture
def asked(home: Home, live: Live, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Records what `version` would have answered to images some hours ago, one image a request."""

    def done(images: np.ndarray, hours_ago: float = 1.0, start: str = "asked", version: str = "1") -> None:
        then = time.time() - 3_600 * hours_ago
        answering = Live(version, live.classifier)
        with monkeypatch.context() as patch:
            patch.setattr(records, "time", SimpleNamespace(time=lambda: then))
            one = Records(
                home.records("digits"), ServeConfig(), 1, lambda count: pytest.fail(f"{count} lost")
            )
            for number, image in enumerate(images):
                batch = np.ascontiguousarray(image[None])
                one.add(f"{start}-{number}", answering, batch, live.classifier.predict(batch))
            one.close()

    return done


def told(home: Home, labels: list[str], start: str = "asked") -> None:
    """Somebody says what the first images show."""
    one = Records(home.records("digits"), ServeConfig(), 2, lambda count: pytest.fail(f"{count} lost"))
    for number, label in enumerate(labels):
        one.told(Feedback(f"{start}-{number}", 0, time.time(), label))
    one.close()


def events(url: str, since: datetime) -> list[tuple[str, str]]:
    """Our events that the server has kept since then: name and resource; all that was given before is in."""
    mark = f"test.{time.time_ns()}"
    emit_event(mark, resource={"prefect.resource.id": mark})
    wanted = {
        "filter": {
            "occurred": {"since": since.isoformat(), "until": (since + timedelta(hours=1)).isoformat()},
            "event": {"name": [DRIFT, ACCURACY, mark]},
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

    assert ("digits", "1", 300, 300) == (watched.name, watched.version, watched.images, watched.requests)
    assert {"1": 300} == watched.versions
    assert ((), (), {}) == (watched.drift.drifted, watched.alarms, watched.drift.too_few)
    assert ("no drift", "300 answers in the last 24 hours") == (watched.outcome, watched.window)


def test_drift_gives_the_alarm_once(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """One event for whoever waits for it; then the report says that it goes on, until the cool-down ends."""
    begun = datetime.now(UTC)
    asked(noisy(unseen[0][:150]))

    first, second = monitor("digits", CONFIG), monitor("digits", CONFIG)

    assert {"brightness", "roughness"} <= {one.name for one in first.drift.drifted}
    assert [(DRIFT, True)] == [(one.event, one.new) for one in first.alarms]
    assert [(DRIFT, False, first.at)] == [(one.event, one.new, one.given) for one in second.alarms]
    page = (home.watch("digits") / "report.md").read_text()
    assert f"relearn.drift goes on: a retraining was asked for at {first.at:%Y-%m-%d %H:%M} UTC" in page
    third = monitor("digits", CONFIG.model_copy(update={"cooldown_hours": 0.0}))
    assert [(True, third.at)] == [(one.new, one.given) for one in third.alarms]
    assert [(DRIFT, "relearn.name.digits")] * 2 == events(on_server, begun)


def test_wrong_answers_give_the_alarm(
    home: Home, asked: Asked, live: Live, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Accuracy is that of the truths told, with Wilson's interval; too few of them wake nobody."""
    images = unseen[0][:120]
    labels = live.classifier.labels(live.classifier.predict(images))
    asked(images)
    wrong = [str((int(label) + 1) % 10) for label in labels[:20]]
    told(home, wrong[:15])
    few = monitor("digits", CONFIG)
    told(home, wrong + labels[20:40])
    begun = datetime.now(UTC)

    watched = monitor("digits", CONFIG)

    assert ((0, 15), ()) == ((few.accuracy.right, few.accuracy.truths), few.alarms)
    assert (20, 40) == (watched.accuracy.right, watched.accuracy.truths)
    assert (0.352, 0.648) == pytest.approx((watched.accuracy.low, watched.accuracy.high), abs=0.001)
    assert [ACCURACY] == [one.event for one in watched.alarms]
    assert [(ACCURACY, "relearn.name.digits")] == events(on_server, begun)
    assert () == monitor("digits", CONFIG.model_copy(update={"accuracy_floor": 0.6})).alarms


def test_other_versions_tell_of_images_alone(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """Just after a release: what came before it is tested by its traits, not by how sure the old one was."""
    asked(unseen[0][:200], 5, "old", version="0")
    asked(unseen[0][200:230], 1, "new")
    told(home, ["0"] * 10, "old")

    watched = monitor("digits", CONFIG)

    assert ({"0": 200, "1": 30}, 30) == (watched.versions, watched.now.images)
    assert {"confidence": 30, "labels": 30} == watched.drift.too_few
    assert {230} == {one.images for one in watched.drift.measures}
    assert watched.accuracy is None
    page = (home.watch("digits") / "report.md").read_text()
    assert "confidence and labels not tested: version 1 has 30 answers, accepted: 100 or more" in page


def test_a_look_leaves_a_report(
    home: Home, asked: Asked, unseen: tuple[np.ndarray, np.ndarray], on_server: str
):
    """A page, a figure and the numbers in the home; the page in Prefect, the numbers for Prometheus."""
    asked(noisy(unseen[0][:150]))
    watched = monitor("digits", CONFIG)
    folder = home.watch("digits")

    assert {"report.md", "report.png", "report.json", "alarms.json", ".lock"} == {
        file.name for file in folder.iterdir()
    }
    assert watched == Watched.model_validate_json((folder / "report.json").read_bytes())
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
        for one in text_string_to_metric_families((home.records("digits") / MONITOR).read_text())
    }
    assert set(GAUGES[MONITOR]) - set(families) == {
        name for name in GAUGES[MONITOR] if "live_accuracy" in name
    }
    assert {(): 150} == families["relearn_monitor_answers"]
    assert {(one.name,): one.drifted for one in watched.drift.measures} == families["relearn_drift"]
    assert 1 == pytest.approx(sum(families["relearn_class_share"].values()))


def test_an_empty_window_is_told(home: Home, asked: Asked, unseen: tuple, on_server: str):
    """Without any record, and with old ones only; the figure of an earlier look goes."""
    figure = home.watch("digits") / "report.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"old")
    never = monitor("digits", CONFIG)
    asked(unseen[0][:20], 30)
    old = monitor("digits", CONFIG)

    assert ["no answers", "no answers"] == [never.outcome, old.outcome]
    assert "0 answers in the last 24 hours; accepted: 100 or more" == old.window
    assert (None, None, ()) == (old.now, old.accuracy, old.alarms)
    assert not figure.exists()


def test_few_answers_are_told(home: Home, asked: Asked, unseen: tuple, on_server: str):
    """However strange they are."""
    asked(255 - unseen[0][:99])
    watched = monitor("digits", CONFIG)

    assert "too few answers to tell drift" == watched.outcome
    assert "99 answers in the last 24 hours; accepted: 100 or more" == watched.window
    assert () == watched.alarms


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
        given.extend(give(home, "digits", {DRIFT: "a test"}, timedelta(hours=1), now))

    threads = [threading.Thread(target=copy_context().run, args=(one,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (8, 1) == (len(given), sum(one.new for one in given))


@pytest.mark.parametrize(
    "left", [b"", b"{", b"[]", b'{"relearn.drift": 3}', b'{"relearn.drift": "x"}', b"\xff"]
)
def test_what_was_given_and_cannot_be_read_was_not(left: bytes, tmp_path: Path):
    """A damaged note holds up no alarm."""
    (tmp_path / alarm.FILE).write_bytes(left)
    assert {} == alarm.last(tmp_path / alarm.FILE)


def test_a_clock_that_was_put_back_holds_up_no_alarm(home: Home, on_server: str):
    """An alarm given in the future was not given lately."""
    now, reasons = datetime.now(UTC), {DRIFT: "a test"}
    give(home, "digits", reasons, timedelta(hours=1), now + timedelta(days=300))
    (again,) = give(home, "digits", reasons, timedelta(hours=1), now)
    assert again.new


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
    asked(noisy(unseen[0][:150]))

    assert 0 == cli.run(["monitor", "--least-answers", "100"])

    said = capsys.readouterr()
    assert "" == said.err
    rows = {cells[1]: cells for cells in map(str.split, said.out.splitlines()) if len(cells) > 10}
    assert "yes" == rows["roughness"][-2]
    assert "version 1 is " in said.out
    assert "nobody told the truth about an answer of version 1: POST /feedback does" in said.out
    assert "a retraining was asked for by the event relearn.drift" in said.out
    assert "digits: drift in " in said.out
    assert f"more in {home.watch('digits')}" in said.out


def test_the_verb_refuses_what_is_not_live(capsys: pytest.CaptureFixture[str]):
    """In one line, before a Prefect server is started."""
    assert 2 == cli.run(["monitor"])
    assert "error[not_found]: nothing released yet: run `relearn run`\n" == capsys.readouterr().err


def test_accuracy_is_told_with_its_interval():
    """Wilson's, as the textbooks have it for 9 of 10."""
    accuracy = Accuracy.of(9, 10)
    assert "90.0% of 10 told truths (95 % interval 59.6 to 98.2)" == str(accuracy)


@pytest.mark.parametrize(
    ("names", "expected"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_listed_as_people_do(names: list[str], expected: str):
    assert expected == listed(names)


def test_the_numbers_are_plain_json(home: Home, on_server: str):
    """For other programs: one object, times in UTC."""
    monitor("digits", CONFIG)
    numbers = json.loads((home.watch("digits") / "report.json").read_text())
    assert ("digits", 0) == (numbers["name"], numbers["images"])
    assert numbers["at"].endswith("Z")
