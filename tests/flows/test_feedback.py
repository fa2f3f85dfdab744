"""Promises of feedback: it waits for a yes, outlives its records, and some of it is never trained on."""

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
from relearn.flows.config import PromotionConfig
from relearn.flows.evaluation.reproduce import reproduce
from relearn.flows.feedback import review as claims
from relearn.flows.feedback.decisions import (
    DecisionLog,
    LabelCorrection,
    collect_extra_images,
    load_recent_holdout,
    resolve_accepted_labels,
)
from relearn.flows.feedback.review import NO_IMAGE, load_review
from relearn.flows.promotion.candidate_scores import score_classifier
from relearn.flows.promotion.gate import evaluate_gate
from relearn.flows.promotion.gate_report import figure, page
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import EXTRA_IMAGES_TAG
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.extra_images import MergeSummary
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.data.splits import hash_contents
from relearn.model.errors import CorruptDataError, DataError, InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.inference.classifier import Classifier, ModelCard, read_card, read_training_hashes
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.predictions.prediction_log import Feedback, PredictionLog
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel
from tests.flows.conftest import Ran

Capture = pytest.CaptureFixture[str]
SHAPE = (1, 12, 12)
NAME = "light"


def drawn(seed: int, count: int) -> np.ndarray:
    """Images that nobody has seen."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


@dataclass
class Desk:
    """A home where version 1 of `light` is live, and what people say there; workers keep all images."""

    home: Home
    prepared: PreparedDataset
    classifier: Classifier
    image_sample_rate: float = 0.0
    asked: int = field(default=0)

    def answered(self, images: np.ndarray, request_id: str = "") -> str:
        """Records one request as a worker does; returns its id."""
        self.asked += 1
        request_id = request_id or f"request-{self.asked}"
        with_images = PredictionLog(
            self.folder, ServeConfig(image_sample_rate=self.image_sample_rate), 1, pytest.fail
        )
        with_images.log(
            request_id, ServedModel("1", self.classifier), images, self.classifier.predict(images)
        )
        with_images.close()
        return request_id

    def told(self, label: str, image: np.ndarray | None = None, request_id: str = "", index: int = 0) -> None:
        """Somebody says that an image shows `label`, and sends it, after a request for it was answered."""
        if not request_id and image is not None:
            request_id = self.answered(image[None])
        one = Feedback(request_id, index, time.time(), label)
        if image is not None:
            one.shape, one.pixels = image.shape, image.tobytes()
        records = PredictionLog(self.folder, ServeConfig(), 1, pytest.fail)
        records.log_feedback(one)
        records.close()

    @property
    def folder(self) -> Path:
        return self.home.prediction_log_dir(NAME)

    def ids(self, label: str | None = None) -> list[str]:
        return [
            one.correction.id
            for one in load_review(self.home, NAME).items
            if label in (None, one.correction.label)
        ]


@pytest.fixture(scope="module")
def one_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """To be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("desk")
    labels = np.arange(300) % 2
    np.savez(folder / "light.npz", images=drawn(0, 300)[:, 0], labels=labels)
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
    frozen = ReferenceSet(prepared.splits.test, prepared.classes, prepared.uri).save(releases)
    record_decision(
        home,
        NAME,
        ReleaseState(),
        action="promote",
        subject="1",
        run_id="r",
        reasons=(),
        fingerprints={"reference": frozen},
        live=live,
        rollback_target=None,
    )
    return Desk(home, prepared, classifier)


