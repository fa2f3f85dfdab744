"""An image gets one prediction in every format, alone or in a batch, over HTTP or offline."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier

Encode = Callable[..., bytes]


def flat_json(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    return client.post("/predict", json={"images": batch.reshape(len(batch), -1).tolist()}).json()


def nested_json(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    return client.post("/predict", json={"images": batch.tolist()}).json()


def base64_files(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    texts = [base64.b64encode(encoded(image)).decode() for image in batch]
    return client.post("/predict", json={"images": texts}).json()


def raw(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    headers = {"content-type": "application/octet-stream"}
    return client.post("/predict", content=batch.tobytes(), headers=headers).json()


def multipart(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    return client.post("/predict", files=[("file", encoded(image)) for image in batch]).json()


def png(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    """Send one request per image: an image file holds one image."""
    headers = {"content-type": "image/png"}
    responses = [client.post("/predict", content=encoded(image), headers=headers).json() for image in batch]
    return {"predictions": [prediction for response in responses for prediction in response["predictions"]]}


FORMATS = [flat_json, nested_json, base64_files, raw, multipart, png]


@pytest.mark.parametrize("size", [pytest.param(1, id="R54-1"), pytest.param(64, id="R55-64")])
@pytest.mark.parametrize("predict", FORMATS, ids=lambda predict: predict.__name__)
def test_every_format_gets_the_same_probabilities(
    client: httpx.Client,
    saved: Path,
    images: np.ndarray,
    encoded: Encode,
    predict: Callable[..., dict],
    size: int,
):
    """HTTP probabilities equal offline ones within 1e-5, for 1 and 64 images per request; same labels."""
    classifier = Classifier.load(saved)
    expected = classifier.predict(images)
    batches = (
        np.split(images, len(images) // size) if size > 1 or predict is raw else [images[:1], images[63:]]
    )

    predictions = [
        prediction for batch in batches for prediction in predict(client, batch, encoded)["predictions"]
    ]

    if len(predictions) == 2:
        expected = expected[[0, 63]]
    assert (
        np.abs(expected - [list(prediction["probabilities"].values()) for prediction in predictions]).max()
        < 1e-5
    )
    assert classifier.to_labels(expected) == [prediction["label"] for prediction in predictions]


def test_repeated_request_gets_identical_predictions(
    client: httpx.Client, images: np.ndarray, encoded: Encode
):
    """Two identical requests get identical probabilities."""
    assert raw(client, images, encoded)["predictions"] == raw(client, images, encoded)["predictions"]


@pytest.mark.parametrize("size", [pytest.param(1, id="R54-1"), pytest.param(64, id="R55-64")])
def test_bentoml_client_gets_the_same_probabilities(
    predict_with_bentoml: Callable[..., list[Any]],
    client: httpx.Client,
    saved: Path,
    images: np.ndarray,
    size: int,
):
    """BentoML's own client gets the offline probabilities."""
    expected = Classifier.load(saved).predict(images[-size:])

    (response,) = predict_with_bentoml(str(client.base_url), images[-size:])

    probabilities = [list(prediction["probabilities"].values()) for prediction in response["predictions"]]
    assert np.abs(expected - probabilities).max() < 1e-5
