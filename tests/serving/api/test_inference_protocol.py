"""The Open Inference Protocol v2 over real HTTP, as KServe's clients speak it."""

import codecs
import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.model.errors import UserInputError
from relearn.model.images.scale import scale_to_uint8
from relearn.model.inference.classifier import Classifier
from relearn.serving.api.inference_protocol import list_datatypes, parse_infer_request
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.input_spec import InputSpec

URL = "/v2/models/digits/infer"
DATATYPES = ["UINT8", "UINT16", "FP32", "FP64"]
SHAPES = [(2, 48), (2, 6, 8), (2, 1, 6, 8)]
OTHER_NESTINGS = [(48, 2), (1, 96), (2, 8, 6), (2, 6, 8, 1), (96, 1)]


def build_tensor(images: np.ndarray, datatype: str = "UINT8", **changes: object) -> dict[str, Any]:
    tensor = {"name": "x", "shape": list(images.shape), "datatype": datatype, "data": images.ravel().tolist()}
    return {"id": "job-7", "inputs": [tensor | changes]}


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("shape", [(3, 784), (3, 28, 28), (3, 1, 28, 28)])
def test_inference_equals_classifier_predict(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, datatype: str, shape: tuple[int, ...]
):
    """Flat and nested tensors of three images return probabilities and labels of `Classifier.predict`."""
    expected = classifier.predict(images[:3])
    batch = images[:3].reshape(shape).astype(np.uint8 if datatype == "UINT8" else np.float32)
    for data in (batch.ravel().tolist(), batch.tolist()):
        response = client.post(URL, json=build_tensor(batch, datatype, data=data))

        assert 200 == response.status_code, response.text
        assert ("digits", "3", "job-7") == tuple(
            response.json()[key] for key in ("model_name", "model_version", "id")
        )
        probabilities, labels = response.json()["outputs"]
        assert ("probabilities", "FP32", [3, 10]) == tuple(
            probabilities[key] for key in ("name", "datatype", "shape")
        )
        assert np.allclose(expected.ravel(), probabilities["data"], atol=1e-5)
        assert ("labels", "BYTES", [3], classifier.to_labels(expected)) == tuple(labels.values())


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"datatype": "INT64"}, 422, "wrong_type"),
        ({"shape": [3]}, 422, "wrong_type"),
        ({"shape": [3, 27, 28]}, 422, "wrong_shape"),
        ({"shape": [2, 784]}, 422, "wrong_shape"),
        ({"shape": [65, 784]}, 413, "batch_too_large"),
        ({"data": [256] * 3 * 784}, 422, "out_of_range"),
        ({"data": ["1"] * 3 * 784}, 422, "wrong_type"),
        ({"data": [[1], [2]]}, 422, "wrong_shape"),
        ({"data": [[0] * 784, [0] * 783, [0]]}, 422, "wrong_shape"),
        ({"data": [7.5] * 3 * 784}, 422, "not_whole"),
        ({"data": [1] * 3 * 784}, 422, "ambiguous_scale"),
        ({"datatype": "FP32", "data": [0.5] * 3 * 784}, 422, "ambiguous_scale"),
        ({"datatype": "FP32", "data": [1.0] * 3 * 784}, 422, "ambiguous_scale"),
        ({"data": [5] * 3 * 784}, 422, "no_content"),
    ],
)
def test_other_tensors_are_rejected(
    client: httpx.Client, images: np.ndarray, changes: dict[str, Any], status: int, code: str
):
    """Other types, shapes and values are rejected with their status and code."""
    response = client.post(URL, json=build_tensor(images[:3], **changes))

    assert (status, code) == (response.status_code, response.json()["error"]["code"]), response.text


