"""The routes over real HTTP: a real Bento in BentoML's own server."""

import asyncio
import base64
import copy
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from starlette.requests import Request

from relearn.model.errors import UserInputError
from relearn.model.images.decode import decode_image
from relearn.model.images.resize import fit_image
from relearn.model.inference.classifier import Classifier
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.responses import Limits
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.errors import HTTPError
from relearn.serving.metrics.prometheus import CONFIDENCE_BUCKETS
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream"}
PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}
FLAT = [0] * 784


def get_probabilities(response: httpx.Response) -> np.ndarray:
    """Return the probabilities of a response, float (n, 10)."""
    assert 200 == response.status_code, response.text
    return np.array(
        [list(prediction["probabilities"].values()) for prediction in response.json()["predictions"]]
    )


def get_error(response: httpx.Response) -> tuple[int, str]:
    """Check the format of an error response; return its status and code."""
    assert "application/json" == response.headers["content-type"]
    assert ["error"] == list(response.json())
    error = response.json()["error"]
    assert {"code", "message", "request_id"} == set(error)
    assert response.headers["x-request-id"] == error["request_id"]
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text
    return response.status_code, error["code"]


@pytest.mark.parametrize("shape", [(784,), (28, 28), (1, 28, 28)])
def test_prediction_over_http_equals_classifier_predict(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, shape: tuple[int, ...]
):
    """One image in any shape returns label and probabilities of `Classifier.predict`, by class name."""
    expected = classifier.predict(images[:1])

    response = client.post("/predict", json={"images": images[0].reshape(shape).tolist()})

    assert np.allclose(expected, get_probabilities(response), atol=1e-5)
    assert {"version", "worker", "request_id", "predictions"} == set(response.json())
    assert "3" == response.json()["version"]
    first = response.json()["predictions"][0]
    assert list("0123456789") == list(first["probabilities"])
    assert classifier.to_labels(expected)[0] == first["label"]


