"""The Open Inference Protocol v2 over real HTTP, as KServe's clients speak it."""

from typing import Any

import httpx
import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier

URL = "/v2/models/digits/infer"


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
        ({"data": ["1"] * 3 * 784}, 422, "out_of_range"),
        ({"datatype": "FP32", "data": [0.5] * 3 * 784}, 422, "not_whole"),
        ({"datatype": "FP32", "data": [1.0] * 3 * 784}, 422, "not_whole"),
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

    assert (415, "unsupported_media_type") == (binary.status_code, binary.json()["error"]["code"])
    assert 404 == other.status_code
    assert "accepted: digits" in other.json()["error"]["message"]


def test_server_and_model_describe_themselves(client: httpx.Client):
    """Health, server and model metadata have the fields of the protocol."""
    assert [200, 200] == [client.get(f"/v2/health/{state}").status_code for state in ("live", "ready")]
    assert {"name", "version", "extensions"} == set(client.get("/v2").json())
    model = client.get("/v2/models/digits").json()
    assert ("digits", ["3"]) == (model["name"], model["versions"])
    assert [{"name": "images", "datatype": "UINT8", "shape": [-1, 1, 28, 28]}] == model["inputs"]
