"""The reply to images: what each is taken for, and how much of it a client wants to be told."""

import base64

import numpy as np

from relearn.model.images import png
from relearn.serving.query import Query

Prediction = dict[str, str | dict[str, float]]


def predictions(
    images: np.ndarray,
    labels: list[str],
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    query: Query,
) -> list[Prediction]:
    """For each image its label and its row of `probabilities`, float32 (n, classes), by class name.

    All of them in the order of the classes, or the most likely ones, the greatest first.
    """
    rows = probabilities.astype(np.float64).round(8).tolist()
    if query.most is None:
        named = [dict(zip(classes, row, strict=True)) for row in rows]
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : query.most].tolist()
        named = [
            {classes[index]: row[index] for index in chosen} for row, chosen in zip(rows, order, strict=True)
        ]
    told: list[Prediction] = [
        {"label": label, "probabilities": one} for label, one in zip(labels, named, strict=True)
    ]
    if query.seen:
        for one, image in zip(told, images, strict=True):
            one["seen"] = base64.b64encode(png(image)).decode()
    return told
