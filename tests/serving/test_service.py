"""BentoML's own clients, served by the routes of every other client."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.server import Server


def test_bentoml_client_predicts(
    predict_with_bentoml: Callable[..., list[Any]],
    server_with_keys: Server,
    api_keys: tuple[str, str],
    classifier: Classifier,
    images: np.ndarray,
):
    """Arrays in any shape get the response of `/predict`; BentoML's token is the API key."""
    shapes = [(3, 1, 28, 28), (3, 28, 28), (3, 784)]
    batches = [images[:3].reshape(shape) for shape in shapes]

    responses = predict_with_bentoml(server_with_keys.url, *batches, key=api_keys[1])

    labels = classifier.to_labels(classifier.predict(images[:3]))
    assert [("3", labels)] * 3 == [
        (response["version"], [prediction["label"] for prediction in response["predictions"]])
        for response in responses
    ]


def test_bentoml_client_gets_our_errors(
    predict_with_bentoml: Callable[..., list[Any]], server_with_keys: Server, api_keys: tuple[str, str]
):
    """Errors have our status, code and message, not BentoML's; without a key the schema is not served."""
    (error,) = predict_with_bentoml(server_with_keys.url, np.zeros((27, 28)), key=api_keys[1])
    (error_without_key,) = predict_with_bentoml(server_with_keys.url, np.zeros((28, 28)))

    assert '"code":"wrong_shape","message":"images: got 27 × 28' in error
    assert error.startswith("422 ")
    assert "Failed to fetch schema" in error_without_key


def test_bentoml_schema_has_one_method_and_its_route(client: httpx.Client):
    """The schema has `/predict` only, none of the routes that BentoML adds by default."""
    (route,) = client.get("/schema.json").json()["routes"]

    assert ("predict_images", "/predict") == (route["name"], route["route"])
    assert "/predict" in client.get("/docs.json").json()["paths"]