def test_batch_is_predicted_in_its_order(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """Each of 64 images in one request gets the same prediction as alone."""
    expected = classifier.predict(images)

    response = client.post("/predict", json={"images": images.reshape(64, 784).tolist()})

    assert np.allclose(expected, get_probabilities(response), atol=1e-5)
    assert classifier.to_labels(expected) == [
        prediction["label"] for prediction in response.json()["predictions"]
    ]
    assert len(set(classifier.to_labels(expected))) > 3  # so that a wrong order would fail


def test_png_is_predicted_like_its_pixels(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, encoded: Callable[..., bytes]
):
    """A PNG of the classifier's size gets the prediction of its pixels."""
    response = client.post("/predict", content=encoded(images[5]), headers=PNG)

    assert np.allclose(classifier.predict(images[5:6]), get_probabilities(response), atol=1e-5)


def test_jpeg_of_another_size_is_fitted_first(
    client: httpx.Client, classifier: Classifier, encoded: Callable[..., bytes]
):
    """A drawing of 100 × 60 pixels gets the prediction of `fit_image`'s result."""
    drawing = np.full((1, 60, 100), 250, np.uint8)
    drawing[0, 10:50, 40:46] = 10
    content = encoded(drawing, "JPEG")
    fitted = np.stack([fit_image(decode_image(content), (1, 28, 28), "mnist")])

    response = client.post("/predict", content=content, headers=JPEG)

    assert np.allclose(classifier.predict(fitted), get_probabilities(response), atol=1e-5)


def test_blank_images_get_no_answer_and_no_record(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """A drawing without ink gets a reason instead of a label, as a file and as pixels; others keep theirs."""
    page = np.full((1, 90, 70), 255, np.uint8)
    pixels = np.stack([np.zeros_like(images[0]), images[0], np.full_like(images[0], 255)])
    no_answer = {"label": None, "reason": "no_content", "probabilities": None}

    from_file = client.post("/predict", content=encoded(page), headers=PNG).json()["predictions"]
    from_pixels = client.post("/predict", content=pixels.tobytes(), headers=RAW).json()["predictions"]

    assert [no_answer] == from_file
    assert [no_answer, no_answer] == from_pixels[::2]
    assert from_pixels[1]["label"] in "0123456789"
    assert 'relearn_no_answers_total{reason="no_content"' in client.get("/metrics").text


@pytest.mark.parametrize("count", [1, 3, 64])
def test_raw_bytes_are_predicted_like_their_pixels(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, count: int
):
    """Small requests in the event loop and large ones in a thread get the same predictions."""
    response = client.post("/predict", content=images[:count].tobytes(), headers=RAW)

    assert np.allclose(classifier.predict(images[:count]), get_probabilities(response), atol=1e-5)


def test_form_files_are_predicted_in_order(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, encoded: Callable[..., bytes]
):
    """Files in a form, as `curl -F` sends them, are predicted in their order."""
    files = [("file", ("x.png", encoded(image))) for image in images[:3]]

    response = client.post("/predict", files=files)

    assert np.allclose(classifier.predict(images[:3]), get_probabilities(response), atol=1e-5)


def test_most_likely_classes_come_first(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """`top_k` returns the most likely classes, with their probabilities among all classes."""
    probabilities = classifier.predict(images[:2])
    best = np.argsort(-probabilities, axis=1)[:, :3]

    response = client.post("/predict?top_k=3", json={"images": images[:2].reshape(2, 784).tolist()})

    for row, order, prediction in zip(probabilities, best, response.json()["predictions"], strict=True):
        assert [str(index) for index in order] == list(prediction["probabilities"])
        assert np.allclose(row[order], list(prediction["probabilities"].values()), atol=1e-5)
        assert str(order[0]) == prediction["label"]


@pytest.mark.parametrize(
    ("query", "status", "code", "message"),
    [
        ("top_k=0", 422, "out_of_range", "top_k: got 0, accepted: 1 to 10"),
        ("top_k=11", 422, "out_of_range", "top_k: got 11, accepted: 1 to 10"),
        ("top_k=", 422, "out_of_range", "top_k: got no integer of up to 6 digits, accepted: 1 to 10"),
        ("top_k=1.0", 422, "out_of_range", "top_k: got no integer of up to 6 digits, accepted: 1 to 10"),
        ("top_k=%C2%B2", 422, "out_of_range", "top_k: got no integer of up to 6 digits, accepted: 1 to 10"),
        (
            "top_k=1&top_k=2",
            422,
            "unknown_parameter",
            "query: got an unknown or repeated parameter",
        ),
        ("top=3", 422, "unknown_parameter", "query: got an unknown or repeated parameter"),
        (
            "version=2",
            404,
            "model_version_not_found",
            "version: got another one, accepted: 3, the live version",
        ),
    ],
)
def test_invalid_query_is_rejected_by_name(
    client: httpx.Client, query: str, status: int, code: str, message: str
):
    """Unknown, repeated and invalid query parameters are rejected, not ignored."""
    response = client.post(f"/predict?{query}", json={"images": FLAT})

    assert (status, code) == get_error(response)
    assert message in response.json()["error"]["message"]


def test_live_version_may_be_requested(client: httpx.Client):
    """A request for the live version is predicted by that version."""
    assert "3" == client.post("/predict?version=3", json={"images": FLAT}).json()["version"]


def test_media_type_is_case_insensitive_and_may_name_utf8(client: httpx.Client):
    """`Application/JSON; charset="UTF-8"` is JSON."""
    headers = {"content-type": 'Application/JSON; charset="UTF-8"'}

    assert 200 == client.post("/predict", content=json.dumps({"images": FLAT}), headers=headers).status_code


def test_slash_at_the_end_of_predict_changes_nothing(client: httpx.Client):
    """`/predict/` answers as `/predict` does, and is counted as the same route."""
    before = read_metrics(client).get('relearn_requests_total{route="/predict",status="200"}', 0)

    assert 200 == client.post("/predict/", json={"images": FLAT}).status_code

    assert before + 1 == read_metrics(client)['relearn_requests_total{route="/predict",status="200"}']


def test_messages_name_the_method_and_the_paths(client: httpx.Client):
    """A wrong method is answered with the right one, a wrong path with those that exist."""
    assert "Use POST for /predict" == client.get("/predict").json()["error"]["message"]
    message = client.get("/doc").json()["error"]["message"]
    assert message.startswith("No such path: /doc; there are /predict, /feedback")


def test_request_keeps_its_id(client: httpx.Client):
    """A client's plain request id is returned in header and body; any other is replaced."""
    plain = client.post("/predict", json={"images": FLAT}, headers={"x-request-id": "job-7.a_b"})
    replaced = client.post("/predict", json={"images": FLAT}, headers={"x-request-id": "x" * 10_000})

    assert "job-7.a_b" == plain.headers["x-request-id"] == plain.json()["request_id"]
    assert 32 == len(replaced.headers["x-request-id"]) == len(replaced.json()["request_id"])


def test_health_routes_respond(client: httpx.Client):
    """The health routes return 200 to GET and HEAD."""
    for path in ("/livez", "/readyz", "/healthz"):
        assert 200 == client.get(path).status_code
        assert 200 == client.head(path).status_code


def test_nan_network_is_not_ready(classifier: Classifier, tmp_path: Path):
    """A network that returns NaN makes `/readyz` fail."""
    network = copy.deepcopy(classifier.network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    api = PredictionApp(
        ServeConfig(),
        WorkerStatusDir(tmp_path),
        ApiKeys([]),
        bundled_model=ServedModel("3", Classifier(network, classifier.card)),
    )

    with pytest.raises(HTTPError) as error_info:
        asyncio.run(api.readyz(Request({"type": "http"}), ""))

    assert (503, "invalid_model_output") == (error_info.value.http_status, error_info.value.code)


def test_info_shows_live_model_and_limits(client: httpx.Client, classifier: Classifier, config: ServeConfig):
    """`/info` shows model card, start of serving, workers and limits."""
    info = client.get("/info").json()

    assert ("3", 1) == (info["version"], info["worker"])
    assert datetime.now(UTC) - datetime.fromisoformat(info["serving_since"]) < timedelta(hours=1)
    assert classifier.card.fingerprint == info["classifier"]["fingerprint"]
    assert ("digits", "mlp") == (info["classifier"]["dataset"], info["classifier"]["network"])
    assert list(classifier.card.classes) == info["classifier"]["classes"]
    assert list(classifier.card.shape) == info["classifier"]["shape"]
    assert torch.__version__ == info["classifier"]["torch"]
    assert [(1, "3")] == [(worker["worker"], worker["version"]) for worker in info["workers"]]
    assert {name: getattr(config, name) for name in Limits.__struct_fields__} == info["limits"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/predict/livez", 404, "not_found"),
        ("POST", "/predict/submit", 404, "not_found"),
        ("GET", "/static_content/", 404, "not_found"),
        ("GET", "/healthz/", 404, "not_found"),
        ("GET", "/%2e%2e/predict", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("PUT", "/predict", 405, "method_not_allowed"),
        ("DELETE", "/predict", 405, "method_not_allowed"),
        ("OPTIONS", "/predict", 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
    ],
)
def test_unknown_path_or_method_gets_error_response(
    client: httpx.Client, method: str, path: str, status: int, code: str
):
    """Only the routes of `/openapi.json` exist; 405 names the allowed methods."""
    response = client.request(method, path)

    assert (status, code) == get_error(response)
    if status == 405:
        assert ("POST" if path == "/predict" else "GET, HEAD") == response.headers["allow"]


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "application/xml",
        "application/vnd.bentoml+pickle",
        "Application/Vnd.Bentoml+Pickle; charset=utf-8",
        "application/x-www-form-urlencoded",
        "application/octet-stream-x",
        "application/json, image/png",
        "application/jsonp",
    ],
)
def test_unsupported_media_type_is_rejected(client: httpx.Client, media_type: str):
    """Text, pickle, URL-encoded forms and malformed types are rejected, whatever the body is."""
    response = client.post(
        "/predict", content=json.dumps({"images": FLAT}), headers={"content-type": media_type}
    )

    assert (415, "unsupported_media_type") == get_error(response)


def test_missing_media_type_is_recognized(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """Without a media type, JSON and image files are read by their content; anything else is rejected."""
    for content in (json.dumps({"images": FLAT}).encode(), encoded(images[0])):
        assert 200 == client.send(client.build_request("POST", "/predict", content=content)).status_code
    request = client.build_request("POST", "/predict", content=bytes(784))
    assert (415, "unsupported_media_type") == get_error(client.send(request))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/json; charset=latin-1"}, "unsupported_charset"),
        (JSON | {"content-encoding": "gzip"}, "unsupported_encoding"),
    ],
)
def test_unsupported_charset_or_compressed_body_is_rejected(
    client: httpx.Client, headers: dict[str, str], code: str
):
    """Charsets other than UTF-8 and compressed bodies get 415."""
    assert (415, code) == get_error(client.post("/predict", content=b"{}", headers=headers))


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", JSON, 400, "empty_body"),
        (b"", PNG, 400, "empty_body"),
        (b"{", JSON, 400, "invalid_json"),
        (b'{"images": [NaN]}', JSON, 400, "non_finite"),
        (b'{"images": ' + b"[" * 100_000, JSON, 400, "too_deep"),
        (b"{}", JSON, 422, "missing_field"),
        (json.dumps({"images": [256, *FLAT[1:]]}).encode(), JSON, 422, "out_of_range"),
        (json.dumps({"images": FLAT[1:]}).encode(), JSON, 422, "wrong_shape"),
        (json.dumps({"images": [FLAT] * 65}).encode(), JSON, 413, "batch_too_large"),
        (b"8BPS" + bytes(100), PNG, 415, "unsupported_image"),
        (b"http://127.0.0.1:1/x.png", PNG, 415, "unsupported_image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), PNG, 422, "invalid_image"),
        (b"\xff\xd8\xff" + bytes(100), JPEG, 422, "invalid_image"),
    ],
)
def test_invalid_body_gets_its_status_and_code(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: str
):
    """Each kind of invalid body has its status and its code."""
    assert (status, code) == get_error(client.post("/predict", content=content, headers=headers))


def test_truncated_image_file_is_rejected(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """Half an image file gets 422."""
    file = encoded(images[0])

    assert (422, "invalid_image") == get_error(
        client.post("/predict", content=file[: len(file) // 2], headers=PNG)
    )


def test_image_with_too_many_pixels_is_rejected_before_decoding(
    client: httpx.Client, encoded: Callable[..., bytes]
):
    """A small file that would decode to 25 million pixels is rejected."""
    bomb = encoded(np.zeros((1, 5000, 5000), np.uint8))

    assert (422, "image_dimensions") == get_error(client.post("/predict", content=bomb, headers=PNG))


def test_body_limit_is_exact(client: httpx.Client, config: ServeConfig):
    """A body at the limit is accepted; one byte more is rejected."""
    limit = config.max_body_bytes
    start = json.dumps({"images": FLAT}).encode()

    assert 200 == client.post("/predict", content=start.ljust(limit), headers=JSON).status_code
    assert (413, "body_too_large") == get_error(
        client.post("/predict", content=start.ljust(limit + 1), headers=JSON)
    )


def test_chunked_body_is_rejected_at_the_limit(client: httpx.Client):
    """The bytes of a body without declared length are counted while they arrive."""

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    assert (413, "body_too_large") == get_error(client.post("/predict", content=chunks(), headers=JSON))


def test_endless_body_is_rejected_and_connection_closed(server: Server):
    """The server closes the connection of an endless body."""
    sent, max_bytes = 0, 200_000_000
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        while sent < max_bytes:
            try:
                wire.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
            except OSError:
                break
            sent += 10_000

    assert sent < max_bytes


def test_huge_declared_length_is_rejected_before_the_body(server: Server):
    """A body whose declared length is too large is rejected before any byte of it is sent."""
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        response = b"".join(iter(lambda: wire.recv(65_536), b""))  # until the server closes the connection

    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in response


def test_network_input_is_returned_on_request(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """`return_input=true` returns each image in the classifier's shape, as PNG in base64."""
    response = client.post("/predict?return_input=true", json={"images": images[:3].reshape(3, 784).tolist()})
    plain = client.post("/predict?return_input=false", json={"images": FLAT})

    inputs = [base64.b64decode(prediction["input"]) for prediction in response.json()["predictions"]]
    assert [encoded(image) for image in images[:3]] == inputs
    assert "input" not in plain.json()["predictions"][0]


def read_metrics(client: httpx.Client) -> dict[str, float]:
    """Return the values of `/metrics` by metric name and labels."""
    lines = client.get("/metrics").text.splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_requests_are_counted(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """Metrics count requests, latency, predictions by class and version, confidence and errors."""
    probabilities = classifier.predict(images[:1])
    label = classifier.to_labels(probabilities)[0]
    lower_bucket = max(edge for edge in CONFIDENCE_BUCKETS if edge < probabilities.max())
    expected = {
        'relearn_requests_total{route="/predict",status="200"}': 2,
        'relearn_requests_total{route="/predict",status="422"}': 1,
        'relearn_requests_total{route="other",status="404"}': 1,
        f'relearn_predictions_total{{label="{label}",version="3"}}': 4,
        'relearn_request_seconds_count{route="/predict"}': 3,
        'relearn_confidence_count{version="3"}': 4,
        'relearn_confidence_bucket{le="1.0",version="3"}': 4,
        f'relearn_confidence_bucket{{le="{lower_bucket}",version="3"}}': 0,
        'relearn_request_errors_total{code="missing_field"}': 1,
        'relearn_request_errors_total{code="not_found"}': 1,
    }
    before = read_metrics(client)

    for _ in range(2):
        client.post("/predict", json={"images": images[[0, 0]].reshape(2, 784).tolist()})
    client.post("/predict", json={})
    client.get("/made/up/by/a/client")

    after = read_metrics(client)
    assert expected == {key: after[key] - before.get(key, 0) for key in expected}
    assert not any("made" in key for key in after)


def test_model_reloads_are_counted(classifier: Classifier, tmp_path: Path):
    """A change of version counts as a reload; the first model and the same version do not."""
    api = PredictionApp(ServeConfig(), WorkerStatusDir(tmp_path), ApiKeys([]))

    for version in ("3", "4", "4", "3"):
        api.set_model(ServedModel(version, classifier))

    assert b"relearn_model_reloads_total 2.0" in api.metrics.render().body


def test_prediction_without_http_is_the_same(classifier: Classifier, images: np.ndarray, tmp_path: Path):
    """A call of `predict_images` in the process returns what `/predict` returns; it reads the same shapes."""
    api = PredictionApp(
        ServeConfig(), WorkerStatusDir(tmp_path), ApiKeys([]), bundled_model=ServedModel("3", classifier)
    )

    response = api.predict_images(images[:2].reshape(2, 784))

    probabilities = [list(prediction["probabilities"].values()) for prediction in response["predictions"]]
    assert np.allclose(classifier.predict(images[:2]), probabilities, atol=1e-5)
    assert "3" == response["version"]
    for shape in ((14, 56), (28, 28, 2), (784, 2)):
        with pytest.raises(UserInputError, match="accepted: one image or several, each of 784 or 28 × 28"):
            api.predict_images(images[: np.prod(shape) // 784].reshape(shape))
