"""Responses of the API: their types, which are encoded as JSON and described in the OpenAPI document."""

import base64
from datetime import datetime
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from relearn.model.images.decode import encode_png
from relearn.model.images.resize import ImageStyle
from relearn.model.inference.model_card import ModelCard
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.input_spec import NO_CONTENT
from relearn.serving.inputs.predict_options import PredictOptions
from relearn.serving.predictions.feedback import ImageState
from relearn.serving.runtime.hot_reload import ServedModel

Count = Annotated[int, Meta(ge=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
NoAnswerReason = Literal["no_content"]


class Prediction(Struct):
    """Label of one image and probabilities by class, or the reason for no answer.

    `input` with `return_input=true` only.
    """

    label: str | None
    probabilities: dict[str, Probability] | None
    reason: (
        Annotated[NoAnswerReason, Meta(description="Why the label is null: nothing is drawn there.")]
        | UnsetType
    ) = UNSET
    input: (
        Annotated[str, Meta(description="The image as the network received it: a PNG in base64.")] | UnsetType
    ) = UNSET


class Predictions(Struct):
    """Predictions of all images, in their order."""

    version: str
    worker: Count
    request_id: str
    predictions: list[Prediction]


class FeedbackReceipt(Struct):
    """The correction is saved, even if the prediction was not logged."""

    worker: Count
    request_id: str
    image: Annotated[
        ImageState,
        Meta(
            description="kept: sent with the feedback. sampled: logged with the prediction, if it was logged."
        ),
    ]
    note: str


class LoadError(Struct):
    """A release that failed to load."""

    version: str
    reason: str


class Worker(Struct):
    """Status of one worker process."""

    worker: Count
    pid: Count
    version: str | None
    serving_since: Timestamp
    load_error: LoadError | None


class ServedClassifier(Struct):
    """The fields of a model card that clients see."""

    dataset: str
    network: str
    parameters: Count
    shape: tuple[Count, Count, Count]
    style: ImageStyle
    scale: Count
    file_scale: Count | None
    classes: tuple[str, ...]
    metrics: dict[str, float]
    fingerprint: str
    torch: str

    @classmethod
    def from_card(cls, card: ModelCard) -> "ServedClassifier":
        """Take the fields from a model card."""
        names = set(cls.__struct_fields__) - {"network", "torch"}
        values = {name: getattr(card, name) for name in names}
        return cls(network=card.config.network, torch=str(card.torch), **values)  # torch has its own str


class Limits(Struct):
    """Limits of a request."""

    max_body_bytes: Count
    max_images: Count
    max_concurrency: Count
    timeout_seconds: Annotated[float, Meta(gt=0)]


class Info(Struct):
    """The live version, its classifier, all workers, and the limits of a request."""

    worker: Count
    version: str | None
    serving_since: Timestamp | None
    classifier: ServedClassifier | None
    workers: list[Worker]
    limits: Limits


def build_json_response(content: Struct | dict[str, object]) -> Response:
    """Encode the content of a response as JSON."""
    return Response(msgspec.json.encode(content), media_type="application/json")


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
    predictions = list(map(Prediction, labels, class_probabilities))
    for index in np.flatnonzero(is_blank):
        predictions[index] = Prediction(None, None, NO_CONTENT)
    if options.return_input:
        for prediction, image in zip(predictions, images, strict=True):
            prediction.input = base64.b64encode(encode_png(image)).decode()
    return predictions


def build_info(
    served_model: ServedModel | None,
    serving_since: datetime,
    config: ServeConfig,
    worker_index: int,
    workers: list[Worker],
) -> Info:
    """Build the response of `/info`; without a model, that of a server before its first release."""
    return Info(
        worker=worker_index,
        version=served_model.version if served_model else None,
        serving_since=serving_since.isoformat(timespec="milliseconds") if served_model else None,
        classifier=ServedClassifier.from_card(served_model.classifier.card) if served_model else None,
        workers=workers,
        limits=Limits(**{name: getattr(config, name) for name in Limits.__struct_fields__}),
    )
