"""Decisions of the gate: on simulated pairs of classifiers, over months of nights, and on real seeds."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from scipy import stats

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores, score_classifier
from relearn.flows.promotion.gate import Baseline, evaluate_gate
from relearn.model.config import TrainConfig
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.power import compute_power
from relearn.model.evaluation.significance import mcnemar, spend_level
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.plots.style import BLUE, GRAY, GREEN, VERMILION, create_figure, style_axes
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PAIRS = 400
LARGE, LARGE_PAIRS = 10_000, 100  # a decision on 10,000 images takes ten times as long
SIZES = (30, 60, 150, 300, 1_000, LARGE)
# (classes, accuracy of the champion)
KINDS = ((2, 0.6), (2, 0.85), (10, 0.6), (10, 0.85), (10, 0.96), (10, 0.99), (100, 0.85))
GAINS = (-0.05, -0.01, 0.0, 0.01, 0.05)
CORRUPTIONS = 8
# Correlation of the correctness of two seeds, image by image; `measure_seeds` finds 0.75 to 0.89 on digits.
# Less correlated pairs differ on more images, and are harder to judge.
SEED_CORRELATION = 0.6
BETTER = PromotionConfig(promotion_rule="better")
NIGHTS, MONTHS = 30, 200
SEEDS = 12


def measure() -> tuple[str, str, pd.DataFrame]:
    """Simulate decisions on one candidate, with the rule `better`."""
    rows = [
        measure_kind(size, *kind, LARGE_PAIRS if size == LARGE else PAIRS)
        for size, kind in product(SIZES, KINDS)
    ]
    table = pd.DataFrame(rows)
    plot(table)
    note = (
        f"{PAIRS:,} pairs for each number, {LARGE_PAIRS} at {LARGE:,} images. Both classifiers have the "
        f"same hard images (correlation of their correctness {SEED_CORRELATION}), {CORRUPTIONS} corruptions, "
        "and probabilities drawn by chance. The candidate is truly as good, or so many points better or "
        "worse. `mcnemar` is the share of promotions by the bare exact one-sided McNemar test at the same "
        "level; `stated` is the power that the verdict computes from the number of images and the share on "
        "which the two differ."
    )
    return "Decisions of the gate on one candidate", note, table


def measure_kind(images: int, classes: int, accuracy: float, pairs: int) -> dict[str, object]:
    """Return the shares of decisions for each gain, in percent."""
    row: dict[str, object] = {"images": f"{images:,}", "classes": classes, "accuracy": accuracy}
    level = spend_level(BETTER.significance, 0)
    for gain in GAINS:
        if accuracy + gain >= 1:
            continue
        rng = np.random.default_rng([images, classes, round(1000 * accuracy), round(1000 * (gain + 1))])
        actions, found, discordant = Counter[str](), 0, 0.0
        for _ in range(pairs):
            champion, candidate = draw_pair(rng, images, classes, accuracy, gain)
            decision = evaluate_gate(candidate, champion, BETTER)
            actions[decision.action] += 1
            if comparison := decision.comparison:
                gained, lost = comparison.candidate_only_correct, comparison.champion_only_correct
                found += mcnemar(gained, lost) <= level
                discordant += (gained + lost) / images / pairs
        name = f"{100 * gain:+.0f}" if gain else "equal"
        row[f"{name}: promoted"] = f"{100 * actions['promote'] / pairs:.1f}"
        row[f"{name}: rejected"] = f"{100 * actions['reject'] / pairs:.1f}"
        if gain > 0:
            row[f"{name}: mcnemar"] = f"{100 * found / pairs:.1f}"
            row[f"{name}: stated"] = f"{100 * compute_power(images, discordant, gain, level):.1f}"
    return row


def draw_pair(
    rng: np.random.Generator, images: int, classes: int, accuracy: float, gain: float
) -> tuple[ClassifierScores, ClassifierScores]:
    """Draw scores of a champion and a candidate that is better by `gain`."""
    labels, easiness = rng.integers(0, classes, images), rng.random(images)
    champion, candidate = (
        draw_scores(rng, labels, easiness, classes, mean) for mean in (accuracy, accuracy + gain)
    )
    return champion, candidate


def draw_scores(
    rng: np.random.Generator, labels: np.ndarray, easiness: np.ndarray, classes: int, accuracy: float
) -> ClassifierScores:
    """Draw predictions that are right with a probability that depends on the image, float (n,) in 0..1."""
    images = len(labels)
    is_correct = draw_correct(rng, easiness, accuracy)
    predicted = np.where(is_correct, labels, (labels + rng.integers(1, classes, images)) % classes)
    confidence = np.where(is_correct, 0.5 + 0.5 * rng.beta(8, 1.2, images), 0.5 + 0.4 * rng.random(images))
    probabilities = np.repeat(((1 - confidence) / (classes - 1))[:, None], classes, axis=1)
    probabilities[np.arange(images), predicted] = confidence
    evaluation = Evaluation(probabilities.astype(np.float32), labels, tuple(map(str, range(classes))))
    corrupted = {
        f"corruption {step}": draw_correct(rng, easiness, max(0.05, accuracy - 0.03 * step))
        for step in range(CORRUPTIONS)
    }
    return ClassifierScores(
        evaluation.classes, (1, 8, 8), True, 1, reference=ReferenceScores(evaluation, corrupted)
    )


def draw_correct(rng: np.random.Generator, easiness: np.ndarray, accuracy: float) -> np.ndarray:
    """Draw which images are predicted correctly, bool (n,)."""
    correct: np.ndarray = rng.random(len(easiness)) < np.interp(easiness, *beta_quantiles(accuracy))
    return correct


@cache
def beta_quantiles(accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles of the probability that an image is predicted correctly."""
    concentration = (1 - SEED_CORRELATION) / SEED_CORRELATION
    fractions = np.linspace(0, 1, 2_001)
    return fractions, stats.beta.ppf(fractions, accuracy * concentration, (1 - accuracy) * concentration)


