"""Tests of drift detection: drift is found in small windows, and false alarms are rare."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.drift.detect import (
    CONFIDENCE,
    LABELS,
    DriftReport,
    DriftSample,
    chi_squared_p_value,
    detect_drift,
    format_p_value,
    merge_rare_classes,
)
from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.evaluation.robustness import CORRUPTIONS, shift_rotate_scale
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

WINDOW = 200  # smallest window that is tested by default
DIGITS = tuple("0123456789")
ALL_TESTS = (*STATISTICS, CONFIDENCE, LABELS)


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier, and images that were not used for training."""

    classifier: Classifier
    images: np.ndarray

    def sample(self, images: np.ndarray) -> DriftSample:
        return DriftSample(compute_statistics(images), self.classifier.predict(np.ascontiguousarray(images)))


def train(config: TrainConfig, home: Home) -> TrainedClassifier:
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    splits = prepared.splits
    images = np.concatenate([splits.validation.images, splits.test.images])
    return TrainedClassifier(Classifier(network, ModelCard.from_network(config, prepared, network)), images)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TrainedClassifier:
    """A small mlp, trained on the bundled digits."""
    root = tmp_path_factory.mktemp("drift")
    config = TrainConfig(dataset="digits", hidden_sizes=(64,), epochs=8, test_fraction=0.4)
    return train(config, Home(root, root))


def detect(reference: DriftSample, window: DriftSample, **overrides: float) -> DriftReport:
    """Detect drift with the default limits of the monitor, or with `overrides`."""
    limits = {"significance": 0.0001, "min_effect_size": 0.1, "min_images": WINDOW} | overrides
    return detect_drift(reference, window, DIGITS, **limits)


def split_indices(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random indices of the reference and of the smallest window."""
    order = np.random.default_rng(seed).permutation(count)
    return order[WINDOW:], order[:WINDOW]


def drifted_names(report: DriftReport) -> set[str]:
    return {test.name for test in report.drifted_tests}


def random_sample(count: int, seed: int = 0, classes: int = 10) -> DriftSample:
    """Return random statistics, and confident predictions with equally frequent classes."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, classes)) * 4
    powers = np.exp(logits)
    return DriftSample(generator.random((count, len(STATISTICS))), powers / powers.sum(1, keepdims=True))


def darken(images: np.ndarray) -> np.ndarray:
    return (images * 0.7).astype(np.uint8)


def mirror(images: np.ndarray) -> np.ndarray:
    return images[..., ::-1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda images: shift_rotate_scale(images, rotation=25), {"vertical_gradient_rms", CONFIDENCE}),
        (CORRUPTIONS["mnist"]["noisy"], {"brightness", "vertical_gradient_rms"}),
        (CORRUPTIONS["mnist"]["thinner"], {"brightness", "foreground_fraction", CONFIDENCE}),
        (CORRUPTIONS["mnist"]["inverted"], {"brightness", "foreground_fraction", CONFIDENCE, LABELS}),
        (darken, {"brightness", "contrast"}),
        (mirror, {CONFIDENCE}),
    ],
    ids=["rotated", "noisy", "thinner", "inverted", "darker", "mirrored"],
)
def test_changed_images_are_detected_in_the_smallest_window(
    change: Callable[[np.ndarray], np.ndarray], expected: set[str], digits: TrainedClassifier
):
    """200 images are enough, and the tests that the change should affect report drift."""
    reference_indices, window_indices = split_indices(len(digits.images))
    reference = digits.sample(digits.images[reference_indices])

    drift = detect(reference, digits.sample(change(digits.images[window_indices])))

    assert expected <= drifted_names(drift)
    assert {} == drift.insufficient_data
    assert all(test.p_value < 0.0001 and test.effect_size >= 0.1 for test in drift.drifted_tests)
    assert drifted_names(drift) == {test.name for test in drift.tests if test.has_drifted}


def test_label_shift_is_detected(digits: TrainedClassifier):
    """A window without odd digits makes the test of the labels report drift."""
    reference, window = split_indices(len(digits.images))
    sample = digits.sample(digits.images)
    is_odd = sample.probabilities.argmax(1) % 2 == 1
    even = np.concatenate([window[~is_odd[window]], reference[~is_odd[reference]]])[:WINDOW]
    report = detect(
        digits.sample(digits.images[reference]),
        DriftSample(sample.statistics[even], sample.probabilities[even]),
    )

    (labels,) = [test for test in report.tests if test.name == LABELS]

    assert labels.has_drifted
    assert labels.effect_size == pytest.approx(0.5, abs=0.1)
    assert 0 == labels.window or labels.reference < labels.window
    assert f"are {labels.label!r} in the reference" in labels.summary


