"""What the monitor sees of the answers of a window: how many, how sure, how right, and how far from usual."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel

from relearn.flows.alarm import ACCURACY, DRIFT, Alarm
from relearn.flows.settings import MonitorConfig
from relearn.model.drift import CONFIDENCE, Drift, Sample, compare
from relearn.model.traits import TRAITS

if TYPE_CHECKING:
    import pandas as pd


MOST = 3  # measures that are named in an outcome


class Accuracy(BaseModel, frozen=True):
    """How many of the told truths were answered; `low` and `high` are Wilson's 95 % interval of the share."""

    truths: int
    right: int
    low: float
    high: float

    @classmethod
    def of(cls, right: int, truths: int) -> Self:
        from scipy import stats

        interval = stats.binomtest(right, truths).proportion_ci(0.95, "wilson")
        return cls(truths=truths, right=right, low=float(interval.low), high=float(interval.high))

    @property
    def share(self) -> float:
        return self.right / self.truths

    def __str__(self) -> str:
        return (
            f"{self.share:.1%} of {self.truths:,} told truths "
            f"(95 % interval {100 * self.low:.1f} to {100 * self.high:.1f})"
        )


class Answers(BaseModel, frozen=True):
    """What one version said to some images: shares of the labels, mean confidence, share of low ones."""

    images: int
    labels: dict[str, float]
    confidence: float
    low_confidence: float

    @classmethod
    def of(cls, sample: Sample, classes: Sequence[str], low: float) -> Self:
        """Of one that has answers; `low` is the confidence below which one is low."""
        labels, confidence = sample.labels(), sample.number(CONFIDENCE)
        confidence = confidence[np.isfinite(confidence)]
        shares = np.bincount(labels, minlength=len(classes)) / len(labels)
        return cls(
            images=len(labels),
            labels={name: float(share) for name, share in zip(classes, shares, strict=True)},
            confidence=float(confidence.mean(dtype=float)),
            low_confidence=float((confidence < low).mean()),
        )


class Watched(BaseModel, frozen=True):
    """One look, by `config`, at the answers up to `at`, while `version` of `name` was live.

    `images` and `requests` are those of all versions, `versions` has the images of each. `now` is what the
    live version said, `before` what it says to the reference images, `right` (0..1) how many of these it has
    right; `accuracy` is that of the live version. `alarms` are those that were called for.
    """

    name: str
    version: str
    at: AwareDatetime
    images: int
    requests: int
    versions: dict[str, int]
    before: Answers
    now: Answers | None
    right: float
    accuracy: Accuracy | None
    drift: Drift
    config: MonitorConfig
    alarms: tuple[Alarm, ...] = ()

    @property
    def outcome(self) -> str:
        """What it comes to, in a few words."""
        if not self.drift.measures:
            return "too few answers to tell drift" if self.images else "no answers"
        drifted = [one.name for one in self.drift.drifted]
        if len(drifted) > MOST:
            drifted[MOST - 1 :] = [f"{len(drifted) - MOST + 1} other measures"]
        return f"drift in {listed(drifted)}" if drifted else "no drift"

    @property
    def window(self) -> str:
        """What was looked at."""
        least = f"; accepted: {self.config.least_answers:,} or more" if not self.drift.measures else ""
        return f"{self.images:,} answers in the last {self.config.window_hours:g} hours{least}"

    @property
    def reasons(self) -> dict[str, str]:
        """The events that are called for, and why."""
        config, accuracy, due = self.config, self.accuracy, {}
        if self.drift.drifted:
            due[DRIFT] = "; ".join(one.words for one in self.drift.drifted)
        if accuracy and accuracy.truths >= config.least_truths and accuracy.high < config.accuracy_floor:
            due[ACCURACY] = f"right are {accuracy}, accepted: {config.accuracy_floor:.0%}"
        return due


def look(
    name: str,
    version: str,
    window: "pd.DataFrame",
    reference: Sample,
    labels: np.ndarray,
    classes: Sequence[str],
    config: MonitorConfig,
    at: datetime,
) -> tuple[Watched, Sample]:
    """All of a window, rows as `relearn.serving.recorded.read` gives them; with what was compared of it.

    `reference` and `labels`, int (n,), are the reference images and their truths, answered by `version`. Of
    the window the traits of all images count, since they tell of the images alone; probabilities, labels
    and truths only of those that `version` has answered: another version is sure in another way.
    """
    now = sample(window, version, classes)
    live = window[window["version"] == version]
    told = live[live["truth"].notna()]
    right = int((told["label"] == told["truth"]).sum())
    watched = Watched(
        name=name,
        version=version,
        at=at,
        images=len(window),
        requests=window["request_id"].nunique(),
        versions={str(one): int(count) for one, count in window["version"].value_counts().items()},
        before=Answers.of(reference, classes, config.low_confidence),
        now=Answers.of(now, classes, config.low_confidence) if len(now.labels()) else None,
        right=float((reference.probabilities.argmax(1) == labels).mean()),
        accuracy=Accuracy.of(right, len(told)) if len(told) else None,
        drift=compare(
            reference,
            now,
            classes,
            significance=config.drift_significance,
            least_distance=config.least_distance,
            least_images=config.least_answers,
        ),
        config=config,
    )
    return watched, now


def sample(window: "pd.DataFrame", version: str, classes: Sequence[str]) -> Sample:
    """Rows of records as a `Sample`; what a row does not have is NaN, as are answers of other versions."""
    columns = [f"p_{name}" for name in classes]
    traits, probabilities = (
        window.reindex(columns=names).to_numpy(np.float32) for names in (list(TRAITS), columns)
    )
    probabilities = np.where((window["version"] == version).to_numpy()[:, None], probabilities, np.nan)
    return Sample(traits, probabilities)


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
