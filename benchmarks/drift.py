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
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

FIGURES = Path(__file__).parents[1] / "docs" / "images"
SIZES = (200, 300, 500, 1_000, 1_500)
NO_DRIFT_WINDOWS, DRIFT_WINDOWS = 1_000, 100  # windows of each size without and with drift
MONTHS, MIN_IMAGES = 20, 200  # simulated months; predictions per day and per window
CONFIG = MonitorConfig()
SIGNIFICANCE_LEVELS = (0.01, 0.001, CONFIG.drift_significance)
MIXED_FRACTION = 0.2  # of the images


@dataclass(frozen=True)
class Traffic:
    """Pool of requests as one sample, and the accuracy of the classifier on it."""

    sample: DriftSample
    accuracy: float

    def __len__(self) -> int:
        return len(self.sample.statistics)

    def select(self, indices: np.ndarray) -> DriftSample:
        return DriftSample(self.sample.statistics[indices], self.sample.probabilities[indices])


def measure() -> tuple[str, str, pd.DataFrame]:
    """Split MNIST's test images into reference and traffic anew for every window."""
    baseline, drifted = build_traffic()
    no_drift = {size: simulate_windows(baseline, baseline, size, NO_DRIFT_WINDOWS) for size in SIZES}
    full_rates, mixed_rates = (
        {
            name: [
                detection_rate(simulate_windows(baseline, traffic, size, DRIFT_WINDOWS, fraction))
                for size in SIZES
            ]
            for name, traffic in drifted.items()
        }
        for fraction in (1.0, MIXED_FRACTION)
    )
    false_alarm_months = count_false_alarm_months(baseline)
    plot(no_drift, mixed_rates)
    rows = [
        build_row("as the reference", baseline, baseline, [detection_rate(no_drift[size]) for size in SIZES])
    ]
    rows += [build_row(name, baseline, drifted[name], rates) for name, rates in full_rates.items()]
    rows += [
        build_row(f"{MIXED_FRACTION:.0%} {name}", baseline, None, rates)
        for name, rates in mixed_rates.items()
    ]
    raw_rates, corrected_rates = (
        [false_alarm_rate(no_drift[size], corrected, 0) for size in SIZES] for corrected in (False, True)
    )
    note = (
        f"{NO_DRIFT_WINDOWS:,} windows of each size that are of the same images as the reference, "
        f"{DRIFT_WINDOWS} of every other kind; the mlp of the preset fast on MNIST, 5,000 test images as the "
        f"reference, windows from the rest. Defaults: p < {CONFIG.drift_significance:g} after Holm's "
        f"correction for 8 measures, a distance of {CONFIG.min_effect_size:g} or more. Of the same images, "
        f"any of the measures has an uncorrected p < {SIGNIFICANCE_LEVELS[0]:g} in {min(raw_rates):.1%} to "
        f"{max(raw_rates):.1%} of the windows, a corrected one in {min(corrected_rates):.1%} to "
        f"{max(corrected_rates):.1%}. A month of hourly looks at the last {MIN_IMAGES} "
        "answers, with as many a day, has a false alarm at p < "
        + ", ".join(f"{level:g} in {count} of {MONTHS}" for level, count in false_alarm_months.items())
        + " months: the least window is the one most easily misled."
    )
    return "How often the monitor sees drift", note, pd.DataFrame(rows)


def build_traffic() -> tuple[Traffic, dict[str, Traffic]]:
    home = Home(Path(tempfile.mkdtemp(prefix="relearn-benchmark-")), Home.from_environment().data)
    config = TrainConfig.from_preset("fast", dataset="mnist")
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))

    def traffic(images: np.ndarray, labels: np.ndarray) -> Traffic:
        images = np.ascontiguousarray(images)
        probabilities = classifier.predict(images)
        accuracy = float((probabilities.argmax(1) == labels).mean())
        return Traffic(DriftSample(image_statistics.compute_statistics(images), probabilities), accuracy)

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


def simulate_windows(
    baseline: Traffic, drifted: Traffic, size: int, windows: int, drifted_fraction: float = 1.0
) -> list[DriftReport]:
    """Test `windows` random windows of `size` images against random references.

    The reference is drawn from one half of `baseline`, the window from the other half, except for a
    `drifted_fraction` of it, which is from `drifted`.
    """
    generator, drifted_count = np.random.default_rng(size), round(drifted_fraction * size)
    reports = []
    for _ in range(windows):
        order = generator.permutation(len(baseline))
        half = len(baseline) // 2
        second_half = order[half:]
        drifted_order = second_half if len(drifted) == len(baseline) else generator.permutation(len(drifted))
        parts = (
            drifted.select(drifted_order[:drifted_count]),
            baseline.select(second_half[drifted_count:size]),
        )
        window = DriftSample(*(np.concatenate(pair) for pair in zip(*map(to_arrays, parts), strict=True)))
        reports.append(run_drift_tests(baseline.select(order[:half]), window))
    return reports


def to_arrays(sample: DriftSample) -> tuple[np.ndarray, np.ndarray]:
    return sample.statistics, sample.probabilities


