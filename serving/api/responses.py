"""Contents of the responses of `/predict` and `/info`."""

import base64
from datetime import datetime
from typing import Any

import numpy as np

from relearn.model.images.decode import encode_png
from relearn.model.inference.model_card import ModelCard
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.predict_options import PredictOptions
from relearn.serving.runtime.hot_reload import ServedModel

Prediction = dict[str, str | dict[str, float] | None]
NO_CONTENT = "no_content"  # reason for no answer: a drawing without ink
LIMIT_SETTINGS = ("max_body_bytes", "max_images", "max_concurrency", "timeout_seconds")


def build_predictions(
    images: np.ndarray,
    labels: list[str],
    probabilities: np.ndarray,
    is_blank: np.ndarray,
    classes: tuple[str, ...],
    options: PredictOptions,
) -> list[Prediction]:
    """Build the prediction of each image: label, and probabilities by class name.

    `probabilities` is float32 (n, classes). The result has all classes in their order or, with `top_k`, the
    most likely classes in descending order. An image of `is_blank`, bool (n,), has no label and no
    probabilities, but the reason.
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
    for index in np.flatnonzero(is_blank):
        predictions[index] = {"label": None, "reason": NO_CONTENT, "probabilities": None}
    if options.return_input:
        for prediction, image in zip(predictions, images, strict=True):
            prediction["input"] = base64.b64encode(encode_png(image)).decode()
    return predictions


def build_info_response(
    served_model: ServedModel | None, serving_since: datetime, config: ServeConfig
) -> dict[str, Any]:
    """Build the response of `/info`, without workers: version, classifier and limits."""
    return {
        "version": served_model.version if served_model else None,
        "serving_since": serving_since.isoformat(timespec="milliseconds") if served_model else None,
        "classifier": describe_classifier(served_model.classifier.card) if served_model else None,
        "limits": {name: getattr(config, name) for name in LIMIT_SETTINGS},
    }


def describe_classifier(card: ModelCard) -> dict[str, Any]:
    """Return the fields of a model card that `/info` shows."""
    return {
        "dataset": card.dataset,
        "network": card.config.network,
        "parameters": card.parameters,
        "shape": card.shape,
        "style": card.style,
        "classes": card.classes,
        "metrics": card.metrics,
        "fingerprint": card.fingerprint,
        "torch": card.torch,
    }
