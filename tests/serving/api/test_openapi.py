"""The document at `/openapi.json`: its examples are accepted, and responses match their schemas."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from relearn.model.inference.classifier import Classifier
from relearn.serving.api.openapi import build_openapi
from relearn.serving.api.routes import OPERATIONS
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.parse_body import MEDIA_TYPES


@pytest.fixture
def document(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert "application/json" == response.headers["content-type"]
    return response.json()


def build_validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    """Build the validator of a schema in the document, with its references resolved."""
    Draft202012Validator.check_schema(document["components"]["schemas"][name])
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}"} | document)


def test_every_example_is_accepted_and_responses_match_their_schema(
    client: httpx.Client, document: dict[str, Any]
):
    """The examples match their schema, the API accepts them, and its responses match theirs."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert 3 == len(content["examples"])
    for example in content["examples"].values():
        build_validator(document, "PredictRequest").validate(example["value"])

        response = client.post("/predict", json=example["value"])

        assert 200 == response.status_code, response.text
        build_validator(document, "Predictions").validate(response.json())


def test_info_matches_its_schema(client: httpx.Client, document: dict[str, Any]):
    """The response of `/info` matches its schema."""
    build_validator(document, "Info").validate(client.get("/info").json())


def test_errors_match_their_schema(client: httpx.Client, document: dict[str, Any]):
    """Each error has a documented status and the error schema."""
    documented = document["paths"]["/predict"]["post"]["responses"]
    for content in (b"", b"{}", b"[" * 10):
        response = client.post("/predict", content=content, headers={"content-type": "application/json"})

        assert str(response.status_code) in documented
        build_validator(document, "ErrorResponse").validate(response.json())


def test_feedback_example_matches_its_schema(document: dict[str, Any]):
    """The feedback schema is as strict as the API."""
    content = document["paths"]["/feedback"]["post"]["requestBody"]["content"]["application/json"]
    example = content["examples"]["Another label"]["value"]
    validator = build_validator(document, "FeedbackRequest")

    validator.validate(example)
    for wrong in ({"label": "10"}, {"request_id": "a b"}, {"index": -1}, {"more": 1}):
        assert not validator.is_valid(example | wrong)


def test_wrong_shape_matches_no_schema(make_classifier: Callable[..., Classifier]):
    """The image schema is as strict as the API."""
    document = build_openapi(
        OPERATIONS, ServeConfig(max_images=2), make_classifier(seed=0, shape=(1, 8, 8)).card
    )
    images = build_validator(document, "PredictRequest")
    flat = [0] * 64

    assert images.is_valid({"images": [flat, flat]})
    for wrong in ([], flat[1:], [[flat]], [256, *flat[1:]], [0.5, *flat[1:]], [flat] * 3):
        assert not images.is_valid({"images": wrong})


def test_every_route_is_documented_and_exists(client: httpx.Client, document: dict[str, Any]):
    """The paths in a 404 message are the paths of the document."""
    paths = (
        client.get("/nothing")
        .json()["error"]["message"]
        .removeprefix("No such path: /nothing; there are ")
        .split(", ")
    )

    assert set(paths) == set(document["paths"])
    for path, methods in document["paths"].items():
        for method in methods:
            assert client.request(method, path.format(model_name="digits")).status_code not in (404, 405)


def test_documented_media_types_are_accepted(document: dict[str, Any]):
    """The document lists exactly the accepted media types."""
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]

    assert set(MEDIA_TYPES) == set(content)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 10)])
def test_shapes_follow_the_classifier(
    make_classifier: Callable[..., Classifier], shape: tuple[int, int, int]
):
    """The document and its examples have the shape of the classifier."""
    card = make_classifier(seed=0, shape=shape).card
    document = build_openapi(OPERATIONS, ServeConfig(), card)
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]

    for example in examples.values():
        build_validator(document, "PredictRequest").validate(example["value"])
    assert 2 * np.prod(shape) == np.size(examples["Two images, flat"]["value"]["images"])


def test_document_is_valid_before_a_release(classifier: Classifier):
    """Without a classifier the document has no shapes, classes or examples, but is valid."""
    document = build_openapi(OPERATIONS, ServeConfig(), None)

    for name in document["components"]["schemas"]:
        build_validator(document, name)
    assert "503" in document["info"]["description"]
    assert "503" not in build_openapi(OPERATIONS, ServeConfig(), classifier.card)["info"]["description"]


def test_operations_are_grouped(document: dict[str, Any]):
    """Each operation has one tag: predictions are not among pages."""
    tags = {path: item["tags"] for path, items in document["paths"].items() for item in items.values()}
    assert all(1 == len(names) for names in tags.values())
    assert tags["/predict"] == tags["/feedback"] != tags["/docs"] == tags["/draw"]
