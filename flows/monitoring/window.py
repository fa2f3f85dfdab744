"""The report of a time window of predictions: counts, confidence, live accuracy, drift."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel

from relearn.flows.config import MonitorConfig
from relearn.flows.monitoring.retraining_triggers import Alert
from relearn.flows.orchestration.events import ACCURACY_EVENT, DRIFT_EVENT
from relearn.model.drift.detect import CONFIDENCE, DriftReport, DriftSample, detect_drift
from relearn.model.drift.image_statistics import STATISTICS
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.groups import Groups, number_groups

if TYPE_CHECKING:
    import pandas as pd

MAX_NAMED_TESTS = 3  # drift tests named in a summary


class PredictionSummary(BaseModel, frozen=True):
    """The predictions of one version: label fractions, mean confidence, fraction of low confidence (0..1)."""

    images: int
    label_fractions: dict[str, float]
    mean_confidence: float
    low_confidence_fraction: float

    @classmethod
    def from_sample(cls, sample: DriftSample, classes: Sequence[str], low_threshold: float) -> Self:
        """Summarize a sample with predictions; confidence below `low_threshold` is low."""
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
    """The predictions of model `name` in the window that ends at `window_end`.

    `images` and `requests` are counts over all versions, `images_by_version` counts the images of each.
    `window_predictions` and `live_accuracy` (on sampled images that were labeled blind) are about the live
    version; `reference_predictions` and `reference_accuracy` are about its predictions of the reference
    images. `alerts` are the events that are due.
    """

    name: str
    live_version: str
    window_end: AwareDatetime
    images: int
    requests: int
    images_by_version: dict[str, int]
    reference_predictions: PredictionSummary
    window_predictions: PredictionSummary | None
    reference_accuracy: Accuracy
    live_accuracy: Accuracy | None
    drift: DriftReport
    config: MonitorConfig
    alerts: tuple[Alert, ...] = ()

    @property
    def summary(self) -> str:
        """Return the result in a few words."""
        if not self.drift.tests:
            return "too few predictions to test drift" if self.images else "no predictions"
        drifted_names = [drift_test.name for drift_test in self.drift.drifted_tests]
        if len(drifted_names) > MAX_NAMED_TESTS:
            drifted_names[MAX_NAMED_TESTS - 1 :] = [
                f"{len(drifted_names) - MAX_NAMED_TESTS + 1} other measures"
            ]
        if drifted_names:
            return f"drift in {join_names(drifted_names)}"
        return "no drift" if self.drift.can_see_large_drift else "too few images to see drift"

    @property
    def window_summary(self) -> str:
        """Return the number of predictions in the window as text; if too few, also the required number."""
        requirement = f"; accepted: {self.config.min_predictions:,} or more" if not self.drift.tests else ""
        return f"{self.images:,} predictions in the last {self.config.window_hours:g} hours{requirement}"

    @property
    def has_accuracy_dropped(self) -> bool:
        """True if the whole interval of the drop since the reference images exceeds `max_accuracy_drop`.

        With fewer than `min_labels` labels it is False.
        """
        accuracy, config = self.live_accuracy, self.config
        if accuracy is None or accuracy.images < config.min_labels:
            return False
        return accuracy.compute_drop(self.reference_accuracy)[0] > config.max_accuracy_drop

    @property
    def alert_reasons(self) -> dict[str, str]:
        """Return the due events, each with its reason."""
        reasons_by_event = {}
        if self.drift.drifted_tests:
            reasons_by_event[DRIFT_EVENT] = "; ".join(
                drift_test.summary for drift_test in self.drift.drifted_tests
            )
        if self.has_accuracy_dropped:
            reasons_by_event[ACCURACY_EVENT] = (
                f"live accuracy is {self.live_accuracy}, on the reference images {self.reference_accuracy}, "
                f"accepted: a drop of {100 * self.config.max_accuracy_drop:g} points"
            )
        return reasons_by_event


def build_window_report(
    name: str,
    version: str,
    window: "pd.DataFrame",
    reference: DriftSample,
    labels: np.ndarray,
    groups: Groups,
    classes: Sequence[str],
    config: MonitorConfig,
    window_end: datetime,
) -> tuple[WindowReport, DriftSample]:
    """Build the report of a window, with rows as from `load_predictions`; also returns its drift sample.

    `reference` has the predictions of `version` for the reference images, `labels`, int (n,), their labels,
    `groups` those that belong together. In the window the images of a request do.
    Image statistics count for all images of the window, since they do not depend on the version;
    probabilities and labels count for predictions of `version` only: confidence differs between versions.
    """
    window_sample = to_drift_sample(window, version, classes)
    live_rows = window[window["version"] == version]
    labeled_rows = live_rows[live_rows["label"].notna()]
    correct = (labeled_rows["predicted_label"] == labeled_rows["label"]).to_numpy(bool)
    requests = number_groups(labeled_rows["request_id"].to_numpy(str))
    report = WindowReport(
        name=name,
        live_version=version,
        window_end=window_end,
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
        reference_accuracy=Accuracy.from_images(reference.probabilities.argmax(1) == labels, groups),
        live_accuracy=Accuracy.from_images(correct, requests) if len(correct) else None,
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
    """Convert logged predictions to a `DriftSample`.

    Missing values and the probabilities of other versions become NaN.
    """
    probability_columns = [f"p_{name}" for name in classes]
    statistics, probabilities = (
        window.reindex(columns=names).to_numpy(np.float32)
        for names in (list(STATISTICS), probability_columns)
    )
    probabilities = np.where((window["version"] == version).to_numpy()[:, None], probabilities, np.nan)
    return DriftSample(statistics, probabilities)


def join_names(names: Sequence[str]) -> str:
    """Join names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