def plot(table: pd.DataFrame) -> None:
    """Plot how often candidates are promoted, by the number of images, beside the bare test."""
    figure = create_figure(3.6, "The gate promotes what McNemar's test finds, and seldom an equal candidate")
    axes = figure.subplots()
    rows = table[(table["classes"] == 10) & (table["accuracy"] == 0.85)]
    sizes = rows["images"].str.replace(",", "").astype(int)
    styles = (("+5", "5 points better", BLUE), ("+1", "1 point better", GREEN), ("equal", "equal", VERMILION))
    for name, label, color in styles:
        axes.plot(sizes, rows[f"{name}: promoted"].astype(float), "o-", color=color, label=label)
        if f"{name}: mcnemar" in rows:
            axes.plot(sizes, rows[f"{name}: mcnemar"].astype(float), "x:", color=GRAY)
    axes.plot([], [], "x:", color=GRAY, label="McNemar's test alone")
    axes.set_xscale("log")
    axes.set_xlabel("reference images (10 classes, champion at 85 %)")
    axes.set_ylabel("promoted, % of decisions")
    axes.legend(frameon=False)
    style_axes(axes)
    figure.savefig(IMAGES / "gate.png")


def measure_nights() -> tuple[str, str, pd.DataFrame]:
    """Simulate months of nightly candidates on the same reference images."""
    rows = [simulate_months(images, *rule) for images, rule in product((60, 300), RULES)]
    note = (
        f"{MONTHS} months of {NIGHTS} nights; 10 classes, first version at 85 %, each night a new "
        "candidate of the stated true accuracy. A candidate that was promoted by luck keeps its luck. `lost` "
        "is the true accuracy of the first version minus that of the version served after the last night, "
        "in points."
    )
    return "Decisions of the gate over a month of nights", note, pd.DataFrame(rows)


# (rule, truth of the candidates, accuracy of the candidate of a night)
RULES: tuple[tuple[str, str, Callable[[int], float]], ...] = (
    ("better", "1 point worse", lambda night: 0.84),
    ("better", "equal", lambda night: 0.85),
    ("more_data", "equal", lambda night: 0.85),
    ("more_data", "each 0.5 points worse than the last", lambda night: 0.85 - 0.005 * night),
    ("more_data", "each 0.2 points better than the last", lambda night: 0.85 + 0.002 * night),
)


