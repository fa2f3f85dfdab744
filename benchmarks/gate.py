"""Promotion rate of the gate for equal and for better candidates, per decision and per year."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from relearn.flows.config import PromotionConfig
from relearn.model.evaluation.significance import mcnemar
from relearn.model.plots.style import (
    BLUE,
    GRAY,
    GREEN,
    VERMILION,
    add_legend_below,
    create_figure,
    style_axes,
)

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZES = (360, 1_000, 10_000)
TRIALS = 20_000
NIGHTS, YEARS = 365, 1_000
# Two mlps of other seeds, 98 % right on MNIST, differ on 1.2 % of its test images; with a fair coin on 2.4 %
# of the images and no doubt about the rest, so do these.
DISPUTED_FRACTION = 0.024
MAX_PROMOTIONS = 3  # bars of promotions per year; more were not observed
GAINS = np.arange(0, 1.55, 0.1) / 100

_p_value = cache(mcnemar)
SIGNIFICANCE_LEVEL = PromotionConfig().significance


def measure() -> tuple[str, str, pd.DataFrame]:
    """Simulate decisions of the significance test of the gate, without the other guardrails."""
    promotion_rates = {
        size: np.array([simulate_promotion_rate(size, gain) for gain in GAINS]) for size in SIZES
    }
    promotions_per_year = {size: simulate_promotions_per_year(size) for size in SIZES}
    plot(promotion_rates, promotions_per_year)
    rows = [
        {
            "reference images": f"{size:,}",
            "equal ones promoted, one decision": f"{promotion_rates[size][0]:.2%}",
            "truly 0.5 points better, promoted": f"{promotion_rates[size][5]:.1%}",
            "truly 1 point better, promoted": f"{promotion_rates[size][10]:.1%}",
            "365 nights of equal ones: promotions, mean": f"{promotions_per_year[size].mean():.1f}",
            "in 95 of 100 years at most": f"{np.percentile(promotions_per_year[size], 95):.0f}",
        }
        for size in SIZES
    ]
    note = (
        f"{TRIALS:,} decisions for each share, {YEARS:,} years for each size. Candidate and champion differ "
        f"on {DISPUTED_FRACTION / 2:.1%} of the images, as two seeds of the mlp do on MNIST; a better one "
        f"has "
        "the advantage on a part of the others. Every candidate of a year is as good as all others, judged "
        "on the same images: a champion that got there by luck keeps its luck, and is harder to beat next "
        "night. A promotion of an equal one costs nothing but the swap. With a second set of images, recent "
        "ones, either may decide, so shares of equal ones double at most."
    )
    return "How often the gate promotes", note, pd.DataFrame(rows)


def is_significantly_better(candidate_only: int, champion_only: int) -> bool:
    """Return whether the gate promotes, from the numbers of images that only one predicts correctly."""
    is_better = candidate_only > champion_only
    return bool(is_better and _p_value(int(candidate_only), int(champion_only)) < SIGNIFICANCE_LEVEL)


def simulate_promotion_rate(size: int, gain: float) -> float:
    """Return the fraction of PROMOTE decisions if the candidate is better by `gain`."""
    disagreement = DISPUTED_FRACTION / 4
    probabilities = (disagreement + gain, disagreement, 1 - 2 * disagreement - gain)
    counts = np.random.default_rng(size).multinomial(size, probabilities, TRIALS)
    promotions = sum(is_significantly_better(candidate, champion) for candidate, champion, _ in counts)
    return promotions / TRIALS


def simulate_promotions_per_year(size: int) -> np.ndarray:
    """Return the promotions per year of nightly, equally good candidates."""
    generator = np.random.default_rng(size)
    disputed_images = round(DISPUTED_FRACTION * size)
    champion = generator.random((YEARS, disputed_images)) < 0.5
    promotions = np.zeros(YEARS, int)
    for _ in range(NIGHTS):
        candidate = generator.random((YEARS, disputed_images)) < 0.5
        candidate_only, champion_only = (candidate & ~champion).sum(1), (champion & ~candidate).sum(1)
        is_promoted = np.array(list(map(is_significantly_better, candidate_only, champion_only)))
        champion[is_promoted] = candidate[is_promoted]
        promotions += is_promoted
    return promotions


def plot(promotion_rates: dict[int, np.ndarray], promotions_per_year: dict[int, np.ndarray]) -> None:
    """Plot promotion rate by true gain (left), and promotions per year of equal candidates (right)."""
    max_false_rate = max(curve[0] for curve in promotion_rates.values())
    figure = create_figure(
        4.6,
        f"Equal classifiers are promoted in {max_false_rate:.1%} of the decisions at most\n"
        "The more reference images, the smaller the gain that is seen",
    )
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    styles = zip(SIZES, (VERMILION, GREEN, BLUE), (":", "--", "-"), strict=True)
    bar_positions = np.arange(MAX_PROMOTIONS + 1)
    for position, (size, color, style) in enumerate(styles):
        left.plot(100 * GAINS, 100 * promotion_rates[size], style, color=color, label=f"{size:,} images")
        counts = np.bincount(promotions_per_year[size], minlength=MAX_PROMOTIONS + 1)[: MAX_PROMOTIONS + 1]
        right.bar(bar_positions + 0.25 * (position - 1), 100 * counts / YEARS, 0.22, color=color)
    left.axhline(100 * SIGNIFICANCE_LEVEL / 2, color=GRAY, linewidth=0.8)
    left.set_xlabel("points of accuracy by which the candidate is truly better")
    left.set_ylabel("promoted, % of decisions")
    right.set_xlabel("promotions in 365 nights of equal candidates")
    right.set_ylabel("% of years")
    for axes in (left, right):
        style_axes(axes)
    add_legend_below(figure, left)
    figure.savefig(IMAGES / "gate.png")
