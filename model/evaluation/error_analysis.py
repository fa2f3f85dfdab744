"""Every image the classifier got wrong, as a table, and which of their labels may be wrong instead."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

# A label is suspected when the classifier is at least this sure of another class: the usual confidence
# in that class, which `suspected` asks for too, may be low in a network that knows little.
MIN_CONFIDENCE = 0.95

# And when it leaves the given label less than this: where an image is merely hard, some probability
# stays there. With 1 % of MNIST's test labels changed at random, an mlp of 98.4 % accuracy finds 96 % of
# them, and 88 % of what it suspects was changed (at 0.01: 96 % and 79 %); an mlp of 96.7 % on digits
# finds 77 %, and nothing else (79 % and 85 %). Means of 10 draws.
MAX_LABEL_PROBABILITY = 0.002


def find_misclassified(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """One row for each image whose most probable class is not its label, the surest mistakes first.

    `probabilities` float (n, classes), `labels` int (n,). Columns: `index` (position in the split),
    `label` and `predicted` (class names), `confidence` (probability of `predicted`),
    `label_probability` (of `label`), `margin` (the difference of the two, 0..1; ties come in the order
    of `index`) and `label_issue` (see `suspected`).
    """
    predicted = probabilities.argmax(axis=1)
    wrong_indices = np.flatnonzero(predicted != labels)
    class_names = np.asarray(classes, dtype=object)
    confidence = probabilities[wrong_indices, predicted[wrong_indices]].astype(float)
    label_probability = probabilities[wrong_indices, labels[wrong_indices]].astype(float)
    table = pd.DataFrame(
        {
            "index": wrong_indices,
            "label": class_names[labels[wrong_indices]],
            "predicted": class_names[predicted[wrong_indices]],
            "confidence": confidence,
            "label_probability": label_probability,
            "margin": confidence - label_probability,
            "label_issue": find_label_issues(probabilities, labels)[wrong_indices],
        }
    )
    return table.sort_values("margin", ascending=False, kind="stable", ignore_index=True)


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each image's label looks wrong: bool (n,).

    True where another class has at least `CONFIDENT` and at least its usual confidence, and the given
    label has less than `IMPLAUSIBLE`. The usual confidence in a class is the mean probability it has on
    the images labelled with it, the threshold of confident learning: Northcutt, Jiang and Chuang,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021, equation 2. A network
    that is far over-confident suspects too much; its calibration error tells.
    """
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(labels))
    confidence = probabilities[rows, predicted]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    label_probability_sums = np.bincount(
        labels, weights=probabilities[rows, labels], minlength=probabilities.shape[1]
    )
    class_thresholds = label_probability_sums / np.maximum(counts, 1)
    is_confident = (confidence >= MIN_CONFIDENCE) & (confidence >= class_thresholds[predicted])
    return np.asarray(
        (predicted != labels) & is_confident & (probabilities[rows, labels] < MAX_LABEL_PROBABILITY)
    )
