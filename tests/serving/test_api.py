"""The API over real HTTP: a real Bento behind BentoML's own server."""

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

from relearn.model.images.decode import decode_image, fit_image
from relearn.model.inference.classifier import Classifier
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.info import LIMIT_SETTINGS
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.requests import HTTPError
from relearn.serving.metrics.prometheus import CONFIDENCE_BUCKETS
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream"}
PNG = {"content-type": "image/png"}
JPEG = {"content-type": "image/jpeg"}
FLAT = [0] * 784


def numbers(answer: httpx.Response) -> np.ndarray:
    """The probabilities of a reply, float (n, 10)."""
    assert 200 == answer.status_code, answer.text
    return np.array([list(one["probabilities"].values()) for one in answer.json()["predictions"]])


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal whose form is the one form."""
    assert "application/json" == answer.headers["content-type"]
    assert ["error"] == list(answer.json())
    error = answer.json()["error"]
    assert {"code", "message", "request_id"} == set(error)
    assert answer.headers["x-request-id"] == error["request_id"]
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return answer.status_code, error["code"]


@pytest.mark.parametrize("form", [(784,), (28, 28), (1, 28, 28)])
def test_the_answer_over_http_is_the_classifiers_own(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, form: tuple[int, ...]
):
    """One image in any form: the probabilities of `Classifier.predict`, by class name, and its label."""
    expected = classifier.predict(images[:1])

    answer = client.post("/predict", json={"images": images[0].reshape(form).tolist()})

    assert np.allclose(expected, numbers(answer), atol=1e-5)
    assert {"version", "worker", "request_id", "predictions"} == set(answer.json())
    assert "3" == answer.json()["version"]
    first = answer.json()["predictions"][0]
    assert list("0123456789") == list(first["probabilities"])
    assert classifier.to_labels(expected)[0] == first["label"]


def test_a_batch_is_answered_in_its_order(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """64 images at once: each gets the answer it gets alone."""
    expected = classifier.predict(images)

    answer = client.post("/predict", json={"images": images.reshape(64, 784).tolist()})

    assert np.allclose(expected, numbers(answer), atol=1e-5)
    assert classifier.to_labels(expected) == [one["label"] for one in answer.json()["predictions"]]
    assert len(set(classifier.to_labels(expected))) > 3  # so that the order shows


def test_a_png_gets_the_answer_of_its_pixels(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, encoded: Callable[..., bytes]
):
    """A picture in the classifier's size is the same image by every route."""
    answer = client.post("/predict", content=encoded(images[5]), headers=PNG)

    assert np.allclose(classifier.predict(images[5:6]), numbers(answer), atol=1e-5)


