"""Promises of the drift tests: what is other is seen in small windows, what is alike is left alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.data.prepared import prepare_dataset
from relearn.model.drift.drift_test import (
    CONFIDENCE,
    LABELS,
    DriftReport,
    DriftSample,
    chi_squared_p_value,
    detect_drift,
    format_p_value,
    holm,
)
from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.evaluation.robustness import CORRUPTIONS, shift_rotate_scale
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit

WINDOW = 200  # the least that is tested by default
DIGITS = tuple("0123456789")
ALL = (*STATISTICS, CONFIDENCE, LABELS)


@dataclass(frozen=True)
class Seen:
    """A trained classifier, and images that it has not learned from."""

    classifier: Classifier
    images: np.ndarray

    def sample(self, images: np.ndarray) -> DriftSample:
        return DriftSample(compute_statistics(images), self.classifier.predict(np.ascontiguousarray(images)))


def learned(config: TrainConfig, home: Home) -> Seen:
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    splits = prepared.splits
    unseen = np.concatenate([splits.validation.images, splits.test.images])
    return Seen(Classifier(network, ModelCard.from_network(config, prepared, network)), unseen)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A small mlp that reads the bundled digits."""
    root = tmp_path_factory.mktemp("drift")
    config = TrainConfig.from_preset(
        "default", dataset="digits", hidden_sizes=(64,), epochs=8, test_fraction=0.4
    )
    return learned(config, Home(root, root))


def compared(reference: DriftSample, window: DriftSample, **changes: float) -> DriftReport:
    limits = {"significance": 0.0001, "min_effect_size": 0.1, "min_images": WINDOW} | changes
    return detect_drift(reference, window, DIGITS, **limits)


def halves(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Which images are the reference, and which, of the size of the least window, come later."""
    order = np.random.default_rng(seed).permutation(count)
    return order[WINDOW:], order[:WINDOW]


def names(drift: DriftReport) -> set[str]:
    return {one.name for one in drift.drifted_tests}


def made(count: int, seed: int = 0, classes: int = 10) -> DriftSample:
    """Random traits, and sharp answers with all classes alike."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, classes)) * 4
    powers = np.exp(logits)
    return DriftSample(generator.random((count, len(STATISTICS))), powers / powers.sum(1, keepdims=True))


def faint(images: np.ndarray) -> np.ndarray:
    return (images * 0.7).astype(np.uint8)


def mirrored(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda images: shift_rotate_scale(images, rotation=25), {"vertical_gradient_rms", CONFIDENCE}),
        (CORRUPTIONS["mnist"]["noisy"], {"brightness", "vertical_gradient_rms"}),
        (CORRUPTIONS["mnist"]["thinner"], {"brightness", "foreground_fraction", CONFIDENCE}),
        (CORRUPTIONS["mnist"]["inverted"], {"brightness", "foreground_fraction", CONFIDENCE, LABELS}),
        (faint, {"brightness", "contrast"}),
        (mirrored, {CONFIDENCE}),
    ],
    ids=["turned", "noisy", "another pen", "inverted", "faint", "mirrored"],
)
def test_another_kind_of_images_is_seen_in_the_least_window(
    change: Callable[[np.ndarray], np.ndarray], expected: set[str], digits: Seen
):
    """200 images are enough, and the measures that one would name are among those that drifted."""
    before, now = halves(len(digits.images))
    reference = digits.sample(digits.images[before])

    drift = compared(reference, digits.sample(change(digits.images[now])))

    assert expected <= names(drift)
    assert {} == drift.insufficient_data
    assert all(one.p_value < 0.0001 and one.effect_size >= 0.1 for one in drift.drifted_tests)
    assert names(drift) == {one.name for one in drift.tests if one.has_drifted}


