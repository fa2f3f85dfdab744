"""Promises of classes that come, go or are renamed: compared on what both know, and learned if new."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores, score_classifier
from relearn.flows.promotion.class_change import ClassChange, RelabeledClassifier, measure_new_classes
from relearn.flows.promotion.gate import evaluate_gate
from relearn.flows.train import compare_with_live
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.preparation.prepared import prepare_dataset
from tests.flows.zoo import SHAPE, Zoo, animal, animals

CONFIG = PromotionConfig()
OLD, NEW = ("ant", "bee", "cow"), ("ant", "bee", "cow", "dog")
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)


def make_scores(classes: tuple[str, ...], correct: int, images: int = 300) -> ClassifierScores:
    """Return scores of images of three classes, the first `correct` of which are predicted correctly."""
    labels = np.arange(images) % 3
    predicted = np.where(np.arange(images) < correct, labels, (labels + 1) % 3)
    probabilities = np.full((images, 4), 0.02, np.float32)
    probabilities[np.arange(images), predicted] = 0.94
    evaluation = Evaluation(probabilities, labels, NEW)
    return ClassifierScores(classes, SHAPE, True, 1_000, 0.1, ReferenceScores(evaluation))


@pytest.mark.parametrize(
    ("recognized", "correct", "action"),
    [(40, 290, "promote"), (40, 240, "hold"), (24, 290, "reject"), (0, 290, "reject"), (40, 200, "reject")],
)
def test_new_class_must_be_learned_and_the_old_ones_kept(recognized: int, correct: int, action: str) -> None:
    """The interval of its recall must begin at 50 % or more; on the old classes the usual rules hold."""
    recalls = {"dog": Accuracy.from_counts(recognized, 40)}
    decision = evaluate_gate(
        make_scores(NEW, correct), make_scores(OLD, 240), CONFIG, new_class_recalls=recalls
    )
    assert action == decision.action
    if recognized < 40:
        assert "recall of the new class dog: got" in decision.reasons[0]
        assert "accepted: 50% or more at the lower end of the interval" in decision.reasons[0]


def test_new_class_without_a_test_image_is_rejected() -> None:
    """A new class without test images is not released."""
    decision = evaluate_gate(make_scores(NEW, 290), make_scores(OLD, 240), CONFIG)
    assert ("reject", True) == (decision.action, "dog: got no test image" in decision.reasons[0])


def test_removed_class_needs_a_setting() -> None:
    """Without it the reason names both ways on."""
    scores = make_scores(NEW[:3], 290), make_scores((*OLD, "elk"), 240)
    decision = evaluate_gate(*scores, CONFIG)
    assert ("reject", True) == (decision.action, "removed classes: got without elk" in decision.reasons[0])
    assert "--renamed-classes OLD=NEW or --allow-removed-classes" in decision.reasons[0]
    assert "promote" == evaluate_gate(*scores, PromotionConfig(allow_removed_classes=True)).action


def test_renamed_class_is_neither_new_nor_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also if another name changes the order of the classes."""
    config = PromotionConfig(renamed_classes=("ant=zebra",))
    change = ClassChange.between(("bee", "cow", "zebra"), OLD, config)
    assert ((), (), False) == (change.new, change.removed, change.is_rejected(config))
    assert ClassChange.between(("bee", "ant", "cow"), OLD, CONFIG).is_rejected(CONFIG)
    scores = make_scores(("bee", "cow", "zebra"), 290), make_scores(OLD, 240)
    assert "promote" == evaluate_gate(*scores, config).action
    assert 2 == run_command_line(["doctor", "--settings", "--renamed-classes", "ant"])
    assert "--renamed-classes.0: got 'ant', accepted: OLD=NEW" in capsys.readouterr().err


def test_champion_is_asked_by_the_names_of_its_classes() -> None:
    """Its probabilities are those of the new order; a class that it does not know has none."""
    classifier = animal(1)
    relabeled = RelabeledClassifier(classifier, ("zebra", "bee", "cow"), ("bee", "dog", "zebra"))
    probabilities, expected = relabeled.predict(IMAGES), classifier.predict(IMAGES)
    assert np.array_equal(probabilities, np.stack([expected[:, 1], np.zeros(40), expected[:, 0]], 1))
    labels = np.arange(40) % 3
    scores = score_classifier(
        classifier, LabelledImages(IMAGES, labels), ("bee", "dog", "zebra"), ("zebra", "bee", "cow")
    )
    assert OLD == scores.classes
    assert np.array_equal(probabilities.argmax(1) == labels, scores.reference.evaluation.correct)
    assert (
        score_classifier(classifier, LabelledImages(IMAGES, labels), ("bee", "dog", "zebra")).reference
        is None
    )


def test_recall_of_new_classes_is_measured_on_their_images() -> None:
    """Each class by itself; images of shared classes are for the comparison."""
    classifier = animals(TrainConfig(model_name="zoo", hidden_sizes=(4,)))
    change = ClassChange.between(OLD, ("ant",), CONFIG)
    labels = np.arange(40) % 3
    images = LabelledImages(IMAGES, labels)
    assert np.array_equal(labels == 0, change.find_shared(images))
    recalls = measure_new_classes(change, classifier, images)
    predicted = classifier.predict(IMAGES).argmax(1)
    for index, name in ((1, "bee"), (2, "cow")):
        own = labels == index
        assert (int((predicted[own] == index).sum()), int(own.sum())) == (
            recalls[name].correct,
            recalls[name].images,
        )
    assert {} == measure_new_classes(
        change, classifier, replace(images, images=IMAGES[:0], labels=labels[:0])
    )


@pytest.mark.parametrize(
    ("classes", "settings", "advice"),
    [
        (OLD, {}, ""),
        (NEW, {}, "to recognize each new one"),
        (("ant", "bee"), {}, "--renamed-classes OLD=NEW or --allow-removed-classes"),
        (("ant", "bee"), {"allow_removed_classes": True}, "to recognize each new one"),
        (("ant", "bee", "ox"), {"renamed_classes": ("cow=ox",)}, ""),
        (("ant", "bee", "ox"), {"renamed_classes": ("bee=ox",)}, "missing: cow"),
    ],
)
def test_change_is_known_after_loading(
    zoo: Zoo, tmp_path: Path, classes: tuple[str, ...], settings: dict[str, Any], advice: str
) -> None:
    """Only what no candidate can satisfy is refused before the training."""
    zoo.promote("1")
    images = np.random.default_rng(0).integers(0, 256, (90, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "zoo.npz", images=images, labels=np.array(classes)[np.arange(90) % len(classes)])
    prepared = prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'zoo.npz'}"), zoo.home)
    change, is_rejected = compare_with_live(prepared, zoo.releases, PromotionConfig(**settings))
    assert (advice in change, bool(advice)) == (True, bool(change))
    assert ("No classifier of other classes is released" in change) == is_rejected