def test_a_jpeg_of_another_size_is_fitted_first(
    client: httpx.Client, classifier: Classifier, encoded: Callable[..., bytes]
):
    """A drawing of 100 × 60 pixels is answered as `fit_image` sees it."""
    page = np.full((1, 60, 100), 250, np.uint8)
    page[0, 10:50, 40:46] = 10
    content = encoded(page, "JPEG")
    fitted = np.stack([fit_image(decode_image(content), (1, 28, 28), "mnist")])

    answer = client.post("/predict", content=content, headers=JPEG)

    assert np.allclose(classifier.predict(fitted), numbers(answer), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_raw_bytes_get_the_answers_of_their_pixels(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, count: int
):
    """In the event loop or in a thread, the same."""
    answer = client.post("/predict", content=images[:count].tobytes(), headers=RAW)

    assert np.allclose(classifier.predict(images[:count]), numbers(answer), atol=1e-5)


def test_the_files_of_a_form_are_answered_in_order(
    client: httpx.Client, classifier: Classifier, images: np.ndarray, encoded: Callable[..., bytes]
):
    """As `curl -F` sends them: one or several, under any name."""
    files = [("file", ("x.png", encoded(image))) for image in images[:3]]

    answer = client.post("/predict", files=files)

    assert np.allclose(classifier.predict(images[:3]), numbers(answer), atol=1e-5)


def test_the_most_likely_classes_come_first(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """`top_k` of them, with the probabilities they have among all."""
    probabilities = classifier.predict(images[:2])
    best = np.argsort(-probabilities, axis=1)[:, :3]

    answer = client.post("/predict?top_k=3", json={"images": images[:2].reshape(2, 784).tolist()})

    for row, order, one in zip(probabilities, best, answer.json()["predictions"], strict=True):
        assert [str(index) for index in order] == list(one["probabilities"])
        assert np.allclose(row[order], list(one["probabilities"].values()), atol=1e-5)
        assert str(order[0]) == one["label"]


@pytest.mark.parametrize(
    ("query", "status", "code", "message"),
    [
        ("top_k=0", 422, "out_of_range", "top_k: got 0, accepted: 1 to 10"),
        ("top_k=11", 422, "out_of_range", "top_k: got 11, accepted: 1 to 10"),
        ("top_k=", 422, "out_of_range", "top_k: got no short whole number, accepted: 1 to 10"),
        ("top_k=1.0", 422, "out_of_range", "top_k: got no short whole number, accepted: 1 to 10"),
        ("top_k=%C2%B2", 422, "out_of_range", "top_k: got no short whole number, accepted: 1 to 10"),
        (
            "top_k=1&top_k=2",
            422,
            "unknown_parameter",
            "query: got another parameter",
        ),
        ("top=3", 422, "unknown_parameter", "query: got another parameter"),
        ("version=2", 404, "model_version_not_found", "version: got another one, accepted: 3, which is live"),
    ],
)
def test_a_query_is_refused_by_name(client: httpx.Client, query: str, status: int, code: str, message: str):
    """What is not known is not passed over."""
    answer = client.post(f"/predict?{query}", json={"images": FLAT})

    assert (status, code) == refusal(answer)
    assert message in answer.json()["error"]["message"]


def test_a_version_that_is_live_may_be_asked_for(client: httpx.Client):
    """A client that was tested with one version is answered by that one or not at all."""
    assert "3" == client.post("/predict?version=3", json={"images": FLAT}).json()["version"]


def test_a_media_type_is_read_in_any_case_and_with_utf8(client: httpx.Client):
    """`Application/JSON; charset="UTF-8"` is JSON."""
    headers = {"content-type": 'Application/JSON; charset="UTF-8"'}

    assert 200 == client.post("/predict", content=json.dumps({"images": FLAT}), headers=headers).status_code


def test_a_request_keeps_its_id(client: httpx.Client):
    """A client's plain id comes back in header and body; anything else is replaced."""
    kept = client.post("/predict", json={"images": FLAT}, headers={"x-request-id": "job-7.a_b"})
    replaced = client.post("/predict", json={"images": FLAT}, headers={"x-request-id": "x" * 10_000})

    assert "job-7.a_b" == kept.headers["x-request-id"] == kept.json()["request_id"]
    assert 32 == len(replaced.headers["x-request-id"]) == len(replaced.json()["request_id"])


def test_health_is_told(client: httpx.Client):
    """Alive and ready, to GET and to HEAD."""
    for path in ("/livez", "/readyz", "/healthz"):
        assert 200 == client.get(path).status_code
        assert 200 == client.head(path).status_code


def test_ready_means_that_an_image_was_read(classifier: Classifier, tmp_path: Path):
    """A network that answers with NaN is not ready, whatever else is in order."""
    network = copy.deepcopy(classifier.network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    api = PredictionApp(
        ServeConfig(),
        WorkerStatusDir(tmp_path),
        ApiKeys([]),
        bundled_model=ServedModel("3", Classifier(network, classifier.card)),
    )

    with pytest.raises(HTTPError) as refused:
        asyncio.run(api.readyz(Request({"type": "http"}), ""))

    assert (503, "not_finite") == (refused.value.http_status, refused.value.code)


def test_info_tells_what_is_live_and_what_is_accepted(
    client: httpx.Client, classifier: Classifier, config: ServeConfig
):
    """The card, since when, each worker, the limits."""
    told = client.get("/info").json()

    assert ("3", 1) == (told["version"], told["worker"])
    assert datetime.now(UTC) - datetime.fromisoformat(told["serving_since"]) < timedelta(hours=1)
    assert classifier.card.fingerprint == told["classifier"]["fingerprint"]
    assert ("digits", "mlp") == (told["classifier"]["dataset"], told["classifier"]["network"])
    assert list(classifier.card.classes) == told["classifier"]["classes"]
    assert list(classifier.card.shape) == told["classifier"]["shape"]
    assert torch.__version__ == told["classifier"]["torch"]
    assert [(1, "3")] == [(one["worker"], one["version"]) for one in told["workers"]]
    assert {name: getattr(config, name) for name in LIMIT_SETTINGS} == told["limits"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/predict/", 404, "not_found"),
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
def test_another_path_or_method_is_refused_in_our_form(
    client: httpx.Client, method: str, path: str, status: int, code: str
):
    """Nothing but the routes that `/openapi.json` tells; 405 says what is allowed."""
    answer = client.request(method, path)

    assert (status, code) == refusal(answer)
    if status == 405:
        assert ("POST" if path == "/predict" else "GET, HEAD") == answer.headers["allow"]


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
        "image/gif",
        "image/eps",
        "application/json, image/png",
        "application/jsonp",
    ],
)
def test_another_media_type_is_refused_unread(client: httpx.Client, media_type: str):
    """No pickle, no form, no picture format but two: whatever the body is, it is not parsed."""
    answer = client.post(
        "/predict", content=json.dumps({"images": FLAT}), headers={"content-type": media_type}
    )

    assert (415, "unsupported_media_type") == refusal(answer)


def test_a_missing_media_type_is_refused(client: httpx.Client):
    """Nothing is guessed from the body."""
    request = client.build_request("POST", "/predict", content=json.dumps({"images": FLAT}))

    assert (415, "unsupported_media_type") == refusal(client.send(request))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "application/json; charset=latin-1"}, "unsupported_charset"),
        (JSON | {"content-encoding": "gzip"}, "unsupported_encoding"),
    ],
)
def test_another_charset_or_a_compressed_body_is_refused(
    client: httpx.Client, headers: dict[str, str], code: str
):
    """What cannot be measured before it is unpacked is not taken."""
    assert (415, code) == refusal(client.post("/predict", content=b"{}", headers=headers))


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
        (b"GIF89a" + bytes(100), PNG, 415, "unsupported_image"),
        (b"http://127.0.0.1:1/x.png", PNG, 415, "unsupported_image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), PNG, 422, "invalid_image"),
        (b"\xff\xd8\xff" + bytes(100), JPEG, 422, "invalid_image"),
    ],
)
def test_a_body_without_images_is_refused_by_name(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, code: str
):
    """Each kind of bad body has its status and its code."""
    assert (status, code) == refusal(client.post("/predict", content=content, headers=headers))