def test_another_mix_of_classes_is_seen(digits: Seen):
    """As many images of each kind of handwriting, but hardly any odd digits: the labels tell it."""
    before, now = halves(len(digits.images))
    answers = digits.sample(digits.images)
    odd = answers.probabilities.argmax(1) % 2 == 1
    even = np.concatenate([now[~odd[now]], before[~odd[before]]])[:WINDOW]
    window = DriftSample(answers.statistics[even], answers.probabilities[even])

    (labels,) = [
        one for one in compared(digits.sample(digits.images[before]), window).tests if one.name == LABELS
    ]

    assert labels.has_drifted
    assert labels.effect_size == pytest.approx(0.5, abs=0.1)
    assert 0 == labels.window or labels.reference < labels.window
    assert f"are {labels.label!r} as a rule" in labels.summary


def test_the_same_kind_of_images_is_left_alone(digits: Seen):
    """Of 200 windows drawn from what the reference is drawn from, at most one in twenty gives an alarm."""
    answers = digits.sample(digits.images)

    def part(chosen: np.ndarray) -> DriftSample:
        return DriftSample(answers.statistics[chosen], answers.probabilities[chosen])

    parted = (halves(len(digits.images), seed) for seed in range(200))
    alarms = sum(bool(compared(part(before), part(now)).drifted_tests) for before, now in parted)
    assert alarms <= 10


@pytest.mark.slow
def test_mnist_is_told_from_other_digits_and_not_from_itself(real_data: Path, tmp_path: Path):
    """Of 400 windows of 200 to 2,000 images at most one in twenty gives an alarm; 200 digits of
    other writers do."""
    seen = learned(TrainConfig.from_preset("fast", dataset="mnist"), Home(tmp_path, real_data))
    answers, alarms = seen.sample(seen.images), 0
    for seed in range(400):
        order = np.random.default_rng(seed).permutation(len(seen.images))
        size = (200, 500, 1_000, 2_000)[seed % 4]
        before, now = (
            DriftSample(answers.statistics[one], answers.probabilities[one])
            for one in (order[size:], order[:size])
        )
        alarms += bool(compared(before, now).drifted_tests)
    assert alarms <= 20
    others = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, real_data)).train.images[:WINDOW]
    assert {"vertical_gradient_rms", CONFIDENCE} <= names(compared(answers, seen.sample(others)))


def test_too_few_images_say_so():
    """Nothing is tested, and each measure tells how many there were."""
    drift = compared(made(500), made(WINDOW - 1, 1))

    assert ((), ()) == (drift.tests, drift.drifted_tests)
    assert dict.fromkeys(ALL, WINDOW - 1) == drift.insufficient_data


def test_an_empty_window_says_so():
    """No answer is no drift."""
    none = DriftSample(np.empty((0, len(STATISTICS))), np.empty((0, 10)))
    assert dict.fromkeys(ALL, 0) == compared(made(500), none).insufficient_data


def test_an_empty_reference_says_so():
    """Without something to compare with, nothing is."""
    none = DriftSample(np.empty((0, len(STATISTICS))), np.empty((0, 10)))
    assert set(ALL) == set(compared(none, made(500)).insufficient_data)


def test_what_is_not_known_is_left_out():
    """Of a trait nobody recorded nothing is told, of answers by other versions the traits alone."""
    reference, window = made(1_000), made(600, 1)
    window.statistics[:, 2] = np.nan
    window.probabilities[100:] = np.nan

    drift = compared(reference, window)

    assert {"foreground_fraction": 0, CONFIDENCE: 100, LABELS: 100} == drift.insufficient_data
    assert {600} == {one.images for one in drift.tests}
    assert not drift.drifted_tests


def test_infinite_values_are_left_out():
    """As NaN is."""
    window = made(600, 1)
    window.statistics[:300, 0] = np.inf
    (brightness,) = [one for one in compared(made(1_000), window).tests if one.name == "brightness"]
    assert (300, True) == (brightness.images, np.isfinite(brightness.window))


