"""One image has one answer, by whichever way it comes, alone or among others, over HTTP or without."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier

Encode = Callable[..., bytes]


def flat(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    return client.post("/predict", json={"images": batch.reshape(len(batch), -1).tolist()}).json()


def nested(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    return client.post("/predict", json={"images": batch.tolist()}).json()


def base64s(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    texts = [base64.b64encode(encoded(image)).decode() for image in batch]
    return client.post("/predict", json={"images": texts}).json()


def raw(client: httpx.Client, batch: np.ndarray, _: Encode) -> dict:
    headers = {"content-type": "application/octet-stream"}
    return client.post("/predict", content=batch.tobytes(), headers=headers).json()


def form(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    return client.post("/predict", files=[("file", encoded(image)) for image in batch]).json()


def png(client: httpx.Client, batch: np.ndarray, encoded: Encode) -> dict:
    """One a request: a picture holds one."""
    headers = {"content-type": "image/png"}
    answers = [client.post("/predict", content=encoded(image), headers=headers).json() for image in batch]
    return {"predictions": [one for answer in answers for one in answer["predictions"]]}


WAYS = [flat, nested, base64s, raw, form, png]


@pytest.mark.parametrize("size", [pytest.param(1, id="R54-1"), pytest.param(64, id="R55-64")])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_leads_to_the_same_probabilities(
    client: httpx.Client,
    saved: Path,
    images: np.ndarray,
    encoded: Encode,
    way: Callable[..., dict],
    size: int,
):
    """Within 1e-5 of what the saved classifier says offline, to one image and to 64 at a time; same label."""
    classifier = Classifier.load(saved)
    expected = classifier.predict(images)
    batches = np.split(images, len(images) // size) if size > 1 or way is raw else [images[:1], images[63:]]

    answers = [one for batch in batches for one in way(client, batch, encoded)["predictions"]]

    if len(answers) == 2:
        expected = expected[[0, 63]]
    assert np.abs(expected - [list(one["probabilities"].values()) for one in answers]).max() < 1e-5
    assert classifier.to_labels(expected) == [one["label"] for one in answers]


def test_the_same_request_is_answered_the_same(client: httpx.Client, images: np.ndarray, encoded: Encode):
    """To the last digit."""
    assert raw(client, images, encoded)["predictions"] == raw(client, images, encoded)["predictions"]


@pytest.mark.parametrize("size", [pytest.param(1, id="R54-1"), pytest.param(64, id="R55-64")])
def test_the_client_of_bentoml_gets_the_same(
    ask_by_bentoml: Callable[..., list[Any]], client: httpx.Client, saved: Path, images: np.ndarray, size: int
):
    """It sends JSON that it makes itself."""
    expected = Classifier.load(saved).predict(images[-size:])

    (answer,) = ask_by_bentoml(str(client.base_url), images[-size:])

    got = [list(one["probabilities"].values()) for one in answer["predictions"]]
    assert np.abs(expected - got).max() < 1e-5
