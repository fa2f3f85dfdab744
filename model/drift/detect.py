"""Statistical tests for drift between a reference and a window of predictions.

Input drift is tested on the image statistics; output drift on the confidence (largest probability of an
image) and on the fractions of the predicted classes. The other probabilities add little information and are
not tested. Images are assumed to be independent: a client that sends one image a thousand times is drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.drift.image_statistics import STATISTICS
from relearn.model.drift.power import LARGE_EFFECT, Limits
from relearn.model.evaluation.significance import holm_correction

CONFIDENCE, LABELS = "confidence", "labels"
# Images expected per class; with fewer, chi-squared is inaccurate (Cochran, Biometrics 10, 1954).
MIN_EXPECTED_COUNT = 5


@dataclass(frozen=True, eq=False)
class DriftSample:
    """Image statistics (n, 6), see `image_statistics`, and probabilities (n, classes) of n images.

    Unknown values are NaN, such as the probabilities of images predicted by another version.
    """

    statistics: np.ndarray
    probabilities: np.ndarray

    def values(self, name: str) -> np.ndarray:
        """Return the values (n,) of the statistic `name`, or the confidences."""
        if name == CONFIDENCE:
            max_probabilities: np.ndarray = self.probabilities.max(1)
            return max_probabilities
        return self.statistics[:, STATISTICS.index(name)]

    def predicted_labels(self) -> np.ndarray:
        """Return the predicted classes, as indices, of the images whose probabilities are known."""
        known_probabilities = self.probabilities[np.isfinite(self.probabilities).all(1)]
        labels: np.ndarray = known_probabilities.argmax(1)
        return labels


class DriftTest(BaseModel):
    """Result of one test.

    name                 an image statistic, `confidence` or `labels`
    images               tested images of the window
    effect_size          0..1, the smallest fraction of the images that would have to be replaced: the
                         Kolmogorov–Smirnov statistic, or the total variation distance for `labels`
    p_value              0..1, Holm-corrected for the number of tests
    detectable_effect    0..1, the smallest effect size that is found with a probability of `POWER`, given the
                         numbers of images
    reference, window    means; for `labels` the fractions of `label`
    summary              one line
    label                for `labels`, the class whose fraction changed most
    """

    model_config = ConfigDict(frozen=True)

    name: str
    images: int
    effect_size: float
    detectable_effect: float
    p_value: float
    has_drifted: bool
    reference: float
    window: float
    summary: str
    label: str = ""


class DriftReport(BaseModel):
    """Results of all tests; `insufficient_data` maps each skipped test to the number of its window images."""

    model_config = ConfigDict(frozen=True)

    tests: tuple[DriftTest, ...]
    insufficient_data: dict[str, int]

    @property
    def drifted_tests(self) -> tuple[DriftTest, ...]:
        """Tests that found drift, largest effect first."""
        return tuple(
            sorted((test for test in self.tests if test.has_drifted), key=lambda test: -test.effect_size)
        )

    @property
    def detectable_effect(self) -> float:
        """Smallest effect size that every test that was run finds with a probability of `POWER`."""
        return max((test.detectable_effect for test in self.tests), default=1.0)

    @property
    def can_see_large_drift(self) -> bool:
        """True if every test finds an effect size of `LARGE_EFFECT` with a probability of `POWER`."""
        return self.detectable_effect <= LARGE_EFFECT


def detect_drift(
    reference: DriftSample,
    window: DriftSample,
    classes: Sequence[str],
    *,
    significance: float,
    min_effect_size: float,
    min_images: int,
) -> DriftReport:
    """Run all tests. Drift means p < `significance` and an effect size of at least `min_effect_size`.

    Both are needed: with many images any difference is significant, with few a large effect is often chance.
    A test with fewer than `min_images` in the window is skipped. Values that are not finite are ignored.
    """
    samples = _finite_values(reference, window)
    insufficient_data = {
        name: len(window_values)
        for name, (reference_values, window_values) in samples.items()
        if len(window_values) < min_images or not len(reference_values)
    }
    tested = {name: pair for name, pair in samples.items() if name not in insufficient_data}
    # A test that alone finds drift has the smallest p-value, which Holm multiplies by the number of tests.
    limits = Limits(significance / max(len(tested), 1), min_effect_size)
    tests = [
        _run_chi_squared_test(*pair, classes, limits) if name == LABELS else _run_ks_test(name, *pair, limits)
        for name, pair in tested.items()
    ]
    corrected_p_values = holm_correction([test.p_value for test in tests])
    corrected_tests = [
        test.model_copy(
            update={
                "p_value": p_value,
                "has_drifted": p_value < significance and test.effect_size >= min_effect_size,
                "summary": f"{test.summary} (effect size {test.effect_size:.2f}, {format_p_value(p_value)})",
            }
        )
        for test, p_value in zip(tests, corrected_p_values, strict=True)
    ]
    return DriftReport(tests=tuple(corrected_tests), insufficient_data=insufficient_data)


def format_p_value(p_value: float) -> str:
    """Format a p-value; values below 1e-4 as "p < 0.0001"."""
    return f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def _finite_values(reference: DriftSample, window: DriftSample) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the finite values of reference and window for each test."""
    samples = {}
    for name in (*STATISTICS, CONFIDENCE):
        reference_values, window_values = (sample.values(name) for sample in (reference, window))
        samples[name] = (
            reference_values[np.isfinite(reference_values)],
            window_values[np.isfinite(window_values)],
        )
    return samples | {LABELS: (reference.predicted_labels(), window.predicted_labels())}


