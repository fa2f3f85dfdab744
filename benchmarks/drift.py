"""Detection rate and false alarm rate of the drift tests, by window size."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from relearn.flows.config import MonitorConfig
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.data.prepared import prepare_dataset
from relearn.model.drift import image_statistics
from relearn.model.drift.detect import DriftReport, DriftSample, detect_drift
from relearn.model.evaluation.robustness import CORRUPTIONS, shift_rotate_scale
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.plots.style import (
    BLACK,
    BLUE,
    COLORS,
    GRAY,
    LINE_STYLES,
    VERMILION,
    create_figure,
    style_axes,
)
from relearn.model.training.fit import fit

FIGURES = Path(__file__).parents[1] / "docs" / "images"
SIZES = (200, 300, 500, 1_000, 1_500)
QUIET, SHIFTED = 1_000, 100  # windows of each size without and with drift
MONTHS, LEAST = 20, 200  # simulated months; predictions per day and per window
CONFIG = MonitorConfig()
LEVELS = (0.01, 0.001, CONFIG.drift_significance)
PARTLY = 0.2  # of the images


@dataclass(frozen=True)
class Traffic:
    """Pool of requests as one sample, and the accuracy of the classifier on it."""

    sample: DriftSample
    right: float

    def __len__(self) -> int:
        return len(self.sample.statistics)

    def some(self, chosen: np.ndarray) -> DriftSample:
        return DriftSample(self.sample.statistics[chosen], self.sample.probabilities[chosen])


def measure() -> tuple[str, str, pd.DataFrame]:
    """Split MNIST's test images into reference and traffic anew for every window."""
    usual, shifts = _traffic()
    quiet = {size: _trials(usual, usual, size, QUIET) for size in SIZES}
    all_of_it, partly = (
        {
            name: [_seen(_trials(usual, one, size, SHIFTED, share)) for size in SIZES]
            for name, one in shifts.items()
        }
        for share in (1.0, PARTLY)
    )
    months = _months(usual)
    _figure(quiet, partly)
    rows = [_row("as the reference", usual, usual, [_seen(quiet[size]) for size in SIZES])]
    rows += [_row(name, usual, shifts[name], shares) for name, shares in all_of_it.items()]
    rows += [_row(f"{PARTLY:.0%} {name}", usual, None, shares) for name, shares in partly.items()]
    raw, corrected = ([_false(quiet[size], one, 0) for size in SIZES] for one in (False, True))
    note = (
        f"{QUIET:,} windows of each size that are of the same images as the reference, {SHIFTED} of every "
        "other kind; the mlp of the preset fast on MNIST, 5,000 test images as the reference, windows from "
        f"the rest. Defaults: p < {CONFIG.drift_significance:g} after Holm's correction for 8 measures, a "
        f"distance of {CONFIG.min_effect_size:g} or more. Of the same images, any of the measures has an "
        f"uncorrected p < {LEVELS[0]:g} in {min(raw):.1%} to {max(raw):.1%} of the windows, a corrected one "
        f"in {min(corrected):.1%} to {max(corrected):.1%}. A month of hourly looks at the last {LEAST} "
        "answers, with as many a day, has a false alarm at p < "
        + ", ".join(f"{level:g} in {count} of {MONTHS}" for level, count in months.items())
        + " months: the least window is the one most easily misled."
    )
    return "How often the monitor sees drift", note, pd.DataFrame(rows)


def _traffic() -> tuple[Traffic, dict[str, Traffic]]:
    home = Home(Path(tempfile.mkdtemp(prefix="relearn-benchmark-")), Home.from_environment().data)
    config = TrainConfig.from_preset("fast", dataset="mnist")
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))

    def traffic(images: np.ndarray, labels: np.ndarray) -> Traffic:
        images = np.ascontiguousarray(images)
        probabilities = classifier.predict(images)
        right = float((probabilities.argmax(1) == labels).mean())
        return Traffic(DriftSample(image_statistics.compute_statistics(images), probabilities), right)

    test, others = prepared.splits.test, load_dataset(TrainConfig(dataset="digits"), home).train
    images, labels = test.images, test.labels
    even = labels % 2 == 0
    return traffic(images, labels), {
        "other writers (scikit-learn's)": traffic(others.images, others.labels),
        "rotated by 5°": traffic(shift_rotate_scale(images, rotation=5), labels),
        "rotated by 30°": traffic(shift_rotate_scale(images, rotation=30), labels),
        "with a thinner pen": traffic(CORRUPTIONS["mnist"]["thinner"](images), labels),
        "noisy": traffic(CORRUPTIONS["mnist"]["noisy"](images), labels),
        "even digits only": traffic(images[even], labels[even]),
    }