def run_drift_tests(reference: DriftSample, window: DriftSample) -> DriftReport:
    return detect_drift(
        reference,
        window,
        "0123456789",
        significance=CONFIG.drift_significance,
        min_effect_size=CONFIG.min_effect_size,
        min_images=MIN_IMAGES,
    )


def detection_rate(reports: Sequence[DriftReport]) -> float:
    return float(np.mean([bool(report.drifted_tests) for report in reports]))


def false_alarm_rate(reports: Sequence[DriftReport], corrected: bool, min_effect_size: float) -> float:
    """Return the fraction of windows with a false alarm at the first of `SIGNIFICANCE_LEVELS`.

    Only tests with an effect size of `min_effect_size` or more count.

    Holm multiplies the smallest p-value by the number of tests, so dividing by it gives the uncorrected one.
    """
    alarms = []
    for report in reports:
        min_p_value = min(
            (test.p_value for test in report.tests if test.effect_size >= min_effect_size), default=1.0
        )
        alarms.append(min_p_value / (1 if corrected else len(report.tests)) < SIGNIFICANCE_LEVELS[0])
    return float(np.mean(alarms))


def count_false_alarm_months(baseline: Traffic) -> dict[float, int]:
    """Count months with a false alarm, by level; the tests run hourly on the last `MIN_IMAGES` images."""
    min_p_values = []
    for month in range(MONTHS):
        order = np.random.default_rng(month).permutation(len(baseline))
        arrivals, reference = order[: 30 * MIN_IMAGES], baseline.select(order[30 * MIN_IMAGES :])
        ends = np.linspace(MIN_IMAGES, len(arrivals), 29 * 24 + 1).astype(int)
        runs = (
            run_drift_tests(reference, baseline.select(arrivals[end - MIN_IMAGES : end])).tests
            for end in ends
        )
        p_values = [
            test.p_value for tests in runs for test in tests if test.effect_size >= CONFIG.min_effect_size
        ]
        min_p_values.append(min(p_values, default=1.0))
    return {level: sum(p_value < level for p_value in min_p_values) for level in SIGNIFICANCE_LEVELS}


def build_row(
    name: str, baseline: Traffic, drifted: Traffic | None, rates: Sequence[float]
) -> dict[str, str]:
    accuracy = effect_size = "–"
    if drifted:
        accuracy = f"{drifted.accuracy:.1%}"
        largest = max(
            run_drift_tests(baseline.sample, drifted.sample).tests, key=lambda test: test.effect_size
        )
        effect_size = f"{largest.name}, {largest.effect_size:.2f}" if drifted is not baseline else "–"
    rate_by_size = {f"seen in {size:,}": f"{rate:.1%}" for size, rate in zip(SIZES, rates, strict=True)}
    return {"traffic": name, "accuracy": accuracy, "largest effect size": effect_size} | rate_by_size


def plot(no_drift: dict[int, list[DriftReport]], mixed_rates: dict[str, list[float]]) -> None:
    """Plot false alarms by four rules (left), and the detection rate of each kind of drift (right)."""
    max_rate = max(map(detection_rate, no_drift.values()))
    figure = create_figure(
        5.0,
        f"Of the same images, {max_rate:.1%} of the windows give a false alarm at most\n"
        f"Another kind is seen in {MIN_IMAGES} images; where it is only {MIXED_FRACTION:.0%} of them,"
        " more images help",
    )
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    min_effect_size, level = CONFIG.min_effect_size, SIGNIFICANCE_LEVELS[0]
    all_reports = [no_drift[size] for size in SIZES]
    rules = {
        f"p < {level:g}": ("s:", GRAY, [false_alarm_rate(reports, False, 0) for reports in all_reports]),
        f"p < {level:g}, corrected": (
            "^--",
            BLACK,
            [false_alarm_rate(reports, True, 0) for reports in all_reports],
        ),
        f"… and distance ≥ {min_effect_size:g}": (
            "D-.",
            BLUE,
            [false_alarm_rate(no_drift[size], True, min_effect_size) for size in SIZES],
        ),
        f"… and p < {CONFIG.drift_significance:g}": (
            "o-",
            VERMILION,
            [detection_rate(no_drift[size]) for size in SIZES],
        ),
    }
    for label, (style, color, rates) in rules.items():
        left.plot(SIZES, 100 * np.array(rates), style, color=color, markersize=5, label=label)
    left.set_ylabel("false alarms, % of windows")
    for place, (name, rates) in enumerate(mixed_rates.items()):
        style = LINE_STYLES[place % len(LINE_STYLES)]
        right.plot(SIZES, 100 * np.array(rates), f"o{style}", color=COLORS[place], markersize=5, label=name)
    right.set_ylabel(f"{MIXED_FRACTION:.0%} are other: seen, % of windows")
    right.set_ylim(0, 104)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlabel("images in the window")
        axes.legend(frameon=False, fontsize="small")
        style_axes(axes)
    figure.savefig(FIGURES / "drift.png")
