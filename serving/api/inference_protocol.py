"""The Open Inference Protocol v2, which the clients of KServe and Triton speak: its JSON form.

A request has one tensor with any name: pixels 0–255, UINT8 or FP32, of the shape (n, ...) of n images. The
response has `probabilities`, FP32 (n, classes), and `labels`, BYTES (n). Its binary form is not accepted.
"""

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct

from relearn.model.errors import UserInputError
from relearn.model.inference.model_card import ModelCard
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.input_spec import InputSpec, format_shape

PLATFORM = "relearn"
_TENSOR_HINT = 'accepted: one input with "name", "shape", "datatype" UINT8 or FP32, and "data", as JSON'


class InputTensor(Struct):
    """Pixels 0–255 of n images, flat or nested; `shape` is (n, ...)."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=1, lt=2**31)]], Meta(min_length=2, max_length=4)]
    datatype: Literal["UINT8", "FP32"]
    data: Raw


class InferRequest(Struct):
    """Request of the protocol: a tensor of images."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str = ""


class TensorMetadata(Struct):
    """Name, type and shape of a tensor; -1 is any number of images."""

    name: str
    datatype: str
    shape: list[int]


class OutputTensor(TensorMetadata):
    """A tensor with its values."""

    data: list[Any]


class InferResponse(Struct):
    """Probabilities and labels of the images, in their order."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


class ModelMetadata(Struct):
    """The live version, and its input and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Struct):
    """Name and version of the server; it has no extensions."""

    name: str
    version: str
    extensions: list[str]


_REQUEST_DECODER = msgspec.json.Decoder(InferRequest)
_PIXELS_DECODER = msgspec.json.Decoder(list[Annotated[float, Meta(ge=0, le=255)]])


def check_model_name(name: str, card: ModelCard) -> None:
    """Raise `HTTPError` 404 for another name than that of the classifier's dataset."""
    if name != card.dataset:
        raise HTTPError(404, "not_found", f"model: got an unknown name, accepted: {card.dataset}")


def describe_model(card: ModelCard, version: str) -> ModelMetadata:
    """Build the response of `/v2/models/NAME`."""
    outputs = [
        TensorMetadata("probabilities", "FP32", [-1, len(card.classes)]),
        TensorMetadata("labels", "BYTES", [-1]),
    ]
    return ModelMetadata(
        card.dataset, [version], PLATFORM, [TensorMetadata("images", "UINT8", [-1, *card.shape])], outputs
    )


def parse_infer_request(body: bytes, input_spec: InputSpec) -> tuple[str, np.ndarray]:
    """Parse the id of a request and its images, uint8 (n, channels, height, width)."""
    try:
        request = _REQUEST_DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise UserInputError(f"body: {error}, {_TENSOR_HINT}", "wrong_type") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HTTPError(400, "invalid_json", f"body: no valid JSON, {_TENSOR_HINT}") from None
    (tensor,) = request.inputs
    image_count, *image_shape = tensor.shape
    input_spec.check_image_count(image_count)
    if tuple(image_shape) not in input_spec.accepted_shapes:
        accepted = " or ".join(f"n × {format_shape(shape)}" for shape in input_spec.accepted_shapes)
        raise UserInputError(
            f"shape: got {format_shape(tuple(tensor.shape))}, accepted: {accepted}", "wrong_shape"
        )
    input_spec.check_value_count(bytes(tensor.data).count(b",") + 1)
    try:  # nested lists hold the same numbers in the same order as a flat one
        numbers = np.array(_PIXELS_DECODER.decode(b"[" + bytes(tensor.data).translate(None, b"[]") + b"]"))
    except msgspec.MsgspecError:
        raise UserInputError("data: accepted: lists of integers 0–255", "out_of_range") from None
    if len(numbers) != math.prod(tensor.shape):
        message = f"data: got {len(numbers)} numbers, accepted: {math.prod(tensor.shape)}, as the shape says"
        raise UserInputError(message, "wrong_shape")
    if (numbers % 1).any() or (tensor.datatype == "FP32" and 0 < numbers.max() <= 1):
        raise UserInputError("data: got scaled pixels, accepted: integers 0–255, not scaled", "not_whole")
    return request.id, numbers.astype(np.uint8).reshape(image_count, *input_spec.shape)


def build_infer_response(
    request_id: str, card: ModelCard, version: str, labels: list[str], probabilities: np.ndarray
) -> InferResponse:
    """Build the response; `probabilities` is float32 (n, classes)."""
    values = probabilities.astype(np.float64).round(8).ravel().tolist()
    return InferResponse(
        card.dataset,
        version,
        request_id,
        [
            OutputTensor("probabilities", "FP32", list(probabilities.shape), values),
            OutputTensor("labels", "BYTES", [len(labels)], labels),
        ],
    )
