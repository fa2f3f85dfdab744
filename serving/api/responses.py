"""The reply to images: what each is taken for, and how much of it a client wants to be told."""

import base64

import numpy as np

from relearn.model.images.decode import encode_png
from relearn.serving.inputs.predict_options import PredictOptions

Prediction = dict[str, str | dict[str, float]]


def build_predictions(
    images: np.ndarray,
    labels: list[str],
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    options: PredictOptions,
) -> list[Prediction]:
    """For each image its label and its row of `probabilities`, float32 (n, classes), by class name.

    All of them in the order of the classes, or the most likely ones, the greatest first.
    """
    rows = probabilities.astype(np.float64).round(8).tolist()
    if options.top_k is None:
        class_probabilities = [dict(zip(classes, row, strict=True)) for row in rows]
    else:
        top_classes = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top_k].tolist()
        class_probabilities = [
            {classes[index]: row[index] for index in class_indices}
            for row, class_indices in zip(rows, top_classes, strict=True)
        ]
    predictions: list[Prediction] = [
        {"label": label, "probabilities": probability_by_class}
        for label, probability_by_class in zip(labels, class_probabilities, strict=True)
    ]
    if options.return_input:
        for prediction, image in zip(predictions, images, strict=True):
            prediction["input"] = base64.b64encode(encode_png(image)).decode()
    return predictions
