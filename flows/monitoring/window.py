"""What the monitor sees of the answers of a window: how many, how sure, how right, and how far from usual."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel

from relearn.flows.config import MonitorConfig
from relearn.flows.monitoring.alerts import ACCURACY_EVENT, DRIFT_EVENT, Alert
from relearn.model.drift.drift_test import CONFIDENCE, DriftReport, DriftSample, detect_drift
from relearn.model.drift.image_statistics import STATISTICS

if TYPE_CHECKING:
    import pandas as pd


MAX_NAMED_TESTS = 3  # measures that are named in an outcome


class LiveAccuracy(BaseModel, frozen=True):
    """How many of the told truths were answered; `low` and `high` are Wilson's 95 % interval of the share."""

    labels: int
    correct: int
    ci_low: float
    ci_high: float

    @classmethod
    def from_counts(cls, correct: int, labels: int) -> Self:
        from scipy import stats

        interval = stats.binomtest(correct, labels).proportion_ci(0.95, "wilson")
        return cls(labels=labels, correct=correct, ci_low=float(interval.low), ci_high=float(interval.high))

    @property
    def fraction(self) -> float:
        return self.correct / self.labels

    def __str__(self) -> str:
        return (
            f"{self.fraction:.1%} of {self.labels:,} told truths "
            f"(95 % interval {100 * self.ci_low:.1f} to {100 * self.ci_high:.1f})"
        )


class PredictionSummary(BaseModel, frozen=True):
    """What one version said to some images: shares of the labels, mean confidence, share of low ones."""

    images: int
    label_fractions: dict[str, float]
    mean_confidence: float
    low_confidence_fraction: float

    @classmethod
    def from_sample(cls, sample: DriftSample, classes: Sequence[str], low_threshold: float) -> Self:
        """Of one that has answers; `low` is the confidence below which one is low."""
        labels, confidence = sample.predicted_labels(), sample.values(CONFIDENCE)
        confidence = confidence[np.isfinite(confidence)]
        fractions = np.bincount(labels, minlength=len(classes)) / len(labels)
        return cls(
            images=len(labels),
            label_fractions={
                name: float(fraction) for name, fraction in zip(classes, fractions, strict=True)
            },
            mean_confidence=float(confidence.mean(dtype=float)),
            low_confidence_fraction=float((confidence < low_threshold).mean()),
        )


class WindowReport(BaseModel, frozen=True):
    """One look, by `config`, at the answers up to `at`, while `version` of `name` was live.

    `images` and `requests` are those of all versions, `versions` has the images of each. `now` is what the
    live version said, `before` what it says to the reference images, `right` (0..1) how many of these it has
    right; `accuracy` is that of the live version. `alarms` are those that were called for.
    """

    name: str
    live_version: str
    window_end: AwareDatetime
    images: int
    requests: int
    images_by_version: dict[str, int]
    reference_predictions: PredictionSummary
    window_predictions: PredictionSummary | None
    reference_accuracy: float
    live_accuracy: LiveAccuracy | None
    drift: DriftReport
    config: MonitorConfig
    alerts: tuple[Alert, ...] = ()

    @property
    def summary(self) -> str:
        """What it comes to, in a few words."""
        if not self.drift.tests:
            return "too few answers to tell drift" if self.images else "no answers"
        drifted_names = [drift_test.name for drift_test in self.drift.drifted_tests]
        if len(drifted_names) > MAX_NAMED_TESTS:
            drifted_names[MAX_NAMED_TESTS - 1 :] = [
                f"{len(drifted_names) - MAX_NAMED_TESTS + 1} other measures"
            ]
        return f"drift in {join_names(drifted_names)}" if drifted_names else "no drift"

    @property
    def window_summary(self) -> str:
        """What was looked at."""
        requirement = f"; accepted: {self.config.min_predictions:,} or more" if not self.drift.tests else ""
        return f"{self.images:,} answers in the last {self.config.window_hours:g} hours{requirement}"

    @property
    def alert_reasons(self) -> dict[str, str]:
        """The events that are called for, and why."""
        config, accuracy, reasons_by_event = self.config, self.live_accuracy, {}
        if self.drift.drifted_tests:
            reasons_by_event[DRIFT_EVENT] = "; ".join(
                drift_test.summary for drift_test in self.drift.drifted_tests
            )
        if accuracy and accuracy.labels >= config.min_labels and accuracy.ci_high < config.min_live_accuracy:
            reasons_by_event[ACCURACY_EVENT] = (
                f"right are {accuracy}, accepted: {config.min_live_accuracy:.0%}"
            )
        return reasons_by_event


def build_window_report(
    name: str,
    version: str,
    window: "pd.DataFrame",
    reference: DriftSample,
    labels: np.ndarray,
    classes: Sequence[str],
    config: MonitorConfig,
    at: datetime,
) -> tuple[WindowReport, DriftSample]:
    """All of a window, rows as `load_predictions` gives them; with what was compared of it.

    `reference` and `labels`, int (n,), are the reference images and their truths, answered by `version`. Of
    the window the traits of all images count, since they tell of the images alone; probabilities, labels
    and truths only of those that `version` has answered: another version is sure in another way.
    """
    window_sample = to_drift_sample(window, version, classes)
    live_rows = window[window["version"] == version]
    labeled_rows = live_rows[live_rows["truth"].notna()]
    correct = int((labeled_rows["label"] == labeled_rows["truth"]).sum())
    report = WindowReport(
        name=name,
        live_version=version,
        window_end=at,
        images=len(window),
        requests=window["request_id"].nunique(),
        images_by_version={
            str(served_version): int(count)
            for served_version, count in window["version"].value_counts().items()
        },
        reference_predictions=PredictionSummary.from_sample(reference, classes, config.low_confidence),
        window_predictions=(
            PredictionSummary.from_sample(window_sample, classes, config.low_confidence)
            if len(window_sample.predicted_labels())
            else None
        ),
        reference_accuracy=float((reference.probabilities.argmax(1) == labels).mean()),
        live_accuracy=LiveAccuracy.from_counts(correct, len(labeled_rows)) if len(labeled_rows) else None,
        drift=detect_drift(
            reference,
            window_sample,
            classes,
            significance=config.drift_significance,
            min_effect_size=config.min_effect_size,
            min_images=config.min_predictions,
        ),
        config=config,
    )
    return report, window_sample


def to_drift_sample(window: "pd.DataFrame", version: str, classes: Sequence[str]) -> DriftSample:
    """Rows of records as a `Sample`; what a row does not have is NaN, as are answers of other versions."""
    probability_columns = [f"p_{name}" for name in classes]
    statistics, probabilities = (
        window.reindex(columns=names).to_numpy(np.float32)
        for names in (list(STATISTICS), probability_columns)
    )
    probabilities = np.where((window["version"] == version).to_numpy()[:, None], probabilities, np.nan)
    return DriftSample(statistics, probabilities)


def join_names(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
