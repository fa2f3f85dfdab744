"""Accuracy on a sample of images, with its confidence interval."""

from collections.abc import Mapping
from math import hypot
from typing import Self

from pydantic import BaseModel

from relearn.model.evaluation.intervals import wilson_interval


class Accuracy(BaseModel, frozen=True):
    """Accuracy on a number of images; `low` and `high` are the ends of Wilson's 95 % interval, 0..1."""

    correct: int
    images: int
    low: float
    high: float

    @classmethod
    def from_counts(cls, correct: int, images: int) -> Self:
        low, high = wilson_interval(correct, images)
        return cls(correct=correct, images=images, low=float(low), high=float(high))

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> Self:
        """Restore the accuracy from the metrics of an evaluation, which hold `accuracy` and `images`."""
        return cls.from_counts(round(metrics["accuracy"] * metrics["images"]), int(metrics["images"]))

    @property
    def fraction(self) -> float:
        return self.correct / self.images

    @property
    def metrics(self) -> dict[str, float]:
        """The values that a run logs, by their keys in `METRICS`."""
        low, high = self.low, self.high
        return {"accuracy": self.fraction, "accuracy_low": low, "accuracy_high": high, "images": self.images}

    @property
    def in_table(self) -> str:
        """Percentage and interval for a cell of a table, such as "97.3 (94.7–98.6)"."""
        return f"{100 * self.fraction:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def __str__(self) -> str:
        interval = f"95 % interval {100 * self.low:.1f}–{100 * self.high:.1f}"
        return f"{100 * self.fraction:.1f} % ({interval}, {self.images:,} images)"

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