def _trials(usual: Traffic, other: Traffic, size: int, trials: int, share: float = 1.0) -> list[DriftReport]:
    """Draw the reference from one half of the usual images, and the window from the other half.

    A fraction `share` of the window is from `other`.
    """
    generator, count = np.random.default_rng(size), round(share * size)
    drifts = []
    for _ in range(trials):
        order = generator.permutation(len(usual))
        half = len(usual) // 2
        rest = order[half:]
        chosen = rest if len(other) == len(usual) else generator.permutation(len(other))
        parts = other.some(chosen[:count]), usual.some(rest[count:size])
        window = DriftSample(*(np.concatenate(pair) for pair in zip(*map(_pair, parts), strict=True)))
        drifts.append(_compared(usual.some(order[:half]), window))
    return drifts


def _pair(sample: DriftSample) -> tuple[np.ndarray, np.ndarray]:
    return sample.statistics, sample.probabilities


def _compared(reference: DriftSample, window: DriftSample) -> DriftReport:
    return detect_drift(
        reference,
        window,
        "0123456789",
        significance=CONFIG.drift_significance,
        min_effect_size=CONFIG.min_effect_size,
        min_images=LEAST,
    )


def _seen(drifts: Sequence[DriftReport]) -> float:
    return float(np.mean([bool(one.drifted_tests) for one in drifts]))


def _false(drifts: Sequence[DriftReport], corrected: bool, far: float) -> float:
    """Return the fraction of windows with p < `LEVELS[0]` in a test with an effect size of `far` or more.

    Holm multiplies the smallest p-value by the number of tests, so dividing by it gives the uncorrected one.
    """
    alarms = []
    for drift in drifts:
        least = min((one.p_value for one in drift.tests if one.effect_size >= far), default=1.0)
        alarms.append(least / (1 if corrected else len(drift.tests)) < LEVELS[0])
    return float(np.mean(alarms))


def _months(usual: Traffic) -> dict[float, int]:
    """Count months of hourly runs on windows of `LEAST` predictions that have a false alarm, by level."""
    least = []
    for month in range(MONTHS):
        order = np.random.default_rng(month).permutation(len(usual))
        come, reference = order[: 30 * LEAST], usual.some(order[30 * LEAST :])
        ends = np.linspace(LEAST, len(come), 29 * 24 + 1).astype(int)
        looks = (_compared(reference, usual.some(come[end - LEAST : end])).tests for end in ends)
        far = [one.p_value for look in looks for one in look if one.effect_size >= CONFIG.min_effect_size]
        least.append(min(far, default=1.0))
    return {level: sum(one < level for one in least) for level in LEVELS}


def _row(name: str, usual: Traffic, other: Traffic | None, shares: Sequence[float]) -> dict[str, str]:
    right = distance = "–"
    if other:
        right = f"{other.right:.1%}"
        farthest = max(_compared(usual.sample, other.sample).tests, key=lambda one: one.effect_size)
        distance = f"{farthest.name}, {farthest.effect_size:.2f}" if other is not usual else "–"
    seen = {f"seen in {size:,}": f"{share:.1%}" for size, share in zip(SIZES, shares, strict=True)}
    return {"traffic": name, "accuracy": right, "largest effect size": distance} | seen


def _figure(quiet: dict[int, list[DriftReport]], seen: dict[str, list[float]]) -> None:
    """Plot false alarms by four rules (left), and the detection rate of each kind of drift (right)."""
    worst = max(map(_seen, quiet.values()))
    figure = create_figure(
        5.0,
        f"Of the same images, {worst:.1%} of the windows give a false alarm at most\n"
        f"Another kind is seen in {LEAST} images; where it is only {PARTLY:.0%} of them, more images help",
    )
    false, true = figure.subplots(1, 2, width_ratios=(2, 3))
    far, level = CONFIG.min_effect_size, LEVELS[0]
    rules = {
        f"p < {level:g}": ("s:", GRAY, [_false(quiet[size], False, 0) for size in SIZES]),
        f"p < {level:g}, corrected": ("^--", BLACK, [_false(quiet[size], True, 0) for size in SIZES]),
        f"… and distance ≥ {far:g}": ("D-.", BLUE, [_false(quiet[size], True, far) for size in SIZES]),
        f"… and p < {CONFIG.drift_significance:g}": ("o-", VERMILION, [_seen(quiet[size]) for size in SIZES]),
    }
    for label, (style, color, shares) in rules.items():
        false.plot(SIZES, 100 * np.array(shares), style, color=color, markersize=5, label=label)
    false.set_ylabel("false alarms, % of windows")
    for place, (name, shares) in enumerate(seen.items()):
        style = LINE_STYLES[place % len(LINE_STYLES)]
        true.plot(SIZES, 100 * np.array(shares), f"o{style}", color=COLORS[place], markersize=5, label=name)
    true.set_ylabel(f"{PARTLY:.0%} are other: seen, % of windows")
    true.set_ylim(0, 104)
    for axes in (false, true):
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("images in the window")
        axes.legend(frameon=False, fontsize="small")
        style_axes(axes)
    figure.savefig(FIGURES / "drift.png")
