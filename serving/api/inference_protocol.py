"""The Open Inference Protocol v2, which the clients of KServe and Triton speak: its JSON form.

A request has one tensor with any name, of the shape (n, ...) of n images, whose numbers are those that
`/predict` reads. The response has `probabilities`, FP32 (n, classes), and `labels`, BYTES (n). The binary
form is not accepted.
"""

import codecs
import math
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from starlette.requests import Request

from relearn.model.errors import UserInputError
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.inference.model_card import ModelCard
from relearn.serving.http.errors import HTTPError
from relearn.serving.http.requests import get_header_values
from relearn.serving.inputs.input_spec import InputSpec, format_shape
from relearn.serving.inputs.parse_json import (
    check_unique_members,
    decode_numbers,
    is_ambiguous,
    syntax_errors,
    to_uint8,
)

PLATFORM = "relearn"
OUTPUT_NAMES = ("probabilities", "labels")
_TENSOR_HINT = 'accepted: one input with "name", "shape", "datatype" and "data", as JSON'


class InputTensor(Struct):
    """Pixels of n images, flat or nested; `shape` is (n, ...)."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=1, lt=2**31)]], Meta(min_length=2, max_length=4)]
    datatype: str
    data: Raw


class RequestedOutput(Struct):
    """Name of an output that the response shall have."""

    name: str


class InferRequest(Struct):
    """Request of the protocol: a tensor of images; without `outputs` the response has all."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: str = ""
    outputs: list[RequestedOutput] = []


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


def check_model_name(name: str, card: ModelCard) -> None:
    """Raise `HTTPError` 404 for another name than that of the model."""
    if name != card.name:
        raise HTTPError(404, "not_found", f"model: got an unknown name, accepted: {card.name}")


def check_no_binary_tensors(request: Request) -> None:
    """Raise `HTTPError` 415 for a request in the protocol's binary form, the default of Triton's client."""
    if get_header_values(request, b"inference-header-content-length"):
        message = (
            "body: got binary tensors, accepted: JSON, which Triton's client sends with binary_data=False"
        )
        raise HTTPError(415, "unsupported_media_type", message)


def list_datatypes(white: int) -> list[str]:
    """Return the datatypes of numbers from 0 to `white`, the usual one first.

    Numbers of another integer type would have another white: a UINT8 tensor is no image of 16 bits.
    """
    return ["FP32"] if white == 1 else ["UINT8" if white <= BYTE_WHITE else "UINT16", "FP32"]


def describe_model(card: ModelCard, version: str) -> ModelMetadata:
    """Build the response of `/v2/models/NAME`."""
    outputs = [
        TensorMetadata("probabilities", "FP32", [-1, len(card.classes)]),
        TensorMetadata("labels", "BYTES", [-1]),
    ]
    return ModelMetadata(
        card.name,
        [version],
        PLATFORM,
        [TensorMetadata("images", list_datatypes(card.scale)[0], [-1, *card.shape])],
        outputs,
    )


def parse_infer_request(body: bytes, input_spec: InputSpec) -> tuple[InferRequest, np.ndarray]:
    """Parse a request and its images, uint8 (n, channels, height, width)."""
    body = body.removeprefix(codecs.BOM_UTF8)
    with syntax_errors(body):
        try:
            request = _REQUEST_DECODER.decode(body)
        except msgspec.ValidationError as error:
            raise UserInputError(f"body: {error}, {_TENSOR_HINT}", "wrong_type") from None
        check_unique_members(body, bytes(request.inputs[0].data))
        if not {output.name for output in request.outputs} <= {*OUTPUT_NAMES}:
            message = f"outputs: got another name, accepted: {' or '.join(OUTPUT_NAMES)}"
            raise UserInputError(message, "unknown_field")
        return request, _parse_tensor(request.inputs[0], input_spec)


def _parse_tensor(tensor: InputTensor, input_spec: InputSpec) -> np.ndarray:
    datatypes = list_datatypes(input_spec.scale)
    if tensor.datatype not in datatypes:
        message = f"datatype: got another one, accepted: {' or '.join(datatypes)}"
        raise UserInputError(message, "wrong_type")
    image_count, *image_shape = tensor.shape
    input_spec.check_image_count(image_count)
    if tuple(image_shape) not in input_spec.accepted_shapes:
        accepted = " or ".join(f"n × {format_shape(shape)}" for shape in input_spec.accepted_shapes)
        raise UserInputError(
            f"shape: got {format_shape(tuple(tensor.shape))}, accepted: {accepted}", "wrong_shape"
        )
    numbers = decode_numbers(bytes(tensor.data), input_spec.scale, input_spec)
    flat_shape = (math.prod(tensor.shape),)
    if numbers.shape not in (flat_shape, tuple(tensor.shape)):
        raise UserInputError(
            f"data: got {format_shape(numbers.shape)} numbers, accepted: {flat_shape[0]} or"
            f" {format_shape(tuple(tensor.shape))}, as the shape says",
            "wrong_shape",
        )
    if is_ambiguous(numbers, input_spec.scale):
        message = f"data: got only numbers from 0 to 1, accepted: {input_spec.accepted_values}, not scaled"
        raise UserInputError(message, "ambiguous_scale")
    return to_uint8(numbers, input_spec.scale).reshape(image_count, *input_spec.shape)


def build_infer_response(
    request: InferRequest,
    request_id: str,
    card: ModelCard,
    version: str,
    labels: list[str],
    probabilities: np.ndarray,
) -> InferResponse:
    """Build the response with the requested outputs; `probabilities` is float32 (n, classes)."""
    values = probabilities.astype(np.float64).round(8).ravel().tolist()
    outputs = [
        OutputTensor("probabilities", "FP32", list(probabilities.shape), values),
        OutputTensor("labels", "BYTES", [len(labels)], labels),
    ]
    names = {output.name for output in request.outputs} or set(OUTPUT_NAMES)
    selected = [output for output in outputs if output.name in names]
    return InferResponse(card.name, version, request.id or request_id, selected)
