"""Power of McNemar's test: which gains of accuracy a number of images can show."""

import numpy as np

from relearn.model.evaluation.intervals import CONFIDENCE_LEVEL
from relearn.model.evaluation.paired_comparison import PairedComparison

POWER = 0.8  # a gain counts as visible if the test finds it in 8 of 10 cases
GAIN_STEPS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # gains that people speak of
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
    # The smallest number of wins that is significant; above `counts` where none is.
    wins = np.ceil(special.bdtrik(1 - level, counts, 0.5)) + 1
    power = special.bdtrc(np.minimum(wins - 1, counts), counts, (1 + gain / discordant) / 2)
    return float(probabilities @ np.where(wins > counts, 0, power))


def find_visible_gain(images: int, discordant: float, level: float) -> float:
    """Return the smallest gain that `images` show with the probability `POWER`; 1 if they show none."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if compute_power(images, discordant, middle, level) >= POWER else (middle, high)
        )
    return high


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
        return find_visible_gain(comparison.images, comparison.discordant_fraction, level)
    from scipy import special

    standard_error = (comparison.ci_high - comparison.ci_low) / 2 / special.ndtri((1 + CONFIDENCE_LEVEL) / 2)
    return float(standard_error * (special.ndtri(1 - level) + special.ndtri(POWER)))


def describe_power(comparison: PairedComparison, level: float) -> str:
    """Describe in a sentence which difference the images show, and how many more would show a smaller one."""
    visible = find_visible_difference(comparison, level)
    if comparison.metric != "accuracy":
        difference = comparison.format_difference(visible)
        return f"{comparison.images:,} images show a difference of {difference} in {POWER:.0%} of the cases"
    if visible >= 1:
        text, smaller = f"{comparison.images:,} images show no gain", GAIN_STEPS[0]
    else:
        gain = f"a gain of {_format_points(visible)}"
        text = f"{comparison.images:,} images show {gain} in {POWER:.0%} of the cases"
        smaller = next((step for step in GAIN_STEPS if step <= 0.7 * visible), GAIN_STEPS[-1])
    images = count_images_needed(smaller, comparison.discordant_fraction, level, comparison.images)
    return f"{text}; {images - comparison.images:,} more labeled ones would show {_format_points(smaller)}"


def _format_points(gain: float) -> str:
    points = f"{100 * gain:.2g}" if gain < 0.1 else f"{100 * gain:.0f}"
    return f"{points} point" if points == "1" else f"{points} points"
