"""BentoML's own clients work, through the same door as everybody."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.server import Server


def test_a_client_predicts(
    ask_by_bentoml: Callable[..., list[Any]],
    guarded: Server,
    keys: tuple[str, str],
    classifier: Classifier,
    images: np.ndarray,
):
    """Arrays in any form in, the reply of `/predict` out; it takes the key where BentoML takes a token."""
    shapes = [(3, 1, 28, 28), (3, 28, 28), (3, 784)]
    batches = [images[:3].reshape(shape) for shape in shapes]

    answers = ask_by_bentoml(guarded.url, *batches, key=keys[1])

    labels = classifier.to_labels(classifier.predict(images[:3]))
    assert [("3", labels)] * 3 == [
        (answer["version"], [one["label"] for one in answer["predictions"]]) for answer in answers
    ]


def test_a_client_is_refused_as_everybody(
    ask_by_bentoml: Callable[..., list[Any]], guarded: Server, keys: tuple[str, str]
):
    """With our status, code and message, not with BentoML's; without a key, before it knows what there is."""
    (told,) = ask_by_bentoml(guarded.url, np.zeros((27, 28)), key=keys[1])
    (keyless,) = ask_by_bentoml(guarded.url, np.zeros((28, 28)))

    assert '"code":"wrong_shape","message":"images: got 27 × 28' in told
    assert told.startswith("422 ")
    assert "Failed to fetch schema" in keyless


def test_bentoml_tells_one_method_and_its_route(client: httpx.Client):
    """The one that is answered; what BentoML would mount beside it is not there."""
    (route,) = client.get("/schema.json").json()["routes"]

    assert ("predict_images", "/predict") == (route["name"], route["route"])
    assert "/predict" in client.get("/docs.json").json()["paths"]
