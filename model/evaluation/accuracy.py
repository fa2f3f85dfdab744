"""Accuracy on a sample of images, with its confidence interval."""

from collections.abc import Mapping
from math import hypot
from typing import Self

import numpy as np
from pydantic import BaseModel

from relearn.model.evaluation.groups import Groups, compute_design_effect
from relearn.model.evaluation.intervals import wilson_interval


class Accuracy(BaseModel, frozen=True):
    """Accuracy on a number of images; `low` and `high` are the ends of Wilson's 95 % interval, 0..1.

    `groups` is the number of groups of images that belong together, None if each stands alone. The interval
    has as many images as the evidence is worth.
    """

    correct: int
    images: int
    groups: int | None = None
    low: float
    high: float

    @classmethod
    def from_images(cls, is_correct: np.ndarray, groups: Groups = None) -> Self:
        """Return the accuracy of images that are predicted correctly or not, bool (n,)."""
        correct, images = int(is_correct.sum()), len(is_correct)
        effect = compute_design_effect(is_correct.astype(float), groups)
        low, high = wilson_interval(correct / effect, images / effect)
        count = None if groups is None else len(np.unique(groups))
        return cls(correct=correct, images=images, groups=count, low=float(low), high=float(high))

    @classmethod
    def from_counts(cls, correct: int, images: int) -> Self:
        low, high = wilson_interval(correct, images)
        return cls(correct=correct, images=images, low=float(low), high=float(high))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> Self:
        """Restore the accuracy from the metrics of an evaluation, which hold those of `metrics`."""
        images, groups = int(metrics["images"]), int(metrics["groups"])
        return cls(
            correct=round(metrics["accuracy"] * images),
            images=images,
            groups=groups if groups < images else None,
            low=metrics["accuracy_low"],
            high=metrics["accuracy_high"],
        )

    @property
    def fraction(self) -> float:
        return self.correct / self.images

    @property
    def metrics(self) -> dict[str, float]:
        """The values that a run logs, by their keys in `METRICS`."""
        interval = {"accuracy_low": self.low, "accuracy_high": self.high}
        groups = self.groups or self.images
        return {"accuracy": self.fraction, **interval, "images": self.images, "groups": groups}

    @property
    def in_table(self) -> str:
        """Percentage and interval for a cell of a table, such as "97.3 (94.7–98.6)"."""
        return f"{100 * self.fraction:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def __str__(self) -> str:
        interval = f"95 % interval {100 * self.low:.1f}–{100 * self.high:.1f}"
        groups = f" of {self.groups:,} groups" if self.groups else ""
        return f"{100 * self.fraction:.1f} % ({interval}, {self.images:,} images{groups})"

    def compute_drop(self, earlier: "Accuracy") -> tuple[float, float]:
        """Return the ends of the 95 % interval of `earlier` minus this accuracy, on other images; -1..1.

        Newcombe, "Interval estimation for the difference between independent proportions: comparison of
        eleven methods", Statist. Med. 17 (1998), method 10.
        """
        drop = earlier.fraction - self.fraction
        return (
            drop - hypot(earlier.fraction - earlier.low, self.high - self.fraction),
            drop + hypot(earlier.high - earlier.fraction, self.fraction - self.low),
        )
