"""The document at `/openapi.json` is true: what it shows is accepted, what it promises comes back."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from relearn.model.inference.classifier import Classifier
from relearn.serving.api.openapi import build_openapi
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.parse import MEDIA_TYPES


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert "application/json" == answer.headers["content-type"]
    return answer.json()


def schema(document: dict[str, Any], name: str) -> Draft202012Validator:
    """The validator of one of the document's schemas, its references resolved in it."""
    Draft202012Validator.check_schema(document["components"]["schemas"][name])
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}"} | document)


def test_every_example_is_accepted_and_answered_as_promised(client: httpx.Client, document: dict[str, Any]):
    """The examples fit their schema, the API takes them, its answer fits the schema of answers."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert {"one", "several", "files"} == set(content["examples"])
    for example in content["examples"].values():
        schema(document, "Images").validate(example["value"])

        answer = client.post("/predict", json=example["value"])

        assert 200 == answer.status_code, answer.text
        schema(document, "Predictions").validate(answer.json())


def test_what_info_tells_is_as_promised(client: httpx.Client, document: dict[str, Any]):
    """The card, the workers, the limits."""
    schema(document, "Info").validate(client.get("/info").json())


def test_refusals_are_as_promised(client: httpx.Client, document: dict[str, Any]):
    """Each has a status that is told, and the one form."""
    promised = document["paths"]["/predict"]["post"]["responses"]
    for body in (b"", b"{}", b"[" * 10):
        answer = client.post("/predict", content=body, headers={"content-type": "application/json"})

        assert str(answer.status_code) in promised
        schema(document, "Error").validate(answer.json())


def test_the_example_of_feedback_fits_its_schema(document: dict[str, Any]):
    """And the schema is as strict as the API."""
    content = document["paths"]["/feedback"]["post"]["requestBody"]["content"]["application/json"]
    example = content["examples"]["wrong"]["value"]
    told = schema(document, "Feedback")

    told.validate(example)
    for wrong in ({"label": "10"}, {"request_id": "a b"}, {"index": -1}, {"more": 1}):
        assert not told.is_valid(example | wrong)


def test_a_wrong_shape_fits_no_schema(make_classifier: Callable[..., Classifier]):
    """The schema is as strict as the API."""
    document = build_openapi(ServeConfig(max_images=2), make_classifier(seed=0, shape=(1, 8, 8)).card)
    images = schema(document, "Images")
    flat = [0] * 64

    assert images.is_valid({"images": [flat, flat]})
    for wrong in ([], flat[1:], [[flat]], [256, *flat[1:]], [0.5, *flat[1:]], [flat] * 3):
        assert not images.is_valid({"images": wrong})


def test_every_route_is_told_and_every_told_route_is_there(client: httpx.Client, document: dict[str, Any]):
    """The list in a 404 is the list of the document."""
    told = client.get("/nothing").json()["error"]["message"].removeprefix("path: accepted: ").split(", ")

    assert set(told) == set(document["paths"])
    for path, methods in document["paths"].items():
        for method in methods:
            assert client.request(method, path).status_code not in (404, 405)


def test_media_types_are_those_that_are_read(document: dict[str, Any]):
    """What is told is what is taken."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]

    assert set(MEDIA_TYPES) == set(content)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 10)])
def test_shapes_are_those_of_the_classifier(
    make_classifier: Callable[..., Classifier], shape: tuple[int, int, int]
):
    """Another classifier, another document; its examples are in its shape."""
    card = make_classifier(seed=0, shape=shape).card
    document = build_openapi(ServeConfig(), card)
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]

    for example in examples.values():
        schema(document, "Images").validate(example["value"])
    assert 2 * np.prod(shape) == np.size(examples["several"]["value"]["images"])


def test_before_a_release_the_document_is_open(classifier: Classifier):
    """No shape, no classes, no examples: but a valid document."""
    document = build_openapi(ServeConfig(), None)

    for name in document["components"]["schemas"]:
        schema(document, name)
    assert "503" in document["info"]["description"]
    assert "503" not in build_openapi(ServeConfig(), classifier.card)["info"]["description"]
