"""MNIST's test images as files, sent to a real server."""

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier


@pytest.mark.slow
def test_every_mnist_image_sent_as_png_is_answered_as_offline(
    real_data: Path,
    client: httpx.Client,
    classifier: Classifier,
    encoded: Callable[..., bytes],
    tmp_path: Path,
):
    """All 10,000 test images, each a PNG in a request: label and probabilities are those of the arrays."""
    images = load_dataset(TrainConfig(dataset="mnist"), Home(tmp_path, real_data)).test.images
    expected = classifier.predict(images)
    labels, probabilities = [], np.empty_like(expected)
    for index, image in enumerate(images):
        response = client.post("/predict", content=encoded(image), headers={"content-type": "image/png"})
        (prediction,) = response.raise_for_status().json()["predictions"]
        labels.append(prediction["label"])
        probabilities[index] = [*prediction["probabilities"].values()]

    assert 10_000 == len(images)
    assert classifier.to_labels(expected) == labels
    assert np.allclose(expected, probabilities, rtol=0, atol=1e-5)
