"""Feedback: it is reviewed, outlives the prediction log, and trains without judging."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.reproduce import reproduce_version
from relearn.flows.feedback.decisions import (
    DecisionLog,
    LabelCorrection,
    collect_feedback_images,
    resolve_accepted_labels,
)
from relearn.flows.feedback.review import NO_IMAGE, accept, load_review
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import EXTRA_IMAGES_TAG
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.splits import hash_contents
from relearn.model.errors import CorruptDataError, DataError, InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard, read_card, read_training_hashes
from relearn.model.networks.registry import build_network
from relearn.model.preparation.extra_images import MergeSummary
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.predictions.entries import Feedback
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel
from tests.flows.conftest import Ran

Capture = pytest.CaptureFixture[str]
SHAPE = (1, 12, 12)
NAME = "light"


def random_images(seed: int, count: int) -> np.ndarray:
    """Return new random images."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@dataclass
class Workspace:
    """Home in which version 1 of `light` is live, with functions that log predictions and feedback."""

    home: Home
    prepared: PreparedDataset
    classifier: Classifier
    image_sample_rate: float = 0.0
    request_count: int = field(default=0)

    def log_request(self, images: np.ndarray, request_id: str = "") -> str:
        """Log one request as a worker does; return its id."""
        self.request_count += 1
        request_id = request_id or f"request-{self.request_count}"
        config = ServeConfig(image_sample_rate=self.image_sample_rate)
        writer = PredictionLog(self.folder, config, 1, pytest.fail)
        writer.log(request_id, ServedModel("1", self.classifier), images, self.classifier.predict(images))
        writer.close()
        return request_id

    def log_feedback(
        self, label: str, image: np.ndarray | None = None, request_id: str = "", index: int = 0
    ) -> None:
        """Log feedback with its image, after a new request for the image if there is no `request_id`."""
        if not request_id and image is not None:
            request_id = self.log_request(image[None])
        feedback = Feedback(request_id, index, time.time(), label=label)
        if image is not None:
            feedback.shape, feedback.pixels = image.shape, image.tobytes()
        writer = PredictionLog(self.folder, ServeConfig(), 1, pytest.fail)
        writer.log_feedback(feedback)
        writer.close()

    @property
    def folder(self) -> Path:
        return self.home.prediction_log_dir(NAME)

    def ids(self, label: str | None = None) -> list[str]:
        return [
            item.correction.id
            for item in load_review(self.home, NAME).items
            if label in (None, item.correction.label)
        ]


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace that tests copy, read-only."""
    folder = tmp_path_factory.mktemp("workspace")
    labels = np.arange(300) % 2
    np.savez(folder / "light.npz", images=random_images(0, 300)[:, 0], labels=labels)
    home = Home(folder / "home", folder / "data")
    config = TrainConfig(dataset=f"npz:{folder / 'light.npz'}", hidden_sizes=(4,), epochs=2)
    prepared = prepare_dataset(config, home)
    network = build_network(config, SHAPE, 2)
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))
    classifier.save(folder / "saved", prepared.splits.train_val_hashes)
    Golden.from_classifier(classifier, prepared.splits.test.images).save(folder / "saved")
    releases = ReleaseStore(home.releases_dir(NAME))
    live = Release(
        version="1",
        bento="light:1",
        run_id="r",
        published_at=datetime.now(UTC),
        sha256=releases.add_version("1", folder / "saved"),
    )
    fingerprint = ReferenceSet.from_prepared(prepared, home).save(releases)
    record_decision(
        home,
        NAME,
        ReleaseState(),
        action="promote",
        subject="1",
        run_id="r",
        reasons=(),
        fingerprints={"reference": fingerprint},
        live=live,
        rollback_target=None,
    )
    return Workspace(home, prepared, classifier)


@pytest.fixture
def workspace(shared_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace for this test."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    shutil.copytree(shared_workspace.home.root, tmp_path / "home")
    home = Home(tmp_path / "home", tmp_path / "data")
    return Workspace(home, shared_workspace.prepared, shared_workspace.classifier)


def prepare_next_training(workspace: Workspace) -> PreparedDataset:
    """Return the data of the next training of `light`."""
    return prepare_dataset(
        workspace.classifier.card.config, workspace.home, collect_feedback_images(workspace.home, NAME)
    )


def make_correction(image: np.ndarray, label: str = "0") -> LabelCorrection:
    return LabelCorrection.from_feedback(image, label, "r", 0, reported_at=datetime.now(UTC))


def test_feedback_is_not_trained_on_before_its_review(workspace: Workspace) -> None:
    """It is listed with request, version, prediction, probability, time and image."""
    image = random_images(1, 1)[0]
    workspace.log_feedback("1", image)
    (item,) = load_review(workspace.home, NAME).items
    correction, probabilities = item.correction, workspace.classifier.predict(image[None])[0]

    assert "" == collect_feedback_images(workspace.home, NAME).digest
    assert workspace.prepared.fingerprint == prepare_next_training(workspace).fingerprint
    assert ("new", None, None, ()) == (item.state, item.decision, item.rejection_reason, item.warnings)
    assert ("1", "request-1", "1") == (correction.label, correction.request_id, correction.version)
    assert (str(probabilities.argmax()), pytest.approx(probabilities.max())) == (
        correction.predicted_label,
        correction.probability,
    )
    assert abs((datetime.now(UTC) - correction.reported_at).total_seconds()) < 60
    assert np.array_equal(image, correction.image)


def test_accepted_feedback_is_merged_into_the_next_training(workspace: Workspace, capsys: Capture) -> None:
    """It has the reported label; the fingerprint changes, and the card has number and digest."""
    images = random_images(2, 12)
    for number, image in enumerate(images):
        workspace.log_feedback(str(number % 2), image)
    assert 0 == run_command_line(["feedback", "accept", "--all"])
    prepared = prepare_next_training(workspace)
    card = ModelCard.from_network(workspace.classifier.card.config, prepared, workspace.classifier.network)

    assert "accepted 12 for the next training" in capsys.readouterr().out
    assert workspace.prepared.fingerprint != prepared.fingerprint
    assert (12, 12) == (card.extra_images.merged, card.extra_images.last_decision)
    assert len(card.extra_images.digest) == 64
    train_split = prepared.splits.train
    training_labels = dict(zip(hash_contents(train_split.images).tolist(), train_split.labels, strict=True))
    reported_labels = dict(zip(hash_contents(images).tolist(), np.arange(12) % 2, strict=True))
    merged_hashes = training_labels.keys() & reported_labels.keys()
    assert len(merged_hashes) > 3
    assert all(training_labels[image] == reported_labels[image] for image in merged_hashes)


def test_contradictory_labels_are_reported_and_need_a_decision(workspace: Workspace, capsys: Capture) -> None:
    """`--all` leaves them out with a message; one of two may be accepted, both at once may not."""
    undisputed, disputed = random_images(5, 2)
    existing, label = (
        workspace.prepared.splits.train.images[0].copy(),
        int(workspace.prepared.splits.train.labels[0]),
    )
    other_label = str(1 - label)
    workspace.log_feedback("0", undisputed)
    workspace.log_feedback("0", disputed)
    workspace.log_feedback("1", disputed)
    workspace.log_feedback(other_label, existing)
    items = {
        (item.correction.label, item.correction.image_hash): item
        for item in load_review(workspace.home, NAME).items
    }
    first, second = (items[reported, make_correction(disputed).image_hash] for reported in "01")

    assert (f"the same image was reported as 1 ({second.correction.id[:8]})",) == first.warnings
    assert (f"the same image was reported as 0 ({first.correction.id[:8]})",) == second.warnings
    existing_item = items[other_label, make_correction(existing).image_hash]
    assert (f"the training data has it as {label}",) == existing_item.warnings
    with pytest.raises(DataError, match="give one image different labels, accepted: one of them"):
        accept(workspace.home, NAME, [first, second])

    assert 0 == run_command_line(["feedback", "accept", "--all"])
    printed = capsys.readouterr().out
    assert "accepted 1 for the next training" in printed
    assert 3 == printed.count("left out: ")
    accepted = resolve_accepted_labels(DecisionLog(workspace.home, NAME).load()).values()
    assert [undisputed.tobytes()] == [correction.pixels for correction in accepted]
    assert 0 == run_command_line(["feedback", "accept", second.correction.id])
    states = {
        item.correction.id: (item.state, item.warnings) for item in load_review(workspace.home, NAME).items
    }
    assert ("new", (f"the same image was accepted as 1 ({second.correction.id[:8]})",)) == states[
        first.correction.id
    ]
    assert 0 == run_command_line(["feedback", "accept", first.correction.id])
    assert 0 == run_command_line(["feedback", "reject", second.correction.id])
    accepted_labels = resolve_accepted_labels(DecisionLog(workspace.home, NAME).load())
    assert "0" == accepted_labels[make_correction(disputed).image_hash].label


def test_accepted_label_replaces_that_of_the_dataset(workspace: Workspace) -> None:
    """The image is not trained on with both labels."""
    train = workspace.prepared.splits.train
    image, other_label = train.images[0].copy(), 1 - int(train.labels[0])
    workspace.log_feedback(str(other_label), image)
    accept(workspace.home, NAME, load_review(workspace.home, NAME).items)
    merged = prepare_next_training(workspace).splits.train

    assert [other_label] == merged.labels[
        hash_contents(merged.images) == make_correction(image).image_hash
    ].tolist()
    assert len(train) == len(merged)


def test_repeated_feedback_is_one_correction(workspace: Workspace) -> None:
    """Its reports are counted; images of the training data and test images cannot be accepted."""
    image = random_images(6, 1)[0]
    splits = workspace.prepared.splits
    for _ in range(3):
        workspace.log_feedback("1", image)
    workspace.log_feedback(str(splits.train.labels[0]), splits.train.images[0].copy())
    workspace.log_feedback(str(splits.test.labels[0]), splits.test.images[0].copy())
    repeated, in_training, in_test = load_review(workspace.home, NAME).items

    assert (3, None) == (repeated.correction.reports, repeated.rejection_reason)
    assert "the training data has it already" == in_training.rejection_reason
    assert "its image is a test image" == in_test.rejection_reason
    assert [repeated] == load_review(workspace.home, NAME).acceptable_items
    with pytest.raises(DataError, match="cannot be accepted: its image is a test image"):
        accept(workspace.home, NAME, [repeated, in_test])
    assert [] == DecisionLog(workspace.home, NAME).load()


def test_last_feedback_on_an_image_of_a_request_counts(workspace: Workspace) -> None:
    """The second label replaces the first."""
    image = random_images(7, 1)[0]
    workspace.log_feedback("0", image, workspace.log_request(image[None], "repeated"))
    workspace.log_feedback("1", image, "repeated")
    assert ["1"] == [item.correction.label for item in load_review(workspace.home, NAME).items]


def test_feedback_without_an_image_cannot_be_accepted(workspace: Workspace) -> None:
    """It is listed; if the server has logged the image, none has to be sent."""
    images = random_images(8, 3)
    workspace.log_feedback("1", None, workspace.log_request(images, "not-logged"), 2)
    workspace.image_sample_rate = 1.0
    workspace.log_feedback("1", None, workspace.log_request(images, "logged"), 2)
    without_image, with_image = load_review(workspace.home, NAME).items

    assert (NO_IMAGE, "1") == (without_image.rejection_reason, without_image.correction.version)
    assert (None, images[2].tobytes()) == (with_image.rejection_reason, with_image.correction.pixels)
    with pytest.raises(DataError, match="no image: cannot become training data"):
        accept(workspace.home, NAME, [without_image])


def test_feedback_with_another_image_has_a_warning(workspace: Workspace) -> None:
    """Its image statistics differ from those of the prediction; without a prediction there is no warning."""
    predicted, sent = random_images(9, 2)
    workspace.log_feedback("1", sent, workspace.log_request(predicted[None]))
    workspace.log_feedback("0", sent, "unknown-request")
    mismatched, unknown = load_review(workspace.home, NAME).items
    assert "its image is not the one that was predicted" in mismatched.warnings
    assert (None, None) == (unknown.correction.predicted_label, unknown.correction.version)


def test_feedback_with_another_class_or_shape_cannot_be_accepted(workspace: Workspace) -> None:
    """The reason names class or shape."""
    workspace.log_feedback("cat", random_images(10, 1)[0])
    workspace.log_feedback("1", np.zeros((1, 8, 8), np.uint8), "other-request")
    unknown, small = load_review(workspace.home, NAME).items
    assert "the classifier has no class 'cat'" == unknown.rejection_reason
    assert "its image is 1 × 8 × 8, accepted: 1 × 12 × 12" == small.rejection_reason


def test_decision_can_be_changed_and_is_logged(workspace: Workspace, capsys: Capture) -> None:
    """The last decision counts; rejected feedback that is reported again stays rejected."""
    (image,) = random_images(11, 1)
    workspace.log_feedback("1", image)
    (correction_id,) = workspace.ids()
    for subcommand, images in (
        ("accept", 1),
        ("accept", 1),
        ("reject", 0),
        ("reject", 0),
        ("accept", 1),
        ("reject", 0),
    ):
        assert 0 == run_command_line(["feedback", subcommand, correction_id[:6]])
        assert images == len(collect_feedback_images(workspace.home, NAME).images), subcommand
    workspace.log_feedback("1", image)

    assert "1 were already" in capsys.readouterr().out
    assert ["rejected"] == [item.state for item in load_review(workspace.home, NAME).items]
    decisions = DecisionLog(workspace.home, NAME).load()
    assert ["accept", "reject", "accept", "reject"] == [decision.action for decision in decisions]
    assert all("@" in decision.actor for decision in decisions)
    assert {"request-1"} == {decision.correction.request_id for decision in decisions}


def test_accepted_feedback_outlives_the_prediction_log(workspace: Workspace) -> None:
    """Without the log it is still trained on, and can still be rejected."""
    workspace.log_feedback("1", random_images(12, 1)[0])
    accept(workspace.home, NAME, load_review(workspace.home, NAME).acceptable_items)
    fingerprint = prepare_next_training(workspace).fingerprint
    shutil.rmtree(workspace.folder)
    shutil.rmtree(workspace.home.dataset_cache)

    assert (1, fingerprint) == (
        prepare_next_training(workspace).extra_images.merged,
        prepare_next_training(workspace).fingerprint,
    )
    assert 0 == run_command_line(["feedback", "reject", *workspace.ids()])
    assert workspace.prepared.fingerprint == prepare_next_training(workspace).fingerprint


def test_extra_images_of_an_earlier_training_can_be_collected(workspace: Workspace) -> None:
    """Later decisions do not count; lost decisions are an error."""
    DecisionLog(workspace.home, NAME).record(
        "accept", [make_correction(image) for image in random_images(13, 5)]
    )
    earlier = collect_feedback_images(workspace.home, NAME)
    DecisionLog(workspace.home, NAME).record(
        "reject", [make_correction(image) for image in random_images(13, 3)]
    )
    DecisionLog(workspace.home, NAME).record(
        "accept", [make_correction(image) for image in random_images(14, 3)]
    )

    assert (
        earlier.digest
        == collect_feedback_images(workspace.home, NAME, earlier.last_decision).digest
        != collect_feedback_images(workspace.home, NAME).digest
    )
    with pytest.raises(CorruptDataError, match=r"decisions\.jsonl has 11 decisions, accepted: 12 or more"):
        collect_feedback_images(workspace.home, NAME, 12)


def test_version_trained_with_feedback_can_be_reproduced(workspace: Workspace) -> None:
    """Later decisions do not count; lost decisions are an error."""
    DecisionLog(workspace.home, NAME).record(
        "accept", [make_correction(image) for image in random_images(26, 30)]
    )
    config, prepared = workspace.classifier.card.config, prepare_next_training(workspace)
    network = build_network(config, SHAPE, 2)
    threads = fit(config, network, prepared.splits, 2).threads
    card = ModelCard.from_network(config, prepared, network).model_copy(update={"threads": threads})
    folder, releases = workspace.home.root / "saved", ReleaseStore(workspace.home.releases_dir(NAME))
    Classifier(network, card).save(folder, prepared.splits.train_val_hashes)
    Golden.from_classifier(Classifier(network, card), prepared.splits.test.images).save(folder)
    releases.add_version("2", folder)
    DecisionLog(workspace.home, NAME).record(
        "accept", [make_correction(image, "1") for image in random_images(27, 30)]
    )

    assert "identical" == reproduce_version(workspace.home, NAME, "2").conclusion
    shutil.rmtree(workspace.home.feedback_dir(NAME))
    shutil.rmtree(workspace.home.dataset_cache)
    with pytest.raises(CorruptDataError, match=r"decisions\.jsonl has 0 decisions, accepted: 30 or more"):
        reproduce_version(workspace.home, NAME, "2")


def _accept_images(
    home: Home, images: np.ndarray, barrier: "multiprocessing.synchronize.Barrier | None" = None
) -> None:
    corrections = [make_correction(image) for image in images]
    if barrier:
        barrier.wait(60)
    for correction in corrections:
        DecisionLog(home, NAME).record("accept", [correction])


def test_concurrent_reviewers_lose_no_decision(workspace: Workspace) -> None:
    """Four processes accept as fast as they can; each decision is in the log once."""
    images = random_images(15, 100)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    reviewers = [
        context.Process(target=_accept_images, args=(workspace.home, images[n * 20 : n * 20 + 40], barrier))
        for n in range(4)
    ]
    for reviewer in reviewers:
        reviewer.start()
    for reviewer in reviewers:
        reviewer.join(60)

    assert [0] * 4 == [reviewer.exitcode for reviewer in reviewers]
    decisions = DecisionLog(workspace.home, NAME).load()
    assert 100 == len(decisions) == len({decision.correction.id for decision in decisions})
    assert set(hash_contents(images).tolist()) == set(resolve_accepted_labels(decisions))


def test_killed_reviewer_leaves_a_valid_log(workspace: Workspace) -> None:
    """Earlier decisions are complete, a partial line is dropped, and the next reviewer does not wait."""
    images = random_images(16, 500)
    context = multiprocessing.get_context("fork")
    path, count = workspace.home.feedback_dir(NAME) / "decisions.jsonl", 0
    for _ in range(5):
        reviewer = context.Process(target=_accept_images, args=(workspace.home, images))
        reviewer.start()
        goal = (path.stat().st_size if path.exists() else 0) + 2_000
        deadline = time.monotonic() + 30
        while not path.exists() or path.stat().st_size < goal:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        os.kill(reviewer.pid, signal.SIGKILL)
        reviewer.join()
        decisions = DecisionLog(workspace.home, NAME).load()
        assert count < len(decisions) == len(resolve_accepted_labels(decisions))
        count = len(decisions)
    path.write_bytes(path.read_bytes()[:-20])
    assert count - 1 == len(DecisionLog(workspace.home, NAME).load())
    _accept_images(workspace.home, random_images(17, 1))
    assert count == len(DecisionLog(workspace.home, NAME).load())


def test_invalid_files_in_the_prediction_log_are_skipped(workspace: Workspace) -> None:
    """Feedback in other files is still listed."""
    workspace.log_feedback("1", random_images(18, 1)[0])
    invalid_contents = [
        b"",
        b"\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"request_id":"x","index":0,"time":1e300,"label":"1"}\n',
        b'{"request_id":"x","index":-1,"time":1,"label":"1"}\n',
        b'{"request_id":"x","index":0,"time":1,"label":"1","shape":[1,12,12],"pixels":"AAAA"}\n',
        b'{"columns":[["request_id","nope"]]}\nrest',
        b'{"columns":[]}\nrest',
        b'["columns"]\nrest',
    ]
    for number, content in enumerate(invalid_contents):
        for kind in ("feedback", "predictions", "images"):
            (workspace.folder / f"{kind}-0-{number}.jsonl").write_bytes(content)
    (item,) = load_review(workspace.home, NAME).items
    assert ("1", "1") == (item.correction.label, item.correction.version)


def test_changed_decision_log_is_reported_in_one_line(workspace: Workspace, capsys: Capture) -> None:
    """Review and next training reject a log with a changed line."""
    DecisionLog(workspace.home, NAME).record(
        "accept", [make_correction(image) for image in random_images(19, 3)]
    )
    path = workspace.home.feedback_dir(NAME) / "decisions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"label":"0"', b'"label":"1"', 1))
    assert 4 == run_command_line(["feedback", "review"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error[corrupt_data]: {path}, line 2 does not follow the line before it")
    with pytest.raises(CorruptDataError, match="line 2 does not follow"):
        collect_feedback_images(workspace.home, NAME)


def test_decision_log_is_readable_by_its_owner_only(workspace: Workspace) -> None:
    """The folder has mode 0700, since images may be private."""
    DecisionLog(workspace.home, NAME).record("accept", [make_correction(random_images(20, 1)[0])])
    assert 0o700 == workspace.home.feedback_dir(NAME).stat().st_mode & 0o777


def test_unreadable_decision_log_is_an_infrastructure_error(workspace: Workspace) -> None:
    """A folder has its name."""
    (workspace.home.feedback_dir(NAME) / "decisions.jsonl").mkdir(parents=True)
    with pytest.raises(InfrastructureError, match="cannot be read: Is a directory"):
        DecisionLog(workspace.home, NAME).record("accept", [make_correction(random_images(21, 1)[0])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["accept"],
            "error[user_input]: ids: got nothing, accepted: ids that relearn feedback review shows, or",
        ),
        (["accept", "--all", "ab"], "error[user_input]: ids: got ids and --all, accepted: ids that relearn"),
        (
            ["reject"],
            "error[user_input]: ids: got nothing, accepted: ids that relearn feedback review shows",
        ),
        (["accept", "xyz"], "error[not_found]: id: got 'xyz', which no corrections begin with; see"),
        (["reject", ""], "error[not_found]: id: got '', which no corrections begin with; see relearn"),
        (["review", "--limit", "0"], "error[user_input]: --limit: got 0, accepted: 1 or more"),
        (["review", "--model-name", "dark"], "error[not_found]: nothing released as 'dark'; released: light"),
    ],
)
def test_invalid_arguments_are_rejected_in_one_line(
    workspace: Workspace, arguments: list[str], message: str, capsys: Capture
) -> None:
    """The line names what was wrong, got and accepted; nothing is decided."""
    workspace.log_feedback("1", random_images(22, 1)[0])
    assert 2 == run_command_line(["feedback", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert not workspace.home.feedback_dir(NAME).exists()


def test_ambiguous_id_prefix_is_rejected(workspace: Workspace) -> None:
    """The message has the number of matches."""
    for image in random_images(23, 40):
        workspace.log_feedback("1", image, "request")
    review_result = load_review(workspace.home, NAME)
    initials = [item.correction.id[0] for item in review_result.items]
    prefix = max(initials, key=initials.count)
    with pytest.raises(
        NotFoundError, match=f"got '{prefix}', which {initials.count(prefix)} corrections begin with"
    ):
        review_result.select([prefix])


def test_review_lists_images_and_corrections(
    workspace: Workspace, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints text without color, a contact sheet or JSON, and escapes markup."""
    monkeypatch.setenv("COLUMNS", "80")
    image = np.zeros(SHAPE, np.uint8)
    image[0, :6] = 255
    workspace.log_feedback("1", image)
    workspace.log_feedback("[red]", random_images(24, 1)[0])
    first, second = workspace.ids()
    assert 0 == run_command_line(["feedback", "review", "--contact-sheet", str(tmp_path / "sheet.png")])
    printed = capsys.readouterr().out
    assert (3, 1) == (printed.count("█" * 12), printed.count(first[:8]))
    assert "label 1" in printed
    assert f"{second[:8]} reported as [red]: the classifier has no class '[red]'" in printed
    assert "light: 2 new" in printed
    *_, path, next_command = printed.splitlines()
    assert (str(tmp_path / "sheet.png"), True) == (path, next_command.endswith("feedback accept --all"))
    assert encode_png(image)[:8] == (tmp_path / "sheet.png").read_bytes()[:8]
    assert 2 == run_command_line(["feedback", "review", "--contact-sheet", str(tmp_path / "sheet.png")])
    assert "exists; add --force to replace a file" in capsys.readouterr().err

    assert 0 == run_command_line(["feedback", "review", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [first, second] == [row["id"] for row in rows]
    assert ("1", "new", None) == (rows[0]["label"], rows[0]["state"], rows[0]["rejection_reason"])


def test_missing_training_data_is_reported_by_the_review(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrections are still listed and can be accepted."""
    workspace.log_feedback("1", random_images(25, 1)[0])
    config = workspace.classifier.card.config.model_copy(update={"dataset": "npz:/no/where.npz"})
    card = read_card(ReleaseStore(workspace.home.releases_dir(NAME)).version_folder("1")).model_copy(
        update={"config": config}
    )
    monkeypatch.setattr(ReleaseStore, "read_card", lambda self, version: card)
    review_result = load_review(workspace.home, NAME)
    assert 1 == len(review_result.acceptable_items)
    assert "the training data could not be loaded: /no/where.npz does not exist" in str(
        review_result.training_data_error
    )


@pytest.fixture
def home_with_feedback(ran: Ran, copied: Home, served: str) -> Iterator[Home]:
    """A copy of the real server's home, after eight real requests and feedback on them."""
    images = prepare_dataset(TrainConfig(dataset="digits"), copied).splits.test.images[:8]
    shifted = np.roll(images, 3, axis=3)
    with httpx.Client(base_url=served, trust_env=False, timeout=30) as client:
        for number, image in enumerate(shifted):
            rows = image.reshape(-1).tolist()
            response = client.post(
                "/predict", json={"images": [rows]}, headers={"x-request-id": f"feedback-{number}"}
            )
            assert 200 == response.status_code, response.text
            feedback = {"request_id": f"feedback-{number}", "label": str(number), "image": rows}
            assert "can become training data" in client.post("/feedback", json=feedback).json()["note"]
    time.sleep(0.6)  # until the prediction log is written
    shutil.copytree(ran.home.prediction_log_dir("digits"), copied.prediction_log_dir("digits"))
    shutil.copytree(ran.home.releases_dir("digits"), copied.releases_dir("digits"))
    return copied


def test_feedback_over_http_is_used_for_training_and_gate(home_with_feedback: Home, on_server: str) -> None:
    """Once accepted, the next training has it, and the gate has its holdout."""
    from relearn.flows.release import release
    from relearn.flows.train import train

    home = home_with_feedback
    items = [
        item
        for item in load_review(home, "digits").acceptable_items
        if item.correction.request_id.startswith("feedback-")
    ]
    corrections = [item.correction for item in items]
    assert [str(number) for number in range(8)] == [correction.label for correction in corrections]
    assert {("1", True)} == {(correction.version, correction.image_matches) for correction in corrections}
    accept(home, "digits", items)
    run_id = train(TrainConfig(dataset="digits", epochs=1, hidden_sizes=(8,))).run_id

    folder = registry.download_classifier(connect(home), run_id, home.root / "fetched")
    card, training_hashes = read_card(folder), set(read_training_hashes(folder)[:, 1].tolist())
    merged = {correction.image_hash for correction in corrections}
    assert card.fingerprint != prepare_dataset(TrainConfig(dataset="digits"), home).fingerprint
    assert (len(merged), len(items)) == (card.extra_images.merged, card.extra_images.last_decision)
    assert merged <= training_hashes
    tag = connect(home).get_run(run_id).data.tags[EXTRA_IMAGES_TAG]
    assert card.extra_images == MergeSummary.model_validate_json(tag)

    test_images = prepare_dataset(TrainConfig(dataset="digits"), home).splits.test
    assert len(test_images) >= release(run_id).gate_decision.comparison.images > len(test_images) - 5
