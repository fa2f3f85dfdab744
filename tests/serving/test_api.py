"""The API over real HTTP: a real Bento behind BentoML's own server."""

import base64
import json
import socket
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from model.classifier import Classifier
from model.images import decode, fit_image
from serving.server import Server
from serving.settings import ServeConfig

JSON = {"content-type": "application/json"}
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
    assert classifier.labels(expected)[0] == first["label"]


def test_a_batch_is_answered_in_its_order(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """64 images at once: each gets the answer it gets alone."""
    expected = classifier.predict(images)

    answer = client.post("/predict", json={"images": images.reshape(64, 784).tolist()})

    assert np.allclose(expected, numbers(answer), atol=1e-5)
    assert classifier.labels(expected) == [one["label"] for one in answer.json()["predictions"]]
    assert len(set(classifier.labels(expected))) > 3  # so that the order shows


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
    fitted = np.stack([fit_image(decode(content), (1, 28, 28), "strokes")])

    answer = client.post("/predict", content=content, headers=JPEG)

    assert np.allclose(classifier.predict(fitted), numbers(answer), atol=1e-5)


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
    for path in ("/livez", "/readyz"):
        assert 200 == client.get(path).status_code
        assert 200 == client.head(path).status_code


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/predict/", 404, "not_found"),
        ("GET", "/predict/livez", 404, "not_found"),
        ("GET", "/docs.json", 404, "not_found"),
        ("GET", "/healthz", 404, "not_found"),
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
        "multipart/form-data; boundary=x",
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
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
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
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = b"".join(iter(lambda: wire.recv(65_536), b""))  # to the end: it hangs up

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_what_the_network_saw_comes_back_when_asked_for(
    client: httpx.Client, images: np.ndarray, encoded: Callable[..., bytes]
):
    """`seen=true`: each image in the classifier's shape, a PNG in base64; without it, none."""
    answer = client.post("/predict?seen=true", json={"images": images[:3].reshape(3, 784).tolist()})
    plain = client.post("/predict?seen=false", json={"images": FLAT})

    seen = [base64.b64decode(one["seen"]) for one in answer.json()["predictions"]]
    assert [encoded(image) for image in images[:3]] == seen
    assert "seen" not in plain.json()["predictions"][0]


def counted(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_what_is_answered_is_counted(client: httpx.Client, classifier: Classifier, images: np.ndarray):
    """Requests by route and status, their seconds, predictions by class and version."""
    label = classifier.labels(classifier.predict(images[:1]))[0]
    keys = {
        'relearn_requests_total{route="/predict",status="200"}': 2,
        'relearn_requests_total{route="/predict",status="422"}': 1,
        'relearn_requests_total{route="other",status="404"}': 1,
        f'relearn_predictions_total{{label="{label}",version="3"}}': 4,
        'relearn_request_seconds_count{route="/predict"}': 3,
    }
    before = counted(client)

    for _ in range(2):
        client.post("/predict", json={"images": images[[0, 0]].reshape(2, 784).tolist()})
    client.post("/predict", json={})
    client.get("/made/up/by/a/client")

    after = counted(client)
    assert keys == {key: after[key] - before.get(key, 0) for key in keys}
    assert not any("made" in key for key in after)
