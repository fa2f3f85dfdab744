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

from relearn.model.traits import TRAITS

CONFIDENCE, LABELS = "confidence", "labels"
FEW = 5  # images expected of a class, with less of which chi-squared is off (Cochran, Biometrics 10, 1954)


@dataclass(frozen=True, eq=False)
class Sample:
    """Images: their `traits` (n, 6) as `relearn.model.traits` measures them, `probabilities` (n, classes).

    NaN is what is not known, such as the probabilities of images that another version has answered.
    """

    traits: np.ndarray
    probabilities: np.ndarray

    def number(self, name: str) -> np.ndarray:
        """A trait, or the confidence, of each image, (n,)."""
        if name == CONFIDENCE:
            greatest: np.ndarray = self.probabilities.max(1)
            return greatest
        return self.traits[:, TRAITS.index(name)]

    def labels(self) -> np.ndarray:
        """The predicted classes, as numbers, of those images whose probabilities are known."""
        known = self.probabilities[np.isfinite(self.probabilities).all(1)]
        labels: np.ndarray = known.argmax(1)
        return labels


class Measure(BaseModel):
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
    distance: float
    p_value: float
    drifted: bool
    before: float
    now: float
    words: str
    label: str = ""


class Drift(BaseModel):
    """What a window tells: each measure tested, and of each that was not, how many images it had."""

    model_config = ConfigDict(frozen=True)

    measures: tuple[Measure, ...]
    too_few: dict[str, int]

    @property
    def drifted(self) -> tuple[Measure, ...]:
        """Those that have drifted, the farthest first."""
        return tuple(sorted((one for one in self.measures if one.drifted), key=lambda one: -one.distance))


def compare(
    reference: Sample,
    window: Sample,
    classes: Sequence[str],
    *,
    significance: float,
    least_distance: float,
    least_images: int,
) -> Drift:
    """Test every measure: drift is beyond chance, and at least `least_distance` away.

    Of many images everything is beyond chance, of few much is far away: it takes both. A measure with less
    than `least_images` in the window is not tested. Values that are not finite are left out.
    """
    tested, too_few = [], {}
    for name, before, now in _measured(reference, window):
        if len(now) < least_images or not len(before):
            too_few[name] = len(now)
        elif name == LABELS:
            tested.append(_labels(before, now, classes))
        else:
            tested.append(_number(name, before, now))
    corrected = holm([one.p_value for one in tested])
    measures = [
        one.model_copy(
            update={
                "p_value": p_value,
                "drifted": p_value < significance and one.distance >= least_distance,
                "words": f"{one.words} (distance {one.distance:.2f}, {told(p_value)})",
            }
        )
        for one, p_value in zip(tested, corrected, strict=True)
    ]
    return Drift(measures=tuple(measures), too_few=too_few)


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


def told(p_value: float) -> str:
    """In words; of the smallest it matters only that they are."""
    return f"p = {p_value:.2g}" if p_value >= 1e-4 else "p < 0.0001"


def _measured(reference: Sample, window: Sample) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, what is known of it in the reference, and in the window."""
    for name in (*TRAITS, CONFIDENCE):
        before, now = (one.number(name) for one in (reference, window))
        yield name, before[np.isfinite(before)], now[np.isfinite(now)]
    yield LABELS, reference.labels(), window.labels()


def _number(name: str, before: np.ndarray, now: np.ndarray) -> Measure:
    from scipy import stats

    # Exact ones differ in the third digit, of 200 images beside 10,000 too, and take 300 times as long.
    test = stats.ks_2samp(before, now, method="asymp")
    means = [float(values.mean(dtype=float)) for values in (before, now)]
    shown = [f"{100 * mean:.1f} %" if name == CONFIDENCE else f"{mean:.3f}" for mean in means]
    return Measure(
        name=name,
        images=len(now),
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        drifted=False,
        before=means[0],
        now=means[1],
        words=f"{name}: {shown[0]} on average, now {shown[1]}",
    )


def _labels(before: np.ndarray, now: np.ndarray, classes: Sequence[str]) -> Measure:
    counts = np.stack([np.bincount(labels, minlength=len(classes)) for labels in (before, now)])
    shares = counts / counts.sum(1, keepdims=True)
    change = np.abs(shares[1] - shares[0])
    most = int(change.argmax())
    share = [float(value) for value in shares[:, most]]
    return Measure(
        name=LABELS,
        images=len(now),
        distance=float(change.sum() / 2),
        p_value=chi_squared(counts),
        drifted=False,
        before=share[0],
        now=share[1],
        words=f"{LABELS}: {100 * share[0]:.1f} % are {classes[most]!r} as a rule, now {100 * share[1]:.1f} %",
        label=classes[most],
    )


def chi_squared(counts: np.ndarray) -> float:
    """p-value of Pearson's test that two rows of counts, int (2, classes), have the same shares.

    Classes of which few images are expected are taken together, the most frequent first, until they are
    enough: what changes among them alone is not seen.
    """
    from scipy import stats

    enough = FEW * counts.sum() / counts.sum(1).min()
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