def test_a_truncated_picture_is_refused(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """Half a file is no image."""
    whole = encoded(images[0])

    assert (422, "invalid_image") == refusal(
        client.post("/predict", content=whole[: len(whole) // 2], headers=PNG)
    )


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(
    client: httpx.Client, encoded: Callable[..., bytes]
):
    """A small file that would unfold to 25 million pixels."""
    bomb = encoded(np.zeros((1, 5000, 5000), np.uint8))

    assert (422, "image_dimensions") == refusal(client.post("/predict", content=bomb, headers=PNG))


def test_a_body_at_its_limit_is_read_and_one_byte_more_is_not(client: httpx.Client, config: ServeConfig):
    """The limit is exact."""
    limit = config.max_body_bytes
    start = json.dumps({"images": FLAT}).encode()

    assert 200 == client.post("/predict", content=start.ljust(limit), headers=JSON).status_code
    assert (413, "body_too_large") == refusal(
        client.post("/predict", content=start.ljust(limit + 1), headers=JSON)
    )


def test_a_chunked_body_is_cut_at_the_limit(client: httpx.Client):
    """A body that declares no length is counted while it comes."""

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    assert (413, "body_too_large") == refusal(client.post("/predict", content=pieces(), headers=JSON))


def test_an_endless_body_is_cut_and_its_connection_closed(server: Server):
    """The server says 413 and hangs up; it does not read for ever."""
    sent, most = 0, 200_000_000
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        while sent < most:
            try:
                wire.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
            except OSError:
                break
            sent += 10_000

    assert sent < most


def test_a_huge_declared_length_is_refused_before_its_bytes_come(server: Server):
    """The answer comes although not one byte of the body was sent."""
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))  # to the end: it hangs up

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_what_the_network_saw_comes_back_when_asked_for(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """`return_input=true`: each image in the classifier's shape, a PNG in base64; without it, none."""
    answer = client.post("/predict?return_input=true", json={"images": images[:3].reshape(3, 784).tolist()})
    plain = client.post("/predict?return_input=false", json={"images": FLAT})

    seen = [base64.b64decode(one["input"]) for one in answer.json()["predictions"]]
    assert [encoded(image) for image in images[:3]] == seen
    assert "input" not in plain.json()["predictions"][0]


def counted(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_what_is_answered_is_counted(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """Requests by route and status, their seconds, predictions by class and version, confidence, refusals."""
    probabilities = classifier.predict(images[:1])
    label = classifier.to_labels(probabilities)[0]
    below = max(edge for edge in CONFIDENCE_BUCKETS if edge < probabilities.max())
    keys = {
        'relearn_requests_total{route="/predict",status="200"}': 2,
        'relearn_requests_total{route="/predict",status="422"}': 1,
        'relearn_requests_total{route="other",status="404"}': 1,
        f'relearn_predictions_total{{label="{label}",version="3"}}': 4,
        'relearn_request_seconds_count{route="/predict"}': 3,
        'relearn_confidence_count{version="3"}': 4,
        'relearn_confidence_bucket{le="1.0",version="3"}': 4,
        f'relearn_confidence_bucket{{le="{below}",version="3"}}': 0,
        'relearn_request_errors_total{code="missing_field"}': 1,
        'relearn_request_errors_total{code="not_found"}': 1,
    }
    before = counted(client)

    for _ in range(2):
        client.post("/predict", json={"images": images[[0, 0]].reshape(2, 784).tolist()})
    client.post("/predict", json={})
    client.get("/made/up/by/a/client")

    after = counted(client)
    assert keys == {key: after[key] - before.get(key, 0) for key in keys}
    assert not any("made" in key for key in after)


def test_swaps_are_counted(classifier: Classifier, tmp_path: Path):
    """From one version to another; what is served first, or loaded again, is none."""
    api = PredictionApp(ServeConfig(), WorkerStatusDir(tmp_path), ApiKeys([]))

    for version in ("3", "4", "4", "3"):
        api.set_model(ServedModel(version, classifier))

    assert b"relearn_model_reloads_total 2.0" in api.metrics.render().body


def test_without_http_the_answer_is_the_same(classifier: Classifier, images: np.ndarray, tmp_path: Path):
    """What BentoML calls in a process that has the service is the function behind the route."""
    api = PredictionApp(
        ServeConfig(), WorkerStatusDir(tmp_path), ApiKeys([]), bundled_model=ServedModel("3", classifier)
    )

    answer = api.predict_images(images[:2].reshape(2, 784))

    got = [list(one["probabilities"].values()) for one in answer["predictions"]]
    assert np.allclose(classifier.predict(images[:2]), got, atol=1e-5)
    assert "3" == answer["version"]
