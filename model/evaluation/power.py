"""Power of McNemar's test: which gains of accuracy a number of images can show."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.evaluation.significance import binomial_test, holm_correction

if TYPE_CHECKING:
    from relearn.model.evaluation.metrics import Evaluation

POWER = 0.8  # a gain counts as visible if the test finds it in 8 of 10 cases
GAIN_STEPS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # gains that people speak of
MAX_NAMED_CLASSES, SIGNIFICANCE = 3, 0.05
_BISECTIONS = 12  # gains precise to 0.03 points
_TAIL = 7  # standard deviations of the number of discordant images


def compute_power(images: int, discordant: float, gain: float, level: float) -> float:
    """Return the probability that a candidate that is better by `gain` (0..1) is found to be.

    `discordant` (0..1) is the fraction of images that exactly one of the two predicts correctly, `level` that
    of the exact one-sided test. The number of such images is binomial, and so are the candidate's among them.
    """
    from scipy import special

    discordant = min(1.0, max(discordant, gain))
    if discordant == 0:
        return 0.0
    mean, spread = images * discordant, np.sqrt(images * discordant * (1 - discordant))
    counts = np.arange(max(0, int(mean - _TAIL * spread)), min(images, int(mean + _TAIL * spread) + 1) + 1)
    counts = counts[counts > 0]  # no discordant image, no gain
    probabilities = special.bdtr(counts, images, discordant) - special.bdtr(counts - 1, images, discordant)
    power = special.bdtrc(find_critical_wins(counts, level) - 1, counts, (1 + gain / discordant) / 2)
    return float(probabilities @ power)


def find_critical_wins(counts: np.ndarray, level: float) -> np.ndarray:
    """Return how many of `counts` fair tosses, int (k,), must be won for a p-value of at most `level`.

    It is `counts` + 1 where even all are not enough. The normal approximation is corrected until it is exact:
    50 times faster than the inverse of the binomial distribution.
    """
    from scipy import special

    guess = counts / 2 + special.ndtri(1 - level) * np.sqrt(counts) / 2
    wins: np.ndarray = np.clip(guess.astype(int), 1, counts + 1)
    while (too_few := special.bdtrc(wins - 1, counts, 0.5) > level).any():
        wins += too_few
    while (too_many := special.bdtrc(wins - 2, counts, 0.5) <= level).any():
        wins -= too_many
    return wins


@cache  # a search of 3 to 100 ms; night after night the same few numbers are asked for
def find_visible_gain(images: int, discordant: float, level: float) -> float:
    """Return the smallest gain that `images` show with the probability `POWER`; 1 if they show none."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if compute_power(images, discordant, middle, level) >= POWER else (middle, high)
        )
    return high


@cache
def count_images_needed(gain: float, discordant: float, level: float, at_least: int) -> int:
    """Return how many images, `at_least` or more, show `gain` with the probability `POWER`, to 1 %."""
    low = high = max(1, at_least)
    while compute_power(high, discordant, gain, level) < POWER:
        low, high = high, 2 * high
    while high - low > high // 100 + 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if compute_power(middle, discordant, gain, level) >= POWER else (middle, high)
        )
    return high


def find_visible_difference(comparison: PairedComparison, level: float) -> float:
    """Return the smallest difference that the images of `comparison` show with the probability `POWER`.

    For accuracy it is exact, for the other metrics it follows from the width of the interval.
    """
    if comparison.metric == "accuracy":
        return find_visible_gain(comparison.effective_images, comparison.discordant_fraction, level)
    from scipy import special

    return float(comparison.standard_error * (special.ndtri(1 - level) + special.ndtri(POWER)))


def describe_power(comparison: PairedComparison, level: float) -> str:
    """Describe in a sentence which difference the images show, and how many more would show a smaller one."""
    visible = find_visible_difference(comparison, level)
    images = f"{comparison.images:,} images"
    if comparison.metric != "accuracy":
        difference = comparison.format_difference(visible)
        return f"{images}: gains under {difference} cannot be told from chance (power {POWER:.0%})"
    if visible >= 1:
        text, smaller = f"{images} show no gain", GAIN_STEPS[0]
    else:
        gain = _format_points(visible)
        text = f"{images}: gains under {gain} cannot be told from chance (power {POWER:.0%})"
        smaller = next((step for step in GAIN_STEPS if step <= 0.7 * visible), 0.0)
    if not smaller:
        return text
    present = comparison.effective_images
    needed = count_images_needed(smaller, comparison.discordant_fraction, level, present)
    more = round((needed - present) * comparison.design_effect)
    return f"{text}; {more:,} more labeled ones bring it to {_format_points(smaller)}"


def describe_disputed_classes(candidate: "Evaluation", champion: "Evaluation") -> str:
    """Name the classes whose images would show most: those on which the two differ most often.

    Only images that exactly one of the two predicts correctly decide. A class is named if it has more of them
    than chance explains (binomial test, Holm).
    """
    is_disputed = candidate.correct != champion.correct
    if not is_disputed.any():
        return "the two differ on no image"
    labels, overall = candidate.labels, float(is_disputed.mean())
    images = np.bincount(labels, minlength=len(candidate.classes)).tolist()
    disputed = np.bincount(labels[is_disputed], minlength=len(candidate.classes)).tolist()
    p_values = [binomial_test(*counts, overall) for counts in zip(disputed, images, strict=True)]
    corrected = holm_correction(p_values)
    names = [
        f"{candidate.classes[label]} ({disputed[label]:,} of {images[label]:,})"
        for label in np.argsort(corrected, kind="stable")[:MAX_NAMED_CLASSES]
        if corrected[label] <= SIGNIFICANCE
    ]
    if not names:
        return "the two differ on all classes alike: images of any class help"
    return f"the two differ most on {' and '.join(names)}: such images help most"


def _format_points(gain: float) -> str:
    points = f"{100 * gain:.2g}" if gain < 0.1 else f"{100 * gain:.0f}"
    return f"{points} point" if points == "1" else f"{points} points"