def simulate_months(
    images: int, rule: str, truth: str, accuracy_of: Callable[[int], float]
) -> dict[str, object]:
    """Return how many months had a promotion, how many promotions, and what was lost."""
    config = PromotionConfig.model_validate({"promotion_rule": rule})
    losses, margins, promotions = np.zeros(MONTHS), np.zeros(MONTHS), np.zeros(MONTHS, int)
    for month in range(MONTHS):
        rng = np.random.default_rng([images, month])
        labels, easiness = rng.integers(0, 10, images), rng.random(images)
        champion, served = draw_scores(rng, labels, easiness, 10, 0.85), 0.85
        baseline = Baseline(champion.reference)
        for night in range(1, NIGHTS + 1):
            accuracy = accuracy_of(night)
            candidate = draw_scores(rng, labels, easiness, 10, accuracy)
            decision = evaluate_gate(candidate, champion, config, baseline, has_more_data=True)
            is_promoted = decision.action == "promote"
            if is_promoted and not decision.margin:
                baseline = Baseline(candidate.reference)
            else:
                margin = decision.margin or baseline.margin
                tested, failed = baseline.tested + 1, baseline.failed + (not is_promoted)
                baseline = Baseline(baseline.scores, margin, tested, failed)
            if is_promoted:
                champion, served = candidate, accuracy
                promotions[month] += 1
                margins[month] = margins[month] or 100 * decision.margin
        losses[month] = 100 * (0.85 - served)
    return {
        "images": f"{images:,}",
        "rule": rule,
        "candidates": truth,
        "months with a promotion, %": f"{100 * (promotions > 0).mean():.1f}",
        "promotions a month": f"{promotions.mean():.1f}",
        "lost, mean": f"{losses.mean():+.2f}",
        "lost in the worst 2.5 % of the months": f"{np.percentile(losses, 97.5):+.2f}",
        "margin stated": f"{margins[margins > 0].mean():.2f}" if margins.any() else "",
        "months with a loss above it, %": f"{100 * (losses > margins).mean():.1f}",
    }


def measure_seeds() -> tuple[str, str, pd.DataFrame]:
    """Decide on pairs of real trainings that differ in the seed alone; photos are those in `RELEARN_DATA`."""
    rows: list[dict[str, object]] = []
    datasets: dict[str, dict[str, object]] = {"digits": {"dataset": "digits"}}
    photos = Path(os.environ.get("RELEARN_DATA", "")) / "ants-bees" / "train"
    if photos.is_dir():
        datasets["ants-bees"] = {"dataset": f"folder:{photos}", "image_size": 32}
    for (name, settings), network in product(datasets.items(), ("mlp", "cnn")):
        config = TrainConfig.parse(settings | {"network": network, "threads": 1})
        scores = list(train_seeds(config))
        correct = np.array([score.reference.evaluation.correct for score in scores if score.reference])
        actions = Counter(
            evaluate_gate(candidate, champion, BETTER).action
            for champion, candidate in permutations(scores, 2)
        )
        pairs = sum(actions.values())
        rows.append(
            {
                "data": name,
                "network": network,
                "images": correct.shape[1],
                "accuracy": f"{correct.mean(1).min():.3f} to {correct.mean(1).max():.3f}",
                "correlation": f"{correlate(correct):.2f}",
                "pairs": pairs,
                **{
                    action: f"{100 * actions[action] / pairs:.1f} %"
                    for action in ("promote", "hold", "reject")
                },
            }
        )
    note = (
        f"All ordered pairs of {SEEDS} trainings with the default settings and other seeds, rule "
        "`better`. Some seeds are truly better than others by a little. `correlation` is that of the "
        "correctness of two seeds."
    )
    return "Decisions of the gate on real seeds", note, pd.DataFrame(rows)


def train_seeds(config: TrainConfig) -> Iterator[ClassifierScores]:
    """Train with `SEEDS` seeds, and score each on the test images."""
    with TemporaryDirectory() as folder:
        prepared = prepare_dataset(config, Home(Path(folder), Path(folder)))
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            seed_config = config.model_copy(update={"seed": seed})
            network = build_network(seed_config, prepared.shape, len(prepared.classes))
            fit(seed_config, network, prepared.splits, len(prepared.classes))
            classifier = Classifier(network, ModelCard.from_network(seed_config, prepared, network))
            yield score_classifier(classifier, prepared.splits.test, prepared.classes)


def correlate(correct: np.ndarray) -> float:
    """Return the mean correlation of the rows of `correct`, bool (seeds, images)."""
    correlations = np.corrcoef(correct)
    return float(correlations[np.triu_indices(len(correct), 1)].mean())
