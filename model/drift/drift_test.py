"""Whether what is asked now is still like the reference: statistics of a window of answers.

What comes in is watched by the traits of the images, what goes out by the confidence (the greatest
probability of an image) and by the shares of the predicted classes. The rest of the softmax has no measure
of its own: with the greatest probability and its class it has told nearly all. Images count as independent
of each other: whoever sends the same one a thousand times is drift.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.drift.image_statistics import STATISTICS

CONFIDENCE, LABELS = "confidence", "labels"
MIN_EXPECTED_COUNT = (
    5  # images expected of a class, with less of which chi-squared is off (Cochran, Biometrics 10, 1954)
)


@dataclass(frozen=True, eq=False)
class DriftSample:
    """Images: their statistics (n, 6) as `image_statistics` computes them, `probabilities` (n, classes).

    NaN is what is not known, such as the probabilities of images that another version has answered.
    """

    statistics: np.ndarray
    probabilities: np.ndarray

    def values(self, name: str) -> np.ndarray:
        """A trait, or the confidence, of each image, (n,)."""
        if name == CONFIDENCE:
            max_probabilities: np.ndarray = self.probabilities.max(1)
            return max_probabilities
        return self.statistics[:, STATISTICS.index(name)]

    def predicted_labels(self) -> np.ndarray:
        """The predicted classes, as numbers, of those images whose probabilities are known."""
        known_probabilities = self.probabilities[np.isfinite(self.probabilities).all(1)]
        labels: np.ndarray = known_probabilities.argmax(1)
        return labels


class DriftTest(BaseModel):
    """One thing that was compared, on `images` of the window.

    `distance` (0..1) is the least share of the images that would have to be others: of a number the greatest
    distance of the two distribution functions (Kolmogorov–Smirnov), of the labels the total variation of
    their shares. `p_value` (0..1) is how likely images of the same kind lie so far apart, corrected for how
    many measures there are. `before` and `now` are the means of reference and window, of the labels the
    shares of `label`, which is the class whose share has changed most. `words` says it in a line.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    images: int
    effect_size: float
    p_value: float
    has_drifted: bool
    reference: float
    window: float
    summary: str
    label: str = ""


class DriftReport(BaseModel):
    """What a window tells: each measure tested, and of each that was not, how many images it had."""

    model_config = ConfigDict(frozen=True)

    tests: tuple[DriftTest, ...]
    insufficient_data: dict[str, int]

    @property
    def drifted_tests(self) -> tuple[DriftTest, ...]:
        """Those that have drifted, the farthest first."""
        return tuple(
            sorted((test for test in self.tests if test.has_drifted), key=lambda one: -one.effect_size)
        )


def detect_drift(
    reference: DriftSample,
    window: DriftSample,
    classes: Sequence[str],
    *,
    significance: float,
    min_effect_size: float,
    min_images: int,
) -> DriftReport:
    """Test every measure: drift is beyond chance, and at least `min_effect_size` away.

    Of many images everything is beyond chance, of few much is far away: it takes both. A measure with less
    than `least_images` in the window is not tested. Values that are not finite are left out.
    """
    tests, insufficient_data = [], {}
    for name, reference_values, window_values in _iterate_values(reference, window):
        if len(window_values) < min_images or not len(reference_values):
            insufficient_data[name] = len(window_values)
        elif name == LABELS:
            tests.append(_run_chi_squared_test(reference_values, window_values, classes))
        else:
            tests.append(_run_ks_test(name, reference_values, window_values))
    corrected_p_values = holm([test.p_value for test in tests])
    corrected_tests = [
        test.model_copy(
            update={
                "p_value": p_value,
                "has_drifted": p_value < significance and test.effect_size >= min_effect_size,
                "summary": f"{test.summary} (distance {test.effect_size:.2f}, {format_p_value(p_value)})",
            }
        )
        for test, p_value in zip(tests, corrected_p_values, strict=True)
    ]
    return DriftReport(tests=tuple(corrected_tests), insufficient_data=insufficient_data)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in the same order. Holm, Scand. J. Statist. 6 (1979).

    However they depend on each other, that any of them falls below a level by chance is no likelier than the
    level says.
    """
    values = np.array(p_values, float)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return [float(value) for value in corrected]


def format_p_value(p_value: float) -> str:
    """In words; of the smallest it matters only that they are."""
    return f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def _iterate_values(
    reference: DriftSample, window: DriftSample
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, what is known of it in the reference, and in the window."""
    for name in (*STATISTICS, CONFIDENCE):
        reference_values, window_values = (sample.values(name) for sample in (reference, window))
        yield name, reference_values[np.isfinite(reference_values)], window_values[np.isfinite(window_values)]
    yield LABELS, reference.predicted_labels(), window.predicted_labels()


def _run_ks_test(name: str, reference_values: np.ndarray, window_values: np.ndarray) -> DriftTest:
    from scipy import stats

    # Exact ones differ in the third digit, of 200 images beside 10,000 too, and take 300 times as long.
    test = stats.ks_2samp(reference_values, window_values, method="asymp")
    means = [float(values.mean(dtype=float)) for values in (reference_values, window_values)]
    formatted_means = [f"{100 * mean:.1f} %" if name == CONFIDENCE else f"{mean:.3f}" for mean in means]
    return DriftTest(
        name=name,
        images=len(window_values),
        effect_size=float(test.statistic),
        p_value=float(test.pvalue),
        has_drifted=False,
        reference=means[0],
        window=means[1],
        summary=f"{name}: {formatted_means[0]} on average, now {formatted_means[1]}",
    )


def _run_chi_squared_test(
    reference_labels: np.ndarray, window_labels: np.ndarray, classes: Sequence[str]
) -> DriftTest:
    counts = np.stack(
        [np.bincount(labels, minlength=len(classes)) for labels in (reference_labels, window_labels)]
    )
    fractions = counts / counts.sum(1, keepdims=True)
    changes = np.abs(fractions[1] - fractions[0])
    changed_class = int(changes.argmax())
    class_fractions = [float(value) for value in fractions[:, changed_class]]
    return DriftTest(
        name=LABELS,
        images=len(window_labels),
        effect_size=float(changes.sum() / 2),
        p_value=chi_squared_p_value(counts),
        has_drifted=False,
        reference=class_fractions[0],
        window=class_fractions[1],
        summary=(
            f"{LABELS}: {100 * class_fractions[0]:.1f} % are {classes[changed_class]!r} as a rule, now"
            f" {100 * class_fractions[1]:.1f} %"
        ),
        label=classes[changed_class],
    )


def chi_squared_p_value(counts: np.ndarray) -> float:
    """p-value of Pearson's test that two rows of counts, int (2, classes), have the same shares.

    Classes of which few images are expected are taken together, the most frequent first, until they are
    enough: what changes among them alone is not seen.
    """
    from scipy import stats

    enough = MIN_EXPECTED_COUNT * counts.sum() / counts.sum(1).min()
    groups: list[np.ndarray] = []
    for column in counts.T[np.argsort(-counts.sum(0), kind="stable")]:
        if groups and groups[-1].sum() < enough:
            groups[-1] = groups[-1] + column
        else:
            groups.append(column)
    if len(groups) > 1 and groups[-1].sum() < enough:
        last = groups.pop()
        groups[-1] = groups[-1] + last
    return float(stats.chi2_contingency(np.stack(groups, 1), correction=False).pvalue)
