"""Metrics of a classifier on a split, from its probabilities and the labels.

A new metric needs two entries: its value in `Evaluation.metrics`, its direction and description in `METRICS`.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from relearn.model.errors import DataError
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.error_analysis import find_misclassified
from relearn.model.evaluation.groups import Groups, number_groups

if TYPE_CHECKING:
    from relearn.model.data.dataset import LabelledImages
    from relearn.model.inference.classifier import Classifier

# As Guo et al. (2017) and most published figures. The ECE depends on the number of bins.
CALIBRATION_BINS = 15

# Larger gaps are reported as overfitting. 1 to 2 points are normal on digits, and two standard errors of an
# accuracy near 95 % are 2.5 points on 300 validation images. The limit is twice that.
MAX_GAP = 0.05


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of a classifier on a split, with all metrics.

    `probabilities` float32 (n, classes), rows in 0..1 that sum to 1; `labels` int64 (n,), each below
    the number of `classes`; `groups` int (n,), None if each image stands alone. Raises `DataError` for
    invalid labels; `Classifier.predict` has checked the probabilities.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: Groups = None

    def __post_init__(self) -> None:
        _check_labels(self.labels, len(self.classes))
        shape = len(self.labels), len(self.classes)
        if self.probabilities.shape != shape:
            raise DataError(
                f"probabilities: got shape {self.probabilities.shape}, accepted: {shape} (n, classes)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Most probable class of each image, int64 (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float64 (n,)."""
        return np.asarray(self.probabilities.max(axis=1), dtype=float)

    @cached_property
    def correct(self) -> np.ndarray:
        """Mask of the images whose predicted class is their label, bool (n,)."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def accuracy(self) -> float:
        """Fraction of images whose predicted class is their label, 0..1."""
        return float(self.correct.mean())

    @cached_property
    def accuracy_with_interval(self) -> Accuracy:
        """The same with its confidence interval and the number of images and groups."""
        return Accuracy.from_images(self.correct, self.groups)

    @cached_property
    def image_losses(self) -> np.ndarray:
        """Categorical cross-entropy of each image in nats, -ln p(label), float64 (n,).

        Probabilities are clipped to the smallest normal float32, 1.2e-38. An image costs at most 87.3 nats
        instead of infinity; below that the loss equals the one computed from logits.
        """
        label_probabilities = self.probabilities[np.arange(len(self)), self.labels].astype(float)
        return np.asarray(np.log(1 / np.clip(label_probabilities, np.finfo(np.float32).tiny, 1)))

    @cached_property
    def loss(self) -> float:
        """Mean of `image_losses`."""
        return float(self.image_losses.mean())

    @cached_property
    def class_report(self) -> pd.DataFrame:
        """Table of classes: `class` (its name), `precision`, `recall`, `f1` (0..1), `support` (images).

        A class that is never predicted has precision 0. A class without images in this split has NaN, so
        the means over classes skip it.
        """
        correct, support = self.confusion_matrix.diagonal(), self.confusion_matrix.sum(axis=1)
        predicted = self.confusion_matrix.sum(axis=0)
        report = pd.DataFrame(
            {
                "class": self.classes,
                "precision": correct / np.maximum(predicted, 1),
                "recall": correct / np.maximum(support, 1),
                "f1": 2 * correct / np.maximum(predicted + support, 1),
            }
        )
        report.loc[support == 0, ["precision", "recall", "f1"]] = np.nan
        return report.assign(support=support)

    @cached_property
    def confusion_matrix(self) -> np.ndarray:
        """Number of images by label (rows) and predicted class (columns), int64 (classes, classes).

        scikit-learn, which computes the same, would take a second to import in every training.
        """
        classes = len(self.classes)
        cells = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(cells, minlength=classes**2).reshape(classes, classes)

    @cached_property
    def calibration_curve(self) -> pd.DataFrame:
        """Accuracy by confidence, in 15 bins of equal width.

        Bin m of M holds the confidences in ((m - 1)/M, m/M]. Columns: `lower`, `upper`, `count`,
        `confidence` (mean) and `accuracy`; the last two are NaN in an empty bin.
        """
        bin_index = np.clip(
            np.ceil(self.confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1
        )
        images = pd.DataFrame({"confidence": self.confidence, "accuracy": self.correct.astype(float)})
        table = images.groupby(bin_index).mean().reindex(range(CALIBRATION_BINS))
        table.insert(0, "lower", np.arange(CALIBRATION_BINS) / CALIBRATION_BINS)
        table.insert(1, "upper", np.arange(1, CALIBRATION_BINS + 1) / CALIBRATION_BINS)
        table.insert(2, "count", np.bincount(bin_index, minlength=CALIBRATION_BINS))
        return table

    @cached_property
    def ece(self) -> float:
        """Expected calibration error of the predicted class, 0..1.

        Sum over the bins of |B|/n · |accuracy(B) - confidence(B)|: Guo, Pleiss, Sun and Weinberger,
        "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
        """
        gaps = (self.calibration_curve["accuracy"] - self.calibration_curve["confidence"]).abs()
        return float((gaps * self.calibration_curve["count"]).sum() / len(self))

    @cached_property
    def misclassified(self) -> pd.DataFrame:
        """Table of `find_misclassified` for this split."""
        return find_misclassified(self.probabilities, self.labels, self.classes)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics that a run logs, by their keys in `METRICS`; `_macro` is the unweighted class mean."""
        means = self.class_report[["f1", "precision", "recall"]].mean()
        macro = {f"{name}_macro": float(mean) for name, mean in means.items()}
        return {"loss": self.loss, **self.accuracy_with_interval.metrics, **macro, "ece": self.ece}