@pytest.mark.parametrize("classes", [1, 2, 500])
def test_any_number_of_classes_is_tested(classes: int):
    """One class has always the same share; of many, each has few images."""
    names = [f"class {number}" for number in range(classes)]
    drift = detect_drift(
        made(1_000, 0, classes), made(300, 1, classes), names, significance=0.0001, min_effect_size=0.1,
        min_images=WINDOW,
    )  # fmt: skip
    assert set(ALL) == {one.name for one in drift.tests}
    assert not drift.drifted_tests


def test_one_and_the_same_answer_is_drift():
    """A client that sends one image again and again, or a classifier that has broken."""
    window = made(300, 1)
    stuck = DriftSample(np.tile(window.statistics[:1], (300, 1)), np.tile(window.probabilities[:1], (300, 1)))
    assert set(ALL) == names(compared(made(1_000), stuck))


def test_a_large_window_gives_no_alarm_for_next_to_nothing():
    """A hundredth of the range is beyond chance with 100,000 images, and no drift."""
    reference, window = made(10_000), made(100_000, 1)
    window.statistics[:, 0] += 0.02

    drift = compared(reference, window)

    assert drift.tests[0].p_value < 1e-4
    assert not drift.tests[0].has_drifted
    assert {"brightness"} == names(compared(reference, window, min_effect_size=0.01))


def test_a_small_window_gives_no_alarm_for_chance():
    """Far is not enough where few images may lie there by accident."""
    drift = compared(made(100), made(30, 1), min_images=20, min_effect_size=0.05)
    assert max(one.effect_size for one in drift.tests) >= 0.05
    assert not drift.drifted_tests


def test_the_distance_is_the_share_that_was_changed():
    """Where a fifth of the images is replaced by what was never there, every measure says a fifth."""
    reference, window = made(50_000), made(50_000, 1)
    window.statistics[:10_000] = 2
    window.probabilities[:10_000] = np.eye(10)[0]

    distances = {one.name: one.effect_size for one in compared(reference, window).tests}

    assert {name: pytest.approx(0.2, abs=0.02) for name in (*STATISTICS, CONFIDENCE)} == {
        name: distances[name] for name in (*STATISTICS, CONFIDENCE)
    }
    assert distances[LABELS] == pytest.approx(0.2 * 0.9, abs=0.02)


def test_holm_is_what_it_is_elsewhere():
    """The example of the paper's textbooks; and one p-value alone stays as it is."""
    assert [0.03, 0.06, 0.06, 0.02] == pytest.approx(holm([0.01, 0.04, 0.03, 0.005]))
    assert [0.2] == holm([0.2])
    assert [] == holm([])
    assert [1.0, 1.0] == holm([0.9, 0.8])


def test_classes_are_tested_by_chi_squared():
    """The textbook's formula."""
    counts = np.array([[100, 200, 300], [150, 210, 240]])
    expected = counts.sum(0) / 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, 2) == pytest.approx(chi_squared_p_value(counts))


def test_rare_classes_are_tested_together():
    """Those that would have less than five images in the smaller row, and those that nobody has."""
    counts = np.array([[500, 300, 8, 0, 6, 7, 2], [100, 60, 1, 0, 2, 3, 1]])
    together = np.array([[500, 300, 23], [100, 60, 7]])
    assert chi_squared_p_value(together) == chi_squared_p_value(counts)


def test_rare_classes_that_become_frequent_are_seen():
    """Though they are tested together with others."""
    counts = np.array([[500, 300, *[2] * 20], [100, 60, 40, *[0] * 19]])
    assert chi_squared_p_value(counts) < 1e-6


def test_p_values_are_told_as_far_as_they_are_known():
    """The smallest ones only by their bound."""
    assert ("p = 0.031", "p < 0.0001", "p = 1") == (
        format_p_value(0.0312),
        format_p_value(0.0),
        format_p_value(1.0),
    )