def test_false_alarms_are_rare(digits: TrainedClassifier):
    """At most 10 of 200 windows from the distribution of the reference give a false alarm."""
    sample = digits.sample(digits.images)

    def subset(indices: np.ndarray) -> DriftSample:
        return DriftSample(sample.statistics[indices], sample.probabilities[indices])

    splits = (split_indices(len(digits.images), seed) for seed in range(200))
    alarms = sum(
        bool(detect(subset(reference), subset(window)).drifted_tests) for reference, window in splits
    )
    assert alarms <= 10


@pytest.mark.slow
def test_other_digits_drift_from_mnist_and_mnist_does_not(real_data: Path, tmp_path: Path):
    """At most 20 of 400 windows of 200 to 2,000 MNIST images give a false alarm; 200 digits of other
    writers are drift."""
    mnist = train(TrainConfig.from_preset("fast", dataset="mnist"), Home(tmp_path, real_data))
    sample, alarms = mnist.sample(mnist.images), 0
    for seed in range(400):
        order = np.random.default_rng(seed).permutation(len(mnist.images))
        size = (200, 500, 1_000, 2_000)[seed % 4]
        reference, window = (
            DriftSample(sample.statistics[indices], sample.probabilities[indices])
            for indices in (order[size:], order[:size])
        )
        alarms += bool(detect(reference, window).drifted_tests)
    assert alarms <= 20
    digits = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, real_data)).train.images[:WINDOW]
    assert {"vertical_gradient_rms", CONFIDENCE} <= drifted_names(detect(sample, mnist.sample(digits)))


def test_too_few_images_are_not_tested():
    """No test is run, and the report has the image count of each skipped test."""
    drift = detect(random_sample(500), random_sample(WINDOW - 1, 1))

    assert ((), ()) == (drift.tests, drift.drifted_tests)
    assert dict.fromkeys(ALL_TESTS, WINDOW - 1) == drift.insufficient_data


def test_an_empty_window_is_not_tested():
    """A window without predictions has no drift."""
    empty = DriftSample(np.empty((0, len(STATISTICS))), np.empty((0, 10)))
    assert dict.fromkeys(ALL_TESTS, 0) == detect(random_sample(500), empty).insufficient_data


def test_an_empty_reference_is_not_tested():
    """Without reference images no test is run."""
    empty = DriftSample(np.empty((0, len(STATISTICS))), np.empty((0, 10)))
    assert set(ALL_TESTS) == set(detect(empty, random_sample(500)).insufficient_data)


def test_unknown_values_are_ignored():
    """A missing statistic is not tested; images of other versions count for the statistics only."""
    reference, window = random_sample(1_000), random_sample(600, 1)
    window.statistics[:, 2] = np.nan
    window.probabilities[100:] = np.nan

    drift = detect(reference, window)

    assert {"foreground_fraction": 0, CONFIDENCE: 100, LABELS: 100} == drift.insufficient_data
    assert {600} == {test.images for test in drift.tests}
    assert not drift.drifted_tests


def test_infinite_values_are_ignored():
    """Infinite values are ignored like NaN."""
    window = random_sample(600, 1)
    window.statistics[:300, 0] = np.inf
    tests = detect(random_sample(1_000), window).tests
    (brightness,) = [test for test in tests if test.name == "brightness"]
    assert (300, True) == (brightness.images, np.isfinite(brightness.window))


@pytest.mark.parametrize("classes", [1, 2, 500])
def test_any_number_of_classes_is_tested(classes: int):
    """A single class always has the fraction 1; with many classes, each has few images."""
    class_names = [f"class {number}" for number in range(classes)]
    drift = detect_drift(
        random_sample(1_000, 0, classes),
        random_sample(300, 1, classes),
        class_names,
        significance=0.0001,
        min_effect_size=0.1,
        min_images=WINDOW,
    )
    assert set(ALL_TESTS) == {test.name for test in drift.tests}
    assert not drift.drifted_tests


def test_identical_predictions_are_drift():
    """Every test reports drift if a client repeats one image, or the classifier is broken."""
    sample = random_sample(300, 1)
    window = DriftSample(
        np.tile(sample.statistics[:1], (300, 1)), np.tile(sample.probabilities[:1], (300, 1))
    )
    assert set(ALL_TESTS) == drifted_names(detect(random_sample(1_000), window))


def test_a_significant_but_small_change_is_no_drift():
    """A change of 2 % of the range is significant with 100,000 images, but no drift."""
    reference, window = random_sample(10_000), random_sample(100_000, 1)
    window.statistics[:, 0] += 0.02

    drift = detect(reference, window)

    assert drift.tests[0].p_value < 1e-4
    assert not drift.tests[0].has_drifted
    assert {"brightness"} == drifted_names(detect(reference, window, min_effect_size=0.01))