def evaluate(classifier: "Classifier", split: "LabelledImages") -> Evaluation:
    """Predict the images of the split once, and return the evaluation."""
    probabilities, labels = classifier.predict(split.images), np.asarray(split.labels)
    return Evaluation(probabilities, labels, classifier.card.classes, number_groups(split.groups))


@dataclass(frozen=True)
class GeneralizationGap:
    """Training accuracy minus validation accuracy, and training minus test accuracy; each -1..1."""

    validation: float
    test: float

    @property
    def warning(self) -> str | None:
        """Return a line if a gap exceeds `MAX_GAP`, else None."""
        gaps = {"validation": self.validation, "test": self.test}
        messages = [f"{100 * gap:.1f} points above {split}" for split, gap in gaps.items() if gap > MAX_GAP]
        if not messages:
            return None
        return (
            f"training accuracy is {' and '.join(messages)} (limit {100 * MAX_GAP:.0f}): the network "
            "overfits; try more images, dropout, weight_decay or a smaller network"
        )


def compute_generalization_gap(
    train_accuracy: float, val_accuracy: float, test_accuracy: float
) -> GeneralizationGap:
    """Compute the gap of the weights that are kept.

    Training accuracy of an epoch is measured while the weights change, with dropout, so in a steep first
    epoch the gap is smaller, even negative.
    """
    return GeneralizationGap(train_accuracy - val_accuracy, train_accuracy - test_accuracy)


def _check_labels(labels: np.ndarray, classes: int) -> None:
    if labels.ndim != 1 or len(labels) == 0:
        raise DataError(f"labels: got shape {labels.shape}, accepted: (n,) with n >= 1")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels: got {labels.dtype}, accepted: integers")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels: got {labels.min()}..{labels.max()}, "
            f"accepted: 0..{classes - 1}, the classes of the classifier"
        )


class Metric(NamedTuple):
    """A metric: the direction that is better, and its description in a sentence."""

    direction: Literal["max", "min"]
    help: str


def get_metric(key: str) -> Metric | None:
    """Return the metric of a logged key, None for an unknown key.

    `loss`, `epoch/val_loss` and `test/loss` are the same metric.
    """
    return METRICS.get(re.sub("^((best|epoch|test)/)?((train|val)_)?", "", key))


METRICS: dict[str, Metric] = {
    "accuracy": Metric("max", "Fraction of images whose most probable class is their label."),
    "accuracy_low": Metric("max", "Lower end of the 95 % interval of the accuracy (Wilson)."),
    "accuracy_high": Metric("max", "Upper end of the 95 % interval of the accuracy."),
    "images": Metric("max", "Number of images that the accuracy was measured on."),
    "groups": Metric("max", "Number of groups of images; the same as images if each stands alone."),
    "loss": Metric("min", "Categorical cross-entropy in nats per image; confident errors cost most."),
    "f1_macro": Metric("max", "Harmonic mean of precision and recall, mean over the classes."),
    "precision_macro": Metric(
        "max", "Fraction of the predictions of a class that are correct, mean over the classes."
    ),
    "recall_macro": Metric(
        "max", "Fraction of the images of a class that are predicted correctly, mean over the classes."
    ),
    "ece": Metric("min", "Expected calibration error: mean |accuracy - confidence| over 15 bins."),
    "generalization_gap": Metric(
        "min", "Training accuracy at the best epoch minus accuracy on validation or test images."
    ),
}
