"""Promises of blind labels: the images are drawn by the server, the answer is hidden, all else is ignored."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.feedback.samples import (
    Sample,
    label_samples,
    list_unlabeled,
    load_labels,
    record_label,
)
from relearn.flows.monitor import load_window
from relearn.model.errors import CorruptDataError, DataError, NotFoundError
from relearn.model.home import Home
from tests.flows.feedback.test_feedback import (
    NAME,
    Workspace,
    random_images,
    shared_workspace,
    workspace,
)

__all__ = ["shared_workspace", "workspace"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def sampled(workspace: Workspace) -> Workspace:
    """A workspace with 20 requests of which all images are sampled, and 5 of which none is."""
    workspace.image_sample_rate = 1.0
    for index, image in enumerate(random_images(7, 20)):
        workspace.log_request(image[None], f"sampled-{index}")
    workspace.image_sample_rate = 0.0
    for image in random_images(8, 5):
        workspace.log_request(image[None])
    return workspace


def test_only_drawn_images_are_asked_for(sampled: Workspace) -> None:
    """An image that a client sent with feedback is no sample, whatever its label is."""
    sampled.log_feedback("0", random_images(9, 1)[0])
    samples, classes = list_unlabeled(sampled.home, NAME)
    assert ("0", "1") == classes
    assert {f"sampled-{index}" for index in range(20)} == {sample.key[0] for sample in samples}
    by_id = {sample.key[0]: sample.image for sample in samples}
    for index, image in enumerate(random_images(7, 20)):
        assert np.array_equal(image, by_id[f"sampled-{index}"])


def test_labels_are_kept_one_by_one_and_asked_once(sampled: Workspace) -> None:
    """A skipped image is asked for again, a labeled one is not; an interruption loses none."""
    samples, classes = list_unlabeled(sampled.home, NAME)
    answers = iter(["0", None, "1"])

    def ask(sample: Sample) -> str | None:
        return next(answers)

    with pytest.raises(StopIteration):
        label_samples(sampled.home, NAME, samples, classes, ask)
    assert {samples[0].key: "0", samples[2].key: "1"} == load_labels(sampled.home, NAME)
    left = [sample.key for sample in list_unlabeled(sampled.home, NAME)[0]]
    assert [sample.key for sample in samples if sample.key not in (samples[0].key, samples[2].key)] == left
    record_label(sampled.home, NAME, samples[0].key, "1", classes)
    assert "1" == load_labels(sampled.home, NAME)[samples[0].key]
    with pytest.raises(DataError, match="label: got 'cat', accepted: 0, 1"):
        record_label(sampled.home, NAME, samples[1].key, "cat", classes)


def test_only_blind_labels_measure(sampled: Workspace) -> None:
    """Feedback on a predicted image, sampled or not, gives it no label in the monitor's window."""
    samples, classes = list_unlabeled(sampled.home, NAME)
    sampled.log_feedback("0", request_id=samples[0].key[0])
    sampled.log_feedback("1", random_images(3, 1)[0])
    record_label(sampled.home, NAME, samples[1].key, "1", classes)
    window = load_window(sampled.home, NAME, datetime.now(UTC), 1)
    labeled = window[window["label"].notna()]
    assert [(*samples[1].key, "1")] == list(
        labeled[["request_id", "index", "label"]].itertuples(index=False, name=None)
    )


def test_changed_label_is_found(sampled: Workspace) -> None:
    """The log is hash-chained, as that of the decisions is."""
    samples, classes = list_unlabeled(sampled.home, NAME)
    for sample in samples[:2]:
        record_label(sampled.home, NAME, sample.key, "0", classes)
    path = sampled.home.feedback_dir(NAME) / "sampled_labels.jsonl"
    path.write_text(path.read_text().replace('"label":"0"', '"label":"1"', 1))
    with pytest.raises(CorruptDataError, match="one was changed or lost"):
        load_labels(sampled.home, NAME)


def test_command_shows_the_image_and_hides_the_answer(
    sampled: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A wrong answer is asked for again in one line; neither prediction nor probability is printed."""
    monkeypatch.setenv("RELEARN_HOME", str(sampled.home.root))
    monkeypatch.setattr("sys.stdin", io.StringIO("0\n7\n1\n\n"))
    assert 0 == run_command_line(["feedback", "review", "--sampled", "--limit", "3"])
    printed = capsys.readouterr()
    assert "20 sampled images without a label; accepted: 0, 1, or the first letters of one" in printed.out
    assert "label: got '7', accepted: 0, 1" in printed.out
    assert "2 labeled" in printed.out
    assert printed.out.splitlines()[-1].endswith("relearn monitor")
    assert "predicted" not in printed.out
    assert "%" not in printed.out
    assert ["0", "1"] == list(load_labels(sampled.home, NAME).values())


def test_command_says_how_images_are_sampled(workspace: Workspace, capsys: Capture) -> None:
    """Without any there is nothing to ask."""
    assert 0 == run_command_line(["feedback", "review", "--sampled"])
    assert "a server with --image-sample-rate 0.05 keeps some" in " ".join(capsys.readouterr().out.split())


def test_nothing_live_is_an_error(tmp_path: Path) -> None:
    """The message says that there is nothing to label."""
    with pytest.raises(NotFoundError, match="nothing is live as 'light': there are no predictions to label"):
        list_unlabeled(Home(tmp_path, tmp_path), NAME)