@pytest.fixture
def desk(one_desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    shutil.copytree(one_desk.home.root, tmp_path / "home")
    return Desk(Home(tmp_path / "home", tmp_path / "data"), one_desk.prepared, one_desk.classifier)


def trained_on(desk: Desk) -> PreparedDataset:
    """What the next training of `light` is given."""
    return prepare_dataset(desk.classifier.card.config, desk.home, collect_extra_images(desk.home, NAME))


def claimed(image: np.ndarray, label: str = "0") -> LabelCorrection:
    return LabelCorrection.from_feedback(image, label, "r", 0, reported_at=datetime.now(UTC))


def test_nothing_is_data_before_somebody_says_so(desk: Desk) -> None:
    """What was told changes no training; it is listed with who said what of whom, when, and how sure."""
    image = drawn(1, 1)[0]
    desk.told("1", image)
    (one,) = load_review(desk.home, NAME).items
    row = desk.classifier.predict(image[None])[0]

    assert "" == collect_extra_images(desk.home, NAME).digest
    assert desk.prepared.fingerprint == trained_on(desk).fingerprint
    assert ("new", None, None, ()) == (one.state, one.decision, one.rejection_reason, one.warnings)
    assert ("1", "request-1", "1") == (
        one.correction.label,
        one.correction.request_id,
        one.correction.version,
    )
    assert (str(row.argmax()), pytest.approx(row.max())) == (
        one.correction.predicted_label,
        one.correction.probability,
    )
    assert abs((datetime.now(UTC) - one.correction.reported_at).total_seconds()) < 60
    assert np.array_equal(image, one.correction.image)


def test_what_is_accepted_joins_the_next_training(desk: Desk, capsys: Capture) -> None:
    """Under the label that was told; the fingerprint is another, the card tells how many and which."""
    images = drawn(2, 12)
    for number, image in enumerate(images):
        desk.told(str(number % 2), image)
    assert 0 == run_command_line(["feedback", "accept", "--all"])
    after = trained_on(desk)
    joined = ModelCard.from_network(desk.classifier.card.config, after, desk.classifier.network).extra_images
    sides = [
        claim.is_in_holdout for claim in resolve_accepted_labels(DecisionLog(desk.home, NAME).load()).values()
    ]

    assert f"accepted 12: {sides.count(False)} for the next training, {sides.count(True)} to compare" in (
        capsys.readouterr().out
    )
    assert desk.prepared.fingerprint != after.fingerprint
    assert (sides.count(False), 12) == (joined.merged, joined.last_decision)
    assert len(joined.digest) == 64
    known = dict(
        zip(hash_contents(after.splits.train.images).tolist(), after.splits.train.labels, strict=True)
    )
    told = dict(zip(hash_contents(images).tolist(), np.arange(12) % 2, strict=True))
    trained = known.keys() & told.keys()
    assert len(trained) > 3
    assert all(known[content] == told[content] for content in trained)


def test_a_third_is_never_trained_on(desk: Desk) -> None:
    """About 30 %, by the image alone: the same ones whoever tells them, when, and as what."""
    images = drawn(3, 400)
    ours = [claimed(image) for image in images]
    DecisionLog(desk.home, NAME).record("accept", ours)
    compared = load_recent_holdout(desk.home, NAME, ("0", "1"), SHAPE, np.empty(0, np.uint64))
    joining = collect_extra_images(desk.home, NAME)

    assert 0.23 < len(compared) / 400 < 0.37  # three deviations
    assert 400 == len(compared) + len(joining.images)
    assert not np.isin(hash_contents(compared.images), trained_on(desk).splits.train_val_hashes).any()
    assert set(hash_contents(compared.images).tolist()) == set(joining.excluded_hashes.tolist())
    later = [
        LabelCorrection.from_feedback(image, "1", "x", 7, reported_at=datetime.now(UTC)).is_in_holdout
        for image in images[::-1]
    ]
    assert [one.is_in_holdout for one in ours[::-1]] == later


def test_recent_images_that_were_learned_from_are_left_out(desk: Desk) -> None:
    """By either side of a comparison; of no image there are none, in the right shape."""
    ours = [claimed(image, "1") for image in drawn(4, 20)]
    empty = load_recent_holdout(desk.home, NAME, ("0", "1"), SHAPE, np.empty(0, np.uint64))
    DecisionLog(desk.home, NAME).record("accept", ours)
    held = [one for one in ours if one.is_in_holdout]
    seen = np.array([held[0].image_hash], np.uint64)

    assert (0, SHAPE) == (len(empty), empty.images.shape[1:])
    left = load_recent_holdout(desk.home, NAME, ("0", "1"), SHAPE, seen)
    assert [one.image_hash for one in held[1:]] == hash_contents(left.images).tolist()
    assert {1} == set(left.labels.tolist())
    assert 0 == len(load_recent_holdout(desk.home, NAME, ("a", "b"), SHAPE, seen))
    assert 0 == len(load_recent_holdout(desk.home, NAME, ("0", "1"), (1, 8, 8), seen))


def test_one_recent_image_is_compared_by(desk: Desk) -> None:
    """As many as there are: measured, judged, told and drawn."""
    ours = [one for one in map(claimed, drawn(28, 20)) if one.is_in_holdout]
    DecisionLog(desk.home, NAME).record("accept", ours[:1])
    told = load_recent_holdout(desk.home, NAME, ("0", "1"), SHAPE, desk.prepared.splits.train_val_hashes)
    sets = {"reference": desk.prepared.splits.test, "recent": told}
    measured = score_classifier(desk.classifier, sets, ("0", "1"))
    verdict = evaluate_gate(measured, measured, PromotionConfig())

    compared = verdict.comparisons["recent"]
    assert (1, 1, 0.0, 1.0) == (len(told), compared.images, compared.difference, compared.p_value)
    assert "| recent | 1 | 0 | 0 |" in page(verdict)
    assert 3 == len(figure(verdict, measured, measured).axes)


def test_contradictions_are_told_and_wait_for_a_person(desk: Desk, capsys: Capture) -> None:
    """`--all` leaves them out and says so; one of two may be accepted, both at once may not."""
    plain, torn = drawn(5, 2)
    mine, label = desk.prepared.splits.train.images[0].copy(), int(desk.prepared.splits.train.labels[0])
    other = str(1 - label)
    desk.told("0", plain)
    desk.told("0", torn)
    desk.told("1", torn)
    desk.told(other, mine)
    found = {
        (one.correction.label, one.correction.image_hash): one for one in load_review(desk.home, NAME).items
    }
    first, second = (found[said, claimed(torn).image_hash] for said in "01")

    assert (f"the same image was told as 1 ({second.correction.id[:8]})",) == first.warnings
    assert (f"the same image was told as 0 ({first.correction.id[:8]})",) == second.warnings
    assert (f"the training data says that it is {label}",) == found[other, claimed(mine).image_hash].warnings
    with pytest.raises(DataError, match="say different things of one image, accepted: one"):
        claims.accept(desk.home, NAME, [first, second])

    assert 0 == run_command_line(["feedback", "accept", "--all"])
    said = capsys.readouterr().out
    assert "accepted 1:" in said
    assert 3 == said.count("left out: ")
    assert [plain.tobytes()] == [
        one.pixels for one in resolve_accepted_labels(DecisionLog(desk.home, NAME).load()).values()
    ]
    assert 0 == run_command_line(["feedback", "accept", second.correction.id])
    states = {one.correction.id: (one.state, one.warnings) for one in load_review(desk.home, NAME).items}
    assert ("new", (f"the same image was accepted as 1 ({second.correction.id[:8]})",)) == states[
        first.correction.id
    ]
    assert 0 == run_command_line(["feedback", "accept", first.correction.id])
    assert 0 == run_command_line(["feedback", "reject", second.correction.id])
    assert "0" == resolve_accepted_labels(DecisionLog(desk.home, NAME).load())[claimed(torn).image_hash].label


def test_an_accepted_label_takes_the_place_of_the_datasets(desk: Desk) -> None:
    """Somebody has looked at it: the image is not trained on under both."""
    train = desk.prepared.splits.train
    number = next(n for n in range(len(train)) if not claimed(train.images[n]).is_in_holdout)
    image, other = train.images[number].copy(), 1 - int(train.labels[number])
    desk.told(str(other), image)
    claims.accept(desk.home, NAME, load_review(desk.home, NAME).items)
    after = trained_on(desk).splits.train

    assert [other] == after.labels[hash_contents(after.images) == claimed(image).image_hash].tolist()
    assert len(train) == len(after)


def test_duplicates_are_one_answer(desk: Desk) -> None:
    """Told again it is counted; what the data has, and what classifiers are tested with, is no data."""
    image = drawn(6, 1)[0]
    splits = desk.prepared.splits
    for _ in range(3):
        desk.told("1", image)
    desk.told(str(splits.train.labels[0]), splits.train.images[0].copy())
    desk.told(str(splits.test.labels[0]), splits.test.images[0].copy())
    again, known, tested = load_review(desk.home, NAME).items

    assert (3, None) == (again.correction.reports, again.rejection_reason)
    assert "the training data has it already" == known.rejection_reason
    assert "its image is one that classifiers are tested with" == tested.rejection_reason
    assert [again] == load_review(desk.home, NAME).acceptable_items
    with pytest.raises(DataError, match="cannot be accepted: its image is one that classifiers are tested"):
        claims.accept(desk.home, NAME, [again, tested])
    assert [] == DecisionLog(desk.home, NAME).load()


def test_what_was_said_last_of_an_image_counts(desk: Desk) -> None:
    """Who corrects themselves says one thing."""
    image = drawn(7, 1)[0]
    desk.told("0", image, desk.answered(image[None], "mine"))
    desk.told("1", image, "mine")
    assert ["1"] == [one.correction.label for one in load_review(desk.home, NAME).items]


def test_without_an_image_it_is_no_data(desk: Desk) -> None:
    """It is listed as what it is; where the server kept the image, none has to be sent."""
    images = drawn(8, 3)
    desk.told("1", None, desk.answered(images, "not-kept"), 2)
    desk.image_sample_rate = 1.0
    desk.told("1", None, desk.answered(images, "kept"), 2)
    lost, kept = load_review(desk.home, NAME).items

    assert (NO_IMAGE, "1") == (lost.rejection_reason, lost.correction.version)
    assert (None, images[2].tobytes()) == (kept.rejection_reason, kept.correction.pixels)
    with pytest.raises(DataError, match="no image: cannot become training data"):
        claims.accept(desk.home, NAME, [lost])


def test_another_image_than_the_answered_one_is_doubtful(desk: Desk) -> None:
    """Told by what was measured of it; who knows of no answer is believed, if looked at."""
    asked, sent = drawn(9, 2)
    desk.told("1", sent, desk.answered(asked[None]))
    desk.told("0", sent, "never-answered")
    other, unknown = load_review(desk.home, NAME).items
    assert "another image came with it than the one that was answered" in other.warnings
    assert (None, None) == (unknown.correction.predicted_label, unknown.correction.version)


def test_other_classes_and_shapes_are_refused_by_name(desk: Desk) -> None:
    desk.told("cat", drawn(10, 1)[0])
    desk.told("1", np.zeros((1, 8, 8), np.uint8), "elsewhere")
    unknown, small = load_review(desk.home, NAME).items
    assert "the classifier knows no class 'cat'" == unknown.rejection_reason
    assert "its image is 1 × 8 × 8, accepted: 1 × 12 × 12" == small.rejection_reason


def test_a_decision_can_be_changed_and_is_remembered(desk: Desk, capsys: Capture) -> None:
    """The last one counts; what was rejected and is told again stays rejected; all of it is on record."""
    image = next(one for one in drawn(11, 20) if not claimed(one).is_in_holdout)
    desk.told("1", image)
    (number,) = desk.ids()
    for verb, images in (
        ("accept", 1),
        ("accept", 1),
        ("reject", 0),
        ("reject", 0),
        ("accept", 1),
        ("reject", 0),
    ):
        assert 0 == run_command_line(["feedback", verb, number[:6]])
        assert images == len(collect_extra_images(desk.home, NAME).images), verb
    desk.told("1", image)

    assert "1 were already" in capsys.readouterr().out
    assert ["rejected"] == [one.state for one in load_review(desk.home, NAME).items]
    made = DecisionLog(desk.home, NAME).load()
    assert ["accept", "reject", "accept", "reject"] == [one.action for one in made]
    assert all("@" in one.actor and one.correction.request_id == "request-1" for one in made)


def test_accepted_feedback_outlives_its_records(desk: Desk) -> None:
    """Records are bounded, the oldest go first: it is trained on all the same, and can still be rejected."""
    desk.told("1", next(one for one in drawn(12, 20) if not claimed(one).is_in_holdout))
    claims.accept(desk.home, NAME, load_review(desk.home, NAME).acceptable_items)
    before = trained_on(desk)
    shutil.rmtree(desk.folder)
    shutil.rmtree(desk.home.dataset_cache)

    assert (1, before.fingerprint) == (trained_on(desk).extra_images.merged, trained_on(desk).fingerprint)
    assert 0 == run_command_line(["feedback", "reject", *desk.ids()])
    assert desk.prepared.fingerprint == trained_on(desk).fingerprint


def test_an_earlier_training_can_be_put_together_again(desk: Desk) -> None:
    """Whatever was decided since; where decisions are lost, that is the reason."""
    DecisionLog(desk.home, NAME).record("accept", [claimed(image) for image in drawn(13, 5)])
    before = collect_extra_images(desk.home, NAME)
    DecisionLog(desk.home, NAME).record("reject", [claimed(image) for image in drawn(13, 3)])
    DecisionLog(desk.home, NAME).record("accept", [claimed(image) for image in drawn(14, 3)])

    assert (
        before.digest
        == collect_extra_images(desk.home, NAME, before.last_decision).digest
        != collect_extra_images(desk.home, NAME).digest
    )
    with pytest.raises(CorruptDataError, match=r"decisions\.jsonl has 11 decisions, accepted: 12 or more"):
        collect_extra_images(desk.home, NAME, 12)


def test_a_version_that_learned_from_feedback_can_be_reproduced(desk: Desk) -> None:
    """Bit for bit, whatever was accepted since; where the decisions are lost, that is the reason."""
    DecisionLog(desk.home, NAME).record("accept", [claimed(image) for image in drawn(26, 30)])
    config, data = desk.classifier.card.config, trained_on(desk)
    network = build_network(config, SHAPE, 2)
    learned = fit(config, network, data.splits, 2)
    card = ModelCard.from_network(config, data, network).model_copy(update={"threads": learned.threads})
    folder, releases = desk.home.root / "saved", ReleaseStore(desk.home.releases_dir(NAME))
    Classifier(network, card).save(folder, data.splits.train_val_hashes)
    Golden.from_classifier(Classifier(network, card), data.splits.test.images).save(folder)
    releases.add_version("2", folder)
    DecisionLog(desk.home, NAME).record("accept", [claimed(image, "1") for image in drawn(27, 30)])

    assert "identical" == reproduce(desk.home, NAME, "2").verdict
    shutil.rmtree(desk.home.feedback_dir(NAME))
    with pytest.raises(CorruptDataError, match=r"decisions\.jsonl has 0 decisions, accepted: 30 or more"):
        reproduce(desk.home, NAME, "2")


def _accept(
    home: Home, images: np.ndarray, start: "multiprocessing.synchronize.Barrier | None" = None
) -> None:
    ours = [claimed(image) for image in images]
    if start:
        start.wait(60)
    for one in ours:
        DecisionLog(home, NAME).record("accept", [one])


def test_reviewers_at_once_lose_nothing(desk: Desk) -> None:
    """Four processes accept as fast as they can; each decision is there once, in one chain."""
    images = drawn(15, 100)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    people = [
        context.Process(target=_accept, args=(desk.home, images[n * 20 : n * 20 + 40], start))
        for n in range(4)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join(60)

    assert [0] * 4 == [person.exitcode for person in people]
    made = DecisionLog(desk.home, NAME).load()
    assert 100 == len(made) == len({one.correction.id for one in made})
    assert set(hash_contents(images).tolist()) == set(resolve_accepted_labels(made))


def test_a_reviewer_may_be_killed(desk: Desk) -> None:
    """At any moment: what was decided before is whole, and the next one goes on, waiting for nobody."""
    images = drawn(16, 500)
    context = multiprocessing.get_context("fork")
    path, done = desk.home.feedback_dir(NAME) / "decisions.jsonl", 0
    for _ in range(5):
        person = context.Process(target=_accept, args=(desk.home, images))
        person.start()
        goal = (path.stat().st_size if path.exists() else 0) + 2_000
        deadline = time.monotonic() + 30
        while not path.exists() or path.stat().st_size < goal:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        os.kill(person.pid, signal.SIGKILL)
        person.join()
        made = DecisionLog(desk.home, NAME).load()
        assert done < len(made) == len(resolve_accepted_labels(made))
        done = len(made)
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert done - 1 == len(DecisionLog(desk.home, NAME).load())
    _accept(desk.home, drawn(17, 1))
    assert done == len(DecisionLog(desk.home, NAME).load())


def test_garbage_among_the_records_hides_nothing(desk: Desk) -> None:
    """Files and lines that no worker wrote are passed over."""
    desk.told("1", drawn(18, 1)[0])
    nonsense = [
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
    for number, content in enumerate(nonsense):
        for kind in ("feedback", "predictions", "images"):
            (desk.folder / f"{kind}-0-{number}").write_bytes(content)
    (one,) = load_review(desk.home, NAME).items
    assert ("1", "1") == (one.correction.label, one.correction.version)


def test_damaged_decisions_are_one_line(desk: Desk, capsys: Capture) -> None:
    """A line that was changed is noticed: by who reviews, and by the next training."""
    DecisionLog(desk.home, NAME).record("accept", [claimed(image) for image in drawn(19, 3)])
    path = desk.home.feedback_dir(NAME) / "decisions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"label":"0"', b'"label":"1"', 1))
    assert 4 == run_command_line(["feedback", "review"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error[corrupt_data]: {path}, line 2 does not follow the line before it")
    with pytest.raises(CorruptDataError, match="line 2 does not follow"):
        collect_extra_images(desk.home, NAME)


def test_only_the_owner_may_read(desk: Desk) -> None:
    """Images of people lie in a folder of mode 0700."""
    DecisionLog(desk.home, NAME).record("accept", [claimed(drawn(20, 1)[0])])
    assert 0o700 == desk.home.feedback_dir(NAME).stat().st_mode & 0o777


def test_a_home_that_cannot_be_written_is_one_line(desk: Desk) -> None:
    (desk.home.feedback_dir(NAME) / "decisions.jsonl").mkdir(parents=True)
    with pytest.raises(InfrastructureError, match="cannot be read: Is a directory"):
        DecisionLog(desk.home, NAME).record("accept", [claimed(drawn(21, 1)[0])])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["accept"],
            "error[user_input]: ids: got nothing, accepted: ids that relearn feedback review shows, or",
        ),
        (["accept", "--all", "ab"], "error[user_input]: ids: got ids and --all, accepted: some that relearn"),
        (
            ["reject"],
            "error[user_input]: ids: got nothing, accepted: ids that relearn feedback review shows",
        ),
        (["accept", "xyz"], "error[not_found]: id: got 'xyz', which no answers begin with; see relearn"),
        (["reject", ""], "error[not_found]: id: got '', which no answers begin with; see relearn feedback"),
        (["review", "--limit", "0"], "error[user_input]: --limit: got 0, accepted: 1 or more"),
        (["review", "--model-name", "dark"], "error[not_found]: nothing released as 'dark'; released: light"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(desk: Desk, words: list[str], line: str, capsys: Capture) -> None:
    """What was wrong, got, accepted; nothing is decided."""
    desk.told("1", drawn(22, 1)[0])
    assert 2 == run_command_line(["feedback", *words])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)
    assert not desk.home.feedback_dir(NAME).exists()


def test_an_id_that_begins_several_is_refused(desk: Desk) -> None:
    """With those that are meant."""
    for image in drawn(23, 40):
        desk.told("1", image, "one")
    found = load_review(desk.home, NAME)
    starts = [one.correction.id[0] for one in found.items]
    several = max(starts, key=starts.count)
    with pytest.raises(
        NotFoundError, match=f"got '{several}', which {starts.count(several)} answers begin with"
    ):
        found.select([several])


def test_the_list_shows_image_and_facts(
    desk: Desk, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For people, as a sheet of images, and for programs; it needs no colour, and markup means nothing."""
    monkeypatch.setenv("COLUMNS", "80")
    image = np.zeros(SHAPE, np.uint8)
    image[0, :6] = 255
    desk.told("1", image)
    desk.told("[red]", drawn(24, 1)[0])
    first, second = desk.ids()
    assert 0 == run_command_line(["feedback", "review", "--contact-sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert (3, 1) == (said.count("█" * 12), said.count(first[:8]))
    assert "label 1" in said
    assert f"{second[:8]} reported as [red]: the classifier knows no class '[red]'" in said
    assert "light: 2 new" in said
    assert "relearn feedback accept --all accepts 1 without warnings" in said
    assert said.endswith(f"\n{tmp_path / 'sheet.png'}\n")
    assert encode_png(image)[:8] == (tmp_path / "sheet.png").read_bytes()[:8]
    assert 2 == run_command_line(["feedback", "review", "--contact-sheet", str(tmp_path / "sheet.png")])
    assert "exists; add --force to replace a file" in capsys.readouterr().err

    assert 0 == run_command_line(["feedback", "review", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [first, second] == [row["id"] for row in rows]
    assert ("1", "new", None) == (rows[0]["label"], rows[0]["state"], rows[0]["rejection_reason"])


def test_data_that_is_gone_is_said_and_hides_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the dataset nobody knows what is in it already."""
    desk.told("1", drawn(25, 1)[0])
    moved = desk.classifier.card.config.model_copy(update={"dataset": "npz:/no/where.npz"})
    card = read_card(ReleaseStore(desk.home.releases_dir(NAME)).version_folder("1")).model_copy(
        update={"config": moved}
    )
    monkeypatch.setattr(claims, "read_card", lambda folder: card)
    found = load_review(desk.home, NAME)
    assert 1 == len(found.acceptable_items)
    assert "the training data could not be looked at: /no/where.npz is not there" in str(
        found.training_data_error
    )


@pytest.fixture
def told_home(ran: Ran, copied: Home, served: str) -> Iterator[Home]:
    """A copy of the home of the real server, after eight real requests and what people said of them."""
    images = prepare_dataset(TrainConfig(dataset="digits"), copied).splits.test.images[:8]
    shifted = np.roll(images, 3, axis=3)
    with httpx.Client(base_url=served, trust_env=False, timeout=30) as client:
        for number, image in enumerate(shifted):
            rows = image.reshape(-1).tolist()
            answer = client.post(
                "/predict", json={"images": [rows]}, headers={"x-request-id": f"told-{number}"}
            )
            assert 200 == answer.status_code, answer.text
            said = {"request_id": f"told-{number}", "label": str(number), "image": rows}
            assert "can become training data" in client.post("/feedback", json=said).json()["note"]
    time.sleep(0.6)  # what was answered is on disk
    shutil.copytree(ran.home.prediction_log_dir("digits"), copied.prediction_log_dir("digits"))
    shutil.copytree(ran.home.releases_dir("digits"), copied.releases_dir("digits"))
    return copied


def test_what_a_server_was_told_is_trained_on_and_judged_by(told_home: Home, on_server: str) -> None:
    """Asked and told over HTTP, reviewed, accepted; the next training has it, and the gate its share."""
    from relearn.flows.release import release
    from relearn.flows.train import train

    home = told_home
    found = load_review(home, "digits")
    ours = [one for one in found.acceptable_items if one.correction.request_id.startswith("told-")]
    assert [str(number) for number in range(8)] == [one.correction.label for one in ours]
    assert {("1", True)} == {(one.correction.version, one.correction.image_matches) for one in ours}
    claims.accept(home, "digits", ours)
    trained = train(TrainConfig(dataset="digits", epochs=1, hidden_sizes=(8,)))

    folder = registry.download_classifier(connect(home), trained.run_id, home.root / "fetched")
    card, seen = read_card(folder), read_training_hashes(folder)
    compared = [one.correction.image_hash for one in ours if one.correction.is_in_holdout]
    joined = [one.correction.image_hash for one in ours if not one.correction.is_in_holdout]
    assert card.fingerprint != prepare_dataset(TrainConfig(dataset="digits"), home).fingerprint
    assert (len(joined), len(ours)) == (card.extra_images.merged, card.extra_images.last_decision)
    assert set(joined) <= set(seen.tolist())
    assert set() == set(compared) & set(seen.tolist())
    told = connect(home).get_run(trained.run_id).data.tags[EXTRA_IMAGES_TAG]
    assert card.extra_images == MergeSummary.model_validate_json(told)

    comparisons = release(trained.run_id).gate_decision.comparisons
    assert len(compared) == comparisons["recent"].images