def _run_ks_test(
    name: str, reference_values: np.ndarray, window_values: np.ndarray, limits: Limits
) -> DriftTest:
    from scipy import stats

    # Exact p-values differ in the third digit, also for 200 against 10,000 images, and take 300 times longer.
    test = stats.ks_2samp(reference_values, window_values, method="asymp")
    means = [float(values.mean(dtype=float)) for values in (reference_values, window_values)]
    formatted_means = [f"{100 * mean:.1f} %" if name == CONFIDENCE else f"{mean:.3f}" for mean in means]
    return DriftTest(
        name=name,
        images=len(window_values),
        effect_size=float(test.statistic),
        detectable_effect=limits.detectable_ks_effect(len(reference_values), len(window_values)),
        p_value=float(test.pvalue),
        has_drifted=False,
        reference=means[0],
        window=means[1],
        summary=f"{name}: mean {formatted_means[0]} in the reference, {formatted_means[1]} in the window",
    )


def _run_chi_squared_test(
    reference_labels: np.ndarray, window_labels: np.ndarray, classes: Sequence[str], limits: Limits
) -> DriftTest:
    counts = np.stack(
        [np.bincount(labels, minlength=len(classes)) for labels in (reference_labels, window_labels)]
    )
    fractions = counts / counts.sum(1, keepdims=True)
    changes = np.abs(fractions[1] - fractions[0])
    changed_class = int(changes.argmax())
    class_fractions = [float(value) for value in fractions[:, changed_class]]
    groups = merge_rare_classes(counts)
    return DriftTest(
        name=LABELS,
        images=len(window_labels),
        effect_size=float(changes.sum() / 2),
        detectable_effect=limits.detectable_chi_squared_effect(groups),
        p_value=chi_squared_p_value(groups),
        has_drifted=False,
        reference=class_fractions[0],
        window=class_fractions[1],
        summary=(
            f"{LABELS}: {100 * class_fractions[0]:.1f} % are {classes[changed_class]!r} in the reference, "
            f"{100 * class_fractions[1]:.1f} % in the window"
        ),
        label=classes[changed_class],
    )


def chi_squared_p_value(counts: np.ndarray) -> float:
    """Return the p-value of Pearson's homogeneity test of two rows of counts, int (2, classes)."""
    from scipy import stats

    return float(stats.chi2_contingency(counts, correction=False).pvalue)


def merge_rare_classes(counts: np.ndarray) -> np.ndarray:
    """Merge columns of two rows of counts, int (2, classes), until `MIN_EXPECTED_COUNT` images are expected.

    The count is that expected in the smaller row. Rare classes are merged, most frequent first. Changes among
    merged classes are not detected.
    """
    min_count = MIN_EXPECTED_COUNT * counts.sum() / counts.sum(1).min()
    groups: list[np.ndarray] = []
    for column in counts.T[np.argsort(-counts.sum(0), kind="stable")]:
        if groups and groups[-1].sum() < min_count:
            groups[-1] = groups[-1] + column
        else:
            groups.append(column)
    if len(groups) > 1 and groups[-1].sum() < min_count:
        last = groups.pop()
        groups[-1] = groups[-1] + last
    return np.stack(groups, 1)