def test_binary_tensor_and_other_model_are_rejected(client: httpx.Client, images: np.ndarray):
    """The binary form gets 415, another model's name 404 with the accepted name."""
    binary = client.post(URL, content=b"x", headers={"content-type": "application/octet-stream"})
    other = client.post("/v2/models/other/infer", json=build_tensor(images[:1]))

    headers = {"content-type": "application/octet-stream", "inference-header-content-length": "1"}
    of_triton = client.post(URL, content=b"x", headers=headers)

    for response in (binary, of_triton):
        assert (415, "unsupported_media_type") == (response.status_code, response.json()["error"]["code"])
    assert "Triton's client sends with binary_data=False" in of_triton.json()["error"]["message"]
    assert 404 == other.status_code
    assert "accepted: digits" in other.json()["error"]["message"]


def test_server_and_model_describe_themselves(client: httpx.Client):
    """Health, server and model metadata have the fields of the protocol."""
    assert [200, 200] == [client.get(f"/v2/health/{state}").status_code for state in ("live", "ready")]
    assert [200, 404] == [client.get(f"/v2/models/{name}/ready").status_code for name in ("digits", "other")]
    assert {"name", "version", "extensions"} == set(client.get("/v2").json())
    model = client.get("/v2/models/digits").json()
    assert ("digits", ["3"]) == (model["name"], model["versions"])
    assert [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}] == model["inputs"]


def test_requested_outputs_are_returned(client: httpx.Client, images: np.ndarray):
    """The response has the requested outputs; another name is rejected with those that exist."""
    request = build_tensor(images[:1])
    body = codecs.BOM_UTF8 + json.dumps(request | {"outputs": [{"name": "labels"}]}).encode()

    response = client.post(URL, content=body)  # without a media type, as /predict accepts it
    other = client.post(URL, json=request | {"outputs": [{"name": "scores"}]})

    assert ["labels"] == [output["name"] for output in response.json()["outputs"]]
    assert 422 == other.status_code
    assert "accepted: probabilities or labels" in other.json()["error"]["message"]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from([None, *SHAPES, *OTHER_NESTINGS]),
    st.sampled_from(DATATYPES),
    st.sampled_from([1, 16, 255, 4095, 65_535]),
)
def test_tensor_is_read_exactly_or_rejected(
    seed: int, shape: tuple[int, ...], nesting: tuple[int, ...] | None, datatype: str, white: int
):
    """Data are flat or nested as the shape says, in a type that can hold the classifier's white."""
    numbers = np.random.default_rng(seed).integers(0, white + 1, 96)
    data = numbers.reshape(nesting or (96,)).tolist()
    body = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]})
    spec = InputSpec((1, 6, 8), "mnist", 4, white)
    if datatype in list_datatypes(white) and nesting in (None, shape):
        expected = scale_to_uint8(numbers, white).reshape(2, 1, 6, 8)
        assert np.array_equal(expected, parse_infer_request(body.encode(), spec)[1])
    else:
        with pytest.raises(UserInputError):
            parse_infer_request(body.encode(), spec)


@given(st.sampled_from(["id", "inputs", "name", "shape", "datatype", "data"]), st.booleans())
def test_member_that_stands_twice_is_rejected(name: str, is_first: bool):
    """A member that stands twice with two values is rejected, as by `/predict`."""
    spec = InputSpec((1, 6, 8), "mnist", 4, 255)
    request = build_tensor(np.arange(96).reshape(2, 1, 6, 8))
    others = {"id": "a", "inputs": request["inputs"], "name": "a", "shape": [2, 48], "datatype": "FP32"}
    value, body = json.dumps(others.get(name, [7])), json.dumps(request)
    parse_infer_request(body.encode(), spec)
    start = body.index(f'"{name}"')
    end = body.rindex("}", 0, len(body) if name in ("id", "inputs") else body.rindex("]"))
    doubled = (
        f'{body[:start]}"{name}": {value}, {body[start:]}'
        if is_first
        else f'{body[:end]}, "{name}": {value}{body[end:]}'
    )

    with pytest.raises(HTTPError, match="got a member twice"):
        parse_infer_request(doubled.encode(), spec)