def test_a_large_but_insignificant_change_is_no_drift():
    """With few images, a large effect can be chance."""
    drift = detect(random_sample(100), random_sample(30, 1), min_images=20, min_effect_size=0.05)
    assert max(test.effect_size for test in drift.tests) >= 0.05
    assert not drift.drifted_tests


def test_the_effect_size_is_the_fraction_of_changed_images():
    """If a fifth of the images get new values, the effect size of every test is a fifth."""
    reference, window = random_sample(50_000), random_sample(50_000, 1)
    window.statistics[:10_000] = 2
    window.probabilities[:10_000] = np.eye(10)[0]

    effect_sizes = {test.name: test.effect_size for test in detect(reference, window).tests}

    assert {name: pytest.approx(0.2, abs=0.02) for name in (*STATISTICS, CONFIDENCE)} == {
        name: effect_sizes[name] for name in (*STATISTICS, CONFIDENCE)
    }
    assert effect_sizes[LABELS] == pytest.approx(0.2 * 0.9, abs=0.02)


@pytest.mark.parametrize(("reference_images", "window_images"), [(60, 200), (1_000, 1_500)])
def test_detectable_changes_are_detected(reference_images: int, window_images: int):
    """A change of that size is found in 32 to 40 of 40 simulated windows, one of half that size in at most 8.

    The changes are the least visible ones: values move across the median, and all classes become rarer or
    more frequent by the same factor.
    """
    effects = {
        test.name: min(test.detectable_effect, 0.5)
        for test in detect(random_sample(reference_images), random_sample(window_images, 1)).tests
    }
    found = {(name, factor): 0 for name in ("brightness", LABELS) for factor in (0.5, 1.0)}
    for seed, factor in product(range(40), (0.5, 1.0)):
        generator, window = np.random.default_rng(seed), random_sample(window_images, 1_000 + seed)
        brightness = window.statistics[:, 0]
        moves = generator.random(window_images) < 2 * factor * effects["brightness"]
        brightness += 0.5 * (moves & (brightness < 0.5))
        is_odd = generator.random(window_images) > 0.5 + factor * effects[LABELS]
        window.probabilities[:] = np.eye(10)[2 * generator.integers(0, 5, window_images) + is_odd]
        names = drifted_names(detect(random_sample(reference_images, 2_000 + seed), window))
        for name in {"brightness", LABELS} & names:
            found[name, factor] += 1

    assert all(count >= 32 if factor == 1 else count <= 8 for (_, factor), count in found.items()), found


def test_a_small_reference_cannot_show_that_there_is_no_drift():
    """40 reference images may hide a change of half of the images, 100 do not; a report says so."""
    small, sufficient = (detect(random_sample(count), random_sample(WINDOW, 1)) for count in (40, 100))

    assert (False, True) == (small.can_see_large_drift, sufficient.can_see_large_drift)
    assert 1 > small.detectable_effect > 0.5 > sufficient.detectable_effect > 0.1


def test_a_rare_class_hides_no_drift():
    """Labels of which nearly all are one class have a power, too."""
    reference, window = random_sample(1_000, 0, 2), random_sample(WINDOW, 1, 2)
    for sample in (reference, window):
        sample.probabilities[:] = np.eye(2)[np.arange(len(sample.probabilities)) % 100 // 99]
    assert detect(reference, window).can_see_large_drift


def test_classes_are_tested_by_chi_squared():
    """The p-value is the one of the textbook formula."""
    counts = np.array([[100, 200, 300], [150, 210, 240]])
    expected = counts.sum(0) / 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, 2) == pytest.approx(chi_squared_p_value(counts))


def test_rare_classes_are_merged():
    """Classes with fewer than five expected images in the smaller row are merged, empty ones too."""
    counts = np.array([[500, 300, 8, 0, 6, 7, 2], [100, 60, 1, 0, 2, 3, 1]])
    merged = np.array([[500, 300, 23], [100, 60, 7]])
    assert merged.tolist() == merge_rare_classes(counts).tolist()


def test_rare_classes_that_become_frequent_are_detected():
    """The change is significant even though rare classes are merged."""
    counts = np.array([[500, 300, *[2] * 20], [100, 60, 40, *[0] * 19]])
    assert chi_squared_p_value(merge_rare_classes(counts)) < 1e-6


def test_p_values_are_formatted():
    """Values below 1e-4 are formatted as a bound."""
    assert ("p = 0.031", "p < 0.0001", "p = 1") == (
        format_p_value(0.0312),
        format_p_value(0.0),
        format_p_value(1.0),
    )
