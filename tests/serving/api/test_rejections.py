"""Every kind of invalid request, by its case id (R1 to R53): status, code and message of the real server."""

import base64
import binascii
import gzip
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server

JSON = "application/json"
FLAT = [0] * 784
ROWS = [[0] * 28] * 28
FORM_TYPE = "multipart/form-data; boundary=b"


def get_error(response: httpx.Response) -> tuple[int, str, str]:
    """Check the format of an error response: no traceback, no path. Return status, code and message."""
    assert JSON == response.headers["content-type"]
    error = response.json()["error"]
    assert {"code", "message", "request_id"} == set(error)
    assert response.headers["x-request-id"] == error["request_id"]
    assert not any(word in response.text for word in ("Traceback", "/tmp", "site-packages", ".py", "\\n"))
    return response.status_code, error["code"], error["message"]


def assert_error(response: httpx.Response, status: int, code: str, message: str) -> None:
    error = get_error(response)
    assert (status, code) == error[:2]
    assert message in error[2]


def json_body(value: object) -> bytes:
    return json.dumps({"images": value}).encode()


def form_part(disposition: str, content: bytes) -> bytes:
    return (
        b"--b\r\nContent-Disposition: form-data; "
        + disposition.encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n--b--\r\n"
    )


def png_chunk(chunk_type: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", binascii.crc32(chunk_type + content))
    return struct.pack(">I", len(content)) + chunk_type + content + checksum


def declared_png(width: int, height: int, depth: int = 8, color_type: int = 0, data: bytes = b"") -> bytes:
    """Build a PNG that declares a size, whatever its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def url_template(target: str) -> bytes:
    return {
        "loopback": b"http://127.0.0.1:%d/x.png",
        "metadata": b"http://169.254.169.254/latest/meta-data",
        "file": b"file:///etc/passwd",
        "mapped": b"http://[::ffff:127.0.0.1]:%d/x.png",
    }[target]


INVALID_JSON = [
    ("R1", b"", 400, "empty_body", "body: got none"),
    ("R2-empty", b"{}", 422, "missing_field", 'got no "images", accepted: an object with "images"'),
    ("R2-other", b'{"image": []}', 422, "unknown_field", 'got "image", accepted: an object with "images"'),
    ("R3-null", b"null", 422, "wrong_type", "accepted: an object"),
    ("R3-list", b"[]", 422, "wrong_type", "accepted: an object"),
    ("R3-text", b'"x"', 422, "wrong_type", "accepted: an object"),
    ("R3-number", b"5", 422, "wrong_type", "accepted: an object"),
    ("R4", b'{"images": [1, 2', 400, "invalid_json", "invalid JSON at byte 16"),
    ("R5-garbage", json_body(FLAT) + b"x", 400, "invalid_json", "invalid JSON at byte"),
    ("R5-two", json_body(FLAT) * 2, 400, "invalid_json", "invalid JSON at byte"),
    ("R6", b'{"images": [1], ' + json_body(FLAT)[1:], 400, "duplicate_key", "got a member twice"),
    ("R7", json_body(FLAT)[:-1] + b', "top": 3}', 422, "unknown_field", "accepted: an object"),
    ("R8", b"\xff", 400, "invalid_encoding", "byte 0 is not UTF-8"),
    ("R8-inside", b'{"images": "\xc3\x28"}', 400, "invalid_encoding", "byte 12 is not UTF-8"),
    ("R10-nan", b'{"images": [NaN]}', 400, "non_finite", "NaN and Infinity are not JSON numbers"),
    ("R10-inf", b'{"images": [Infinity]}', 400, "non_finite", "NaN and Infinity are not JSON numbers"),
    ("R10-minus", b'{"images": [-Infinity]}', 400, "non_finite", "NaN and Infinity are not JSON numbers"),
    ("R11", b'{"images": [1e400]}', 422, "non_finite", "images[0]: got a number that is too large"),
    (
        "R12-low",
        json_body([-1, *FLAT[1:]]),
        422,
        "out_of_range",
        "images[0]: got -1, accepted: integers",
    ),
    ("R12-high", json_body([FLAT, [*FLAT[1:], 256]]), 422, "out_of_range", "images[1][783]: got 256"),
    ("R12-huge", json_body([1e30]), 422, "out_of_range", "images[0]: got 1e+30"),
    ("R12-fraction", json_body([0.5, 2, *FLAT[2:]]), 422, "not_whole", "images[0]: got 0.5"),
    ("R13-text", json_body([[*FLAT[1:], "12"]]), 422, "wrong_type", "images[0][783]: got a string"),
    ("R13-texts", json_body(["12"]), 422, "wrong_type", "images[0]: got another string"),
    ("R13-bool", json_body([0, True]), 422, "wrong_type", "images[1]: got a boolean"),
    ("R13-null", json_body([None]), 422, "wrong_type", "images[0]: got null"),
    (
        "R14-less",
        json_body(FLAT[1:]),
        422,
        "wrong_shape",
        "got 783, accepted: one image or several",
    ),
    ("R14-more", json_body([*FLAT, 0]), 422, "wrong_shape", "got 785"),
    ("R14-second", json_body([FLAT, FLAT[1:]]), 422, "wrong_shape", "images[1]: got 783"),
    ("R15-rows", json_body(ROWS[1:]), 422, "wrong_shape", "got 27 × 28"),
    ("R15-columns", json_body([[0] * 29] * 28), 422, "wrong_shape", "got 28 × 29"),
    (
        "R15-ragged",
        json_body([[*ROWS[1:], [0]]]),
        422,
        "wrong_shape",
        "images[0]: got rows of unequal length",
    ),
    ("R16", json_body([[[0] * 3] * 28] * 28), 422, "wrong_shape", "got 28 × 28 × 3"),
    ("R17", json_body([]), 422, "empty_batch", "images: got none, accepted: 1 to 64"),
    ("R18", json_body([FLAT] * 65), 413, "batch_too_large", "images: got 65, accepted: up to 64"),
    ("R19", b'{"images": ' + b"[" * 100_000, 400, "too_deep", "nested too deeply"),
    ("R19-object", b'{"a":' * 50_000, 400, "too_deep", "nested too deeply"),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in INVALID_JSON]
)
def test_invalid_json_is_rejected(client: httpx.Client, content: bytes, status: int, code: str, message: str):
    """The message says what is wrong, where, and what is accepted."""
    assert_error(
        client.post("/predict", content=content, headers={"content-type": JSON}), status, code, message
    )


@pytest.mark.parametrize("count", [pytest.param(64, id="R18")])
def test_image_limit_itself_is_accepted(client: httpx.Client, count: int):
    """A request with exactly the limit of images is predicted."""
    assert count == len(client.post("/predict", json={"images": [FLAT] * count}).json()["predictions"])


@pytest.mark.parametrize("extra", [pytest.param(0, id="R21-limit"), pytest.param(1, id="R21-over")])
def test_body_limit_is_exact(client: httpx.Client, config: ServeConfig, extra: int):
    """A body at the limit is accepted; one byte more gets 413."""
    content = json_body(FLAT).ljust(config.max_body_bytes + extra)

    response = client.post("/predict", content=content, headers={"content-type": JSON})

    if extra:
        assert_error(response, 413, "body_too_large", f"body: accepted: up to {config.max_body_bytes} bytes")
    else:
        assert 200 == response.status_code


PICKLE = "application/vnd.bentoml+pickle"
INVALID_MEDIA_TYPES = [
    ("R24", {"content-type": JSON, "content-encoding": "gzip"}, "unsupported_encoding", "Content-Encoding"),
    ("R24-br", {"content-type": JSON, "content-encoding": "br"}, "unsupported_encoding", "Content-Encoding"),
    (
        "R25",
        {},
        "unsupported_media_type",
        "Content-Type: got none, accepted: application/json, ",
    ),
    ("R26-text", {"content-type": "text/plain"}, "unsupported_media_type", "Content-Type"),
    ("R26-xml", {"content-type": "application/xml"}, "unsupported_media_type", "Content-Type"),
    ("R27", {"content-type": PICKLE}, "unsupported_media_type", "Content-Type"),
    (
        "R28-case",
        {"content-type": "Application/Vnd.BentoML+Pickle"},
        "unsupported_media_type",
        "Content-Type",
    ),
    ("R28-charset", {"content-type": f"{PICKLE}; charset=utf-8"}, "unsupported_media_type", "Content-Type"),
    ("R28-parameter", {"content-type": f"{PICKLE} ; x"}, "unsupported_media_type", "Content-Type"),
    (
        "R28-lengths",
        {"content-type": PICKLE, "buffer-lengths": "1,2"},
        "unsupported_media_type",
        "Content-Type",
    ),
    (
        "R28-runner",
        {"content-type": PICKLE, "payload-container": "NdarrayContainer"},
        "unsupported_media_type",
        "Co",
    ),
    ("R28-batch", {"content-type": PICKLE, "batch-size": "1"}, "unsupported_media_type", "Content-Type"),
    ("R28-both", {"content-type": f"{JSON}, {PICKLE}"}, "unsupported_media_type", "Content-Type"),
    ("R34-gif", {"content-type": "image/gif"}, "unsupported_image", "the image is not PNG"),
    ("R35", {"content-type": "image/eps"}, "unsupported_image", "the image is not PNG"),
    (
        "charset",
        {"content-type": f"{JSON}; charset=utf-7"},
        "unsupported_charset",
        "charset, accepted: utf-8",
    ),
]


@pytest.fixture
def malicious_pickle(tmp_path: Path) -> tuple[bytes, Path]:
    """Return a pickle that creates a file when it is loaded, and the path of that file."""
    canary = tmp_path / "canary"
    code = f"import pathlib; pathlib.Path({str(canary)!r}).touch()"
    return b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR.", canary


@pytest.mark.parametrize(
    ("headers", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in INVALID_MEDIA_TYPES]
)
def test_unsupported_media_type_is_rejected(
    client: httpx.Client,
    malicious_pickle: tuple[bytes, Path],
    headers: dict[str, str],
    code: str,
    message: str,
):
    """Unsupported media types get 415 in every spelling, and the body is not unpickled."""
    content, canary = malicious_pickle

    assert_error(client.post("/predict", content=content, headers=headers), 415, code, message)
    assert not canary.exists()


def test_malicious_pickle_works(malicious_pickle: tuple[bytes, Path]):
    """The pickle of the test above creates its file when it is loaded."""
    import pickle

    content, canary = malicious_pickle
    pickle.loads(content)

    assert canary.exists()


@pytest.mark.parametrize("size", [pytest.param(10**9, id="R24")])
def test_gzip_bomb_is_not_decompressed(client: httpx.Client, server: Server, size: int):
    """A gigabyte of zeros compressed to a megabyte is rejected; the worker's memory does not grow."""
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as gzip_file:
        for _ in range(size // 10**7):
            gzip_file.write(bytes(10**7))
    bytes_before = memory_bytes(server)

    response = client.post(
        "/predict",
        content=bomb.getvalue()[:250_000],
        headers={"content-type": JSON, "content-encoding": "gzip"},
    )

    assert_error(response, 415, "unsupported_encoding", "accepted: none")
    assert memory_bytes(server) - bytes_before < 30e6


def memory_bytes(server: Server) -> int:
    """Return the resident memory of all workers in bytes."""
    return sum(worker.memory_info().rss for worker in server.worker_processes)


@pytest.mark.parametrize("fields", [pytest.param(60_000, id="R29")])
def test_urlencoded_form_is_rejected(client: httpx.Client, fields: int):
    """A URL-encoded form of any size is rejected without parsing."""
    content = b"&".join(b"a=1" for _ in range(fields))
    start = time.perf_counter()

    response = client.post(
        "/predict", content=content, headers={"content-type": "application/x-www-form-urlencoded"}
    )

    assert_error(
        response,
        415,
        "unsupported_media_type",
        "Content-Type: got application/x-www-form-",
    )
    assert time.perf_counter() - start < 2


INVALID_FORMS = [
    ("R30-none", "multipart/form-data", form_part('name="f"; filename="x"', b"x"), 400, "invalid_multipart"),
    ("R30-long", "multipart/form-data; boundary=" + "b" * 10_000, b"x", 415, "unsupported_media_type"),
    (
        "R30-header",
        FORM_TYPE,
        form_part('name="f"; filename="x"; y="' + "z" * 200_000 + '"', b"x"),
        400,
        "invalid_multipart",
    ),
    ("R30-headers", FORM_TYPE, b"--b\r\n" + b"A: b\r\n" * 20_000, 400, "invalid_multipart"),
    (
        "R30-preamble",
        FORM_TYPE,
        b"p" * 200_000 + form_part('name="f"; filename="x"', b"x"),
        400,
        "invalid_multipart",
    ),
    ("R30-newlines", FORM_TYPE, b"\r\n" * 100_000, 400, "invalid_multipart"),
    ("R30-dashes", FORM_TYPE, b"--b\r\n" * 50_000, 400, "invalid_multipart"),
    ("R30-parts", FORM_TYPE, form_part('name="f"; filename="x"', b"x")[:-7] * 2_000, 413, "batch_too_large"),
    ("R33", FORM_TYPE, form_part('name="file"', b"/etc/passwd"), 422, "wrong_type"),
    ("R33-json", JSON, json_body("/etc/passwd"), 422, "wrong_type"),
]


@pytest.mark.parametrize(
    ("media_type", "content", "status", "code"), [pytest.param(*row[1:], id=row[0]) for row in INVALID_FORMS]
)
def test_invalid_form_is_rejected_quickly(
    client: httpx.Client, server: Server, media_type: str, content: bytes, status: int, code: str
):
    """An invalid form costs less than 100 ms of CPU time, and no text in it is used as a path."""
    seconds_before = cpu_seconds(server)

    response = client.post("/predict", content=content, headers={"content-type": media_type})

    assert_error(response, status, code, "")
    assert "root:" not in response.text
    assert cpu_seconds(server) - seconds_before < 0.1


def cpu_seconds(server: Server) -> float:
    """Return the CPU time of all workers in seconds."""
    return sum(sum(worker.cpu_times()[:2]) for worker in server.worker_processes)


@pytest.fixture
def canary() -> Iterator[tuple[int, list[str]]]:
    """Start a server that must get no request; yield its port and the paths requested."""
    requested_paths: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield listener.server_port, requested_paths
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.mark.parametrize(
    ("target", "transport", "status"),
    [
        pytest.param(target, transport, status, id=f"{row}-{transport}-{target}")
        for target in ("loopback", "metadata", "file", "mapped")
        for row, transport, status in [
            ("R31", "field", 422),
            ("R31", "file", 415),
            ("R32", "json", 422),
            ("R32", "png", 415),
            ("R32", "raw", 422),
        ]
    ],
)
def test_no_url_is_fetched(
    client: httpx.Client, canary: tuple[int, list[str]], target: str, transport: str, status: int
):
    """A URL in a request, wherever it is, is never fetched."""
    port, requested_paths = canary
    template = url_template(target)
    url = template % port if b"%d" in template else template
    media_type, content = {
        "field": (FORM_TYPE, form_part('name="file"', url)),
        "file": (FORM_TYPE, form_part('name="file"; filename="x.png"', url)),
        "json": (JSON, json_body(url.decode())),
        "png": ("image/png", url),
        "raw": ("application/octet-stream", url),
    }[transport]

    response = client.post("/predict", content=content, headers={"content-type": media_type})

    assert status == get_error(response)[0]
    assert [] == requested_paths
    assert 200 == httpx.get(f"http://127.0.0.1:{port}/own", trust_env=False).status_code
    assert ["/own"] == requested_paths


def encode_black(
    file_format: str, mode: str = "L", size: tuple[int, int] = (40, 40), **options: object
) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, 0).save(content, file_format, **options)
    return content.getvalue()


def animated() -> bytes:
    return encode_black("PNG", save_all=True, append_images=[Image.new("L", (40, 40), 9)])


def encode_noise() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def corrupt_noise() -> bytes:
    content = bytearray(encode_noise())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def repeat_scans(count: int) -> bytes:
    """Build a progressive grayscale JPEG of `count` scans by repeating its last scan."""
    content = encode_black("JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * (count - content.count(b"\xff\xda")) + content[-2:]


INVALID_IMAGE_FILES = [
    ("R34-ico", encode_black("ICO"), 415, "unsupported_image", "body: the image is not PNG, JPEG, "),
    ("R34-pcx", encode_black("PCX"), 415, "unsupported_image", "the image is not PNG, JPEG, "),
    ("R34-psd", b"8BPS\x00\x01" + bytes(100), 415, "unsupported_image", "the image is not PNG, JPEG, "),
    (
        "R34-eps",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(x) print",
        415,
        "unsupported_image",
        "the image is not PNG, JPEG, ",
    ),
    (
        "R34-svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        415,
        "unsupported_image",
        "the image is not PNG, JPEG, ",
    ),
    ("R34-jpeg2000", encode_black("JPEG2000"), 415, "unsupported_image", "the image is not PNG, JPEG, "),
    ("R36-truncated", encode_noise()[:-200], 422, "invalid_image", "cannot be decoded"),
    (
        "R36-scans",
        repeat_scans(1_500),
        422,
        "image_too_complex",
        "body: the image has more than 32 scans, accepted: up to 32",
    ),
    ("R36-crc", corrupt_noise(), 422, "invalid_image", "cannot be decoded"),
    ("R36-magic", b"\x89PNG\r\n\x1a\n", 422, "invalid_image", "cannot be decoded"),
    ("R36-empty", b"", 400, "empty_body", "body: got none"),
    ("R36-jpeg", encode_black("JPEG")[:200], 422, "invalid_image", "cannot be decoded"),
    (
        "R37-one",
        encode_black("PNG", size=(1, 1)),
        422,
        "image_dimensions",
        "1 × 1 pixels, accepted: sides of 4",
    ),
    ("R37-none", declared_png(0, 28), 422, "invalid_image", "cannot be decoded"),
    ("R37-20000", declared_png(20_000, 20_000), 422, "image_dimensions", "20000 × 20000 pixels"),
    ("R37-65535", declared_png(65_535, 65_535), 422, "image_dimensions", "65535 × 65535 pixels"),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "message"),
    [pytest.param(*row[1:], id=row[0]) for row in INVALID_IMAGE_FILES],
)
def test_invalid_image_file_is_rejected(
    client: httpx.Client, server: Server, content: bytes, status: int, code: str, message: str
):
    """An invalid file is rejected by its content, and no other program is started (as for PostScript)."""
    children_before = {worker: worker.children() for worker in server.worker_processes}

    response = client.post("/predict", content=content, headers={"content-type": "image/png"})

    assert_error(response, status, code, message)
    assert children_before == {worker: worker.children() for worker in server.worker_processes}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(declared_png(20_000, 20_000, data=bytes(10**7)), id="R37-png"),
        pytest.param(declared_png(65_535, 65_535, depth=16, color_type=6), id="R37-16-bit"),
        pytest.param(encode_black("PNG", "1", (8_000, 8_000)), id="R37-bits"),
        pytest.param(encode_black("JPEG", "L", (4_100, 4_100), quality=1), id="R37-jpeg"),
    ],
)
def test_oversized_image_is_rejected_undecoded(client: httpx.Client, server: Server, content: bytes):
    """Ten times in each format, an image with too many pixels does not increase the worker's memory."""
    bytes_before = memory_bytes(server)

    for _ in range(10):
        file = base64.b64encode(content).decode()
        for response in (
            client.post("/predict", content=content, headers={"content-type": "image/png"}),
            client.post("/predict", json={"images": [file]}),
            client.post("/predict", files={"f": content}),
        ):
            assert_error(response, 422, "image_dimensions", "pixels, accepted:")
    assert memory_bytes(server) - bytes_before < 30e6


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode_black("PNG", "I;16"), id="R38-16-bit"),
        pytest.param(encode_black("PNG", "P"), id="R38-palette"),
        pytest.param(encode_black("PNG", "RGBA"), id="R38-alpha"),
        pytest.param(encode_black("PNG", "LA"), id="R38-gray-alpha"),
        pytest.param(encode_black("PNG", "1"), id="R38-bits"),
        pytest.param(encode_black("JPEG", "CMYK"), id="R38-cmyk"),
        *[
            pytest.param(encode_black(file_format), id=f"R38-{file_format}")
            for file_format in ("WEBP", "BMP", "TIFF", "GIF")
        ],
        pytest.param(
            encode_black("PNG", "L", save_all=True, append_images=[Image.new("L", (40, 40), 9)]),
            id="R38-apng",
        ),
    ],
)
def test_every_pixel_format_is_accepted(client: httpx.Client, content: bytes):
    """Images of every mode that Pillow reads are converted to grayscale."""
    assert 200 == client.post("/predict", content=content, headers={"content-type": "image/png"}).status_code


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, id=f"R40-{method}") for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")],
)
def test_other_methods_are_rejected(client: httpx.Client, method: str):
    """A 405 names the accepted method."""
    response = client.request(method, "/predict")

    assert_error(response, 405, "method_not_allowed", "Use POST for /predict")
    assert "POST" == response.headers["allow"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("/nothing", 404, id="R41-unknown"),
        pytest.param("/../../etc/passwd", 404, id="R41-dots"),
        pytest.param("/%2e%2e/%2e%2e/etc/passwd", 404, id="R41-encoded"),
        pytest.param("/%252e%252e/etc/passwd", 404, id="R41-twice"),
        pytest.param("/%00", 404, id="R41-nul-encoded"),
        pytest.param("//livez", 404, id="R41-slashes"),
        pytest.param("/livez/", 404, id="R41-slash"),
        pytest.param("/LIVEZ", 404, id="R41-case"),
        pytest.param("/predict;x", 404, id="R41-semicolon"),
        pytest.param("/\0", 400, id="R41-nul"),
        pytest.param("/é", 400, id="R41-letters"),
    ],
)
def test_other_paths_are_rejected(server: Server, target: str, status: int):
    """Paths are compared exactly; invalid HTTP gets the same error format."""
    response = send_raw(server, b"GET " + target.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")[0]

    assert status == response.status
    if status == 404:
        assert b'"code":"not_found"' in response.content
        assert b"etc" not in response.content
    else:
        assert b'"code":"invalid_http","message":"request: got invalid HTTP' in response.content


class RawResponse:
    """A response read from a socket, and whether the server closed the connection after it."""

    def __init__(self, connection: socket.socket) -> None:
        response = http.client.HTTPResponse(connection)
        response.begin()
        self.status, self.headers, self.content = response.status, response.headers, response.read()
        connection.settimeout(0.3)
        try:
            self.closed = not connection.recv(1)
        except TimeoutError:
            self.closed = False
        except ConnectionResetError:
            self.closed = True


def send_raw(server: Server, *requests: bytes) -> list[RawResponse]:
    """Send raw bytes, each request over a new connection."""
    responses = []
    for sent in requests:
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(sent)
            responses.append(RawResponse(connection))
    return responses


def build_head(*lines: str) -> bytes:
    return "\r\n".join(
        ["POST /predict HTTP/1.1", "Host: localhost", f"Content-Type: {JSON}", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 10"], id="R22-short"),
        pytest.param(["Content-Length: -5"], id="R22-negative"),
        pytest.param(["Content-Length: x"], id="R22-word"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="R22-two"),
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="R22-chunked"),
        pytest.param(["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], id="R22-transfer"),
    ],
)
def test_wrong_content_length_is_rejected(server: Server, lines: list[str]):
    """A wrong length gets 400 and closes the connection: the start of the next request is unknown."""
    (response,) = send_raw(server, build_head(*lines) + json_body(FLAT))

    assert (400, True) == (response.status, response.closed)
    assert b'"code":"invalid_http"' in response.content


@pytest.mark.parametrize("length", [pytest.param(100_000, id="R22-long")])
def test_missing_body_times_out(server_with_keys: Server, api_keys: tuple[str, str], length: int):
    """A body that does not arrive gets 504 after the timeout, and the connection is closed."""
    (response,) = send_raw(
        server_with_keys,
        build_head(f"X-API-Key: {api_keys[0]}", f"Content-Length: {length}") + json_body(FLAT),
    )

    assert (504, True) == (response.status, response.closed)
    assert b'"code":"timeout","message":"request: not finished within 2 seconds"' in response.content


@pytest.mark.parametrize(
    "media_type", [pytest.param(JSON, id="R23"), pytest.param("text/plain", id="R23-unread")]
)
def test_endless_body_is_rejected(server: Server, media_type: str):
    """The server responds and closes the connection at the limit, also if it never reads the body."""
    sent, max_bytes, response = 0, 200_000_000, b""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(
            build_head("Transfer-Encoding: chunked").replace(JSON.encode(), media_type.encode())
        )
        while sent < max_bytes:
            try:
                connection.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
                response += b"" if response else connection.recv(65_536) if sent > 1_000_000 else b""
            except OSError:
                break
            sent += 10_000

    assert sent < max_bytes
    assert response[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 415", b"")


INVALID_KEYS = [
    ("R42-none", {}, "missing_key", "key: got none, accepted: a key of this server"),
    ("R42-empty", {"x-api-key": ""}, "invalid_key", "key: got an unknown one"),
    ("R42-empty-bearer", {"authorization": "Bearer"}, "invalid_key", "key: got an unknown one"),
    ("R42-wrong", {"x-api-key": "first-key-0123456780"}, "invalid_key", "key: got an unknown one"),
    ("R42-start", {"x-api-key": "first-key-012345678"}, "invalid_key", "key: got an unknown one"),
    ("R42-long", {"x-api-key": "x" * 10_000}, "invalid_key", "key: got an unknown one"),
    ("R42-letters", {"x-api-key": b"\xe9" * 20}, "invalid_key", "key: got an unknown one"),
    ("R42-basic", {"authorization": "Basic {key}"}, "invalid_key", "key: got an unknown one"),
    ("R43-bare", {"authorization": "{key}"}, "invalid_key", "key: got an unknown one"),
    ("R43-spaces", {"authorization": "Bearer  {key}"}, "invalid_key", "key: got an unknown one"),
    ("R43-both", {"x-api-key": "{key}", "authorization": "Bearer {key}"}, "invalid_key", "key: got several"),
]


@pytest.mark.parametrize(
    ("headers", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in INVALID_KEYS]
)
@pytest.mark.parametrize("path", ["/predict", "/info"])
def test_request_without_valid_key_is_rejected(
    server_with_keys: Server,
    api_keys: tuple[str, str],
    path: str,
    headers: dict[str, str],
    code: str,
    message: str,
):
    """Neither predictions nor `/info` are available without exactly one valid key."""
    filled_headers = {
        name: value if isinstance(value, bytes) else value.replace("{key}", api_keys[0])
        for name, value in headers.items()
    }

    response = httpx.request(
        "POST" if path == "/predict" else "GET", server_with_keys.url + path, headers=filled_headers
    )

    assert_error(response, 401, code, message)


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"R42-{name}") for name in ("key", "api_key", "token")]
)
def test_key_in_the_url_is_not_accepted(
    server_with_keys: Server, client_with_key: httpx.Client, api_keys: tuple[str, str], name: str
):
    """URLs appear in logs, so a key in the query is ignored. With a valid header it is an unknown parameter,
    and the message does not repeat it."""
    target = f"/info?{name}={api_keys[0]}"

    assert_error(
        httpx.get(server_with_keys.url + target, trust_env=False), 401, "missing_key", "key: got none"
    )
    assert_error(
        client_with_key.get(target),
        422,
        "unknown_parameter",
        "query: got an unknown or repeated parameter, accepted: none",
    )
    assert api_keys[0] not in client_with_key.get(target).text


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        pytest.param(["X-API-Key: {key} "], 401, id="R43-space"),
        pytest.param(["X-API-Key: {key}\n"], 400, id="R43-newline"),
        pytest.param(["Authorization: Bearer {key}", "Authorization: Bearer {key}"], 401, id="R43-two"),
        pytest.param(["X-API-Key: {key}", "X-API-Key: {key}"], 401, id="R43-two-keys"),
    ],
)
def test_ambiguous_key_is_rejected(
    server_with_keys: Server, api_keys: tuple[str, str], lines: list[str], status: int
):
    """A key with whitespace around it, or given twice, is rejected."""
    sent = "\r\n".join(["GET /info HTTP/1.1", "Host: localhost", *lines, "", ""]).replace(
        "{key}", api_keys[0]
    )

    assert status == send_raw(server_with_keys, sent.encode())[0].status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param("X-Request-ID: a\r\nSet-Cookie: evil=1", 200, id="R45-crlf"),
        pytest.param("X-Request-ID: a\nSet-Cookie: evil=1", 400, id="R45-lf"),
        pytest.param("X-Request-ID: a\rSet-Cookie: evil=1", 400, id="R45-cr"),
        pytest.param("X-Request-ID: a\0b", 400, id="R46-nul"),
        pytest.param("X-Request-ID: a\x1bb", 400, id="R46-escape"),
        pytest.param("X-Request-ID: " + "x" * 10_000, 200, id="R46-long"),
        pytest.param("X-Request-ID: <b>a</b>", 200, id="R46-signs"),
        pytest.param("X-Request-ID: \u00e9", 200, id="R46-letters"),
    ],
)
def test_request_id_is_plain_or_replaced(server: Server, line: str, status: int):
    """A request id cannot add a header; one that is not short and plain is replaced."""
    sent = f"GET /livez HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode("latin-1")

    (response,) = send_raw(server, sent)

    assert status == response.status
    assert "set-cookie" not in response.headers
    if status == 200:
        assert response.headers["x-request-id"] == "a" or 32 == len(response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        pytest.param({"host": "evil.example"}, "forbidden_host", id="R47-name"),
        pytest.param({"host": "localhost.evil.example"}, "forbidden_host", id="R47-prefix"),
        pytest.param({"host": "127.0.0.1.evil.example"}, "forbidden_host", id="R47-address"),
        pytest.param({"host": "192.168.0.1"}, "forbidden_host", id="R47-neighbour"),
        pytest.param({"host": "user@localhost"}, "forbidden_host", id="R47-user"),
        pytest.param({"host": ""}, "forbidden_host", id="R47-empty"),
        pytest.param({"origin": "http://evil.example"}, "forbidden_origin", id="R48-site"),
        pytest.param({"origin": "null"}, "forbidden_origin", id="R48-null"),
        pytest.param({"origin": "http://localhost"}, "forbidden_origin", id="R48-port"),
        pytest.param({"origin": "http://127.0.0.1:1"}, "forbidden_origin", id="R48-other-port"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_requests_of_other_sites_are_rejected(
    client: httpx.Client, headers: dict[str, str], code: str, method: str
):
    """Without keys, rebound host names and forms or preflights of other sites get 403."""
    response = client.request(method, "/predict", json={"images": FLAT}, headers=headers)

    assert_error(response, 403, code, "accepted:")
    assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(host, id=f"R47-{host}")
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:3000")
    ],
)
def test_requests_of_this_machine_are_accepted(client: httpx.Client, host: str):
    """Requests to any local name and port, from a page of the same origin, are accepted."""
    headers = {"host": host, "origin": f"http://{host}"}

    assert 200 == client.post("/predict", json={"images": FLAT}, headers=headers).status_code


@pytest.mark.parametrize(
    "version", [pytest.param(version, id=f"R51-{version}") for version in ("2", "latest", "<b>x</b>")]
)
def test_request_for_another_version_gets_404(client: httpx.Client, version: str):
    """The message names the live version."""
    response = client.post("/predict", params={"version": version}, json={"images": FLAT})

    assert_error(
        response, 404, "model_version_not_found", "version: got another one, accepted: 3, the live version"
    )


def start_request(server: Server, key: str) -> socket.socket:
    """Open a connection and send a request with an incomplete body."""
    connection = socket.create_connection(server.address, timeout=10)
    connection.sendall(
        build_head(f"X-API-Key: {key}", f"Content-Length: {len(json_body(FLAT))}") + json_body(FLAT)[:100]
    )
    return connection


@pytest.mark.parametrize("limit", [pytest.param(2, id="R52")])
def test_requests_over_the_limit_are_rejected_at_once(
    server_with_keys: Server, client_with_key: httpx.Client, api_keys: tuple[str, str], limit: int
):
    """A request over the limit gets 429 with a wait time; health, metrics and accepted ones still work."""
    rest_of_body = json_body(FLAT)[100:]
    with (
        start_request(server_with_keys, api_keys[0]) as first,
        start_request(server_with_keys, api_keys[0]) as second,
    ):
        time.sleep(0.2)
        start = time.perf_counter()
        response = client_with_key.post("/predict", json={"images": FLAT})
        assert time.perf_counter() - start < 1
        assert_error(response, 429, "too_many_requests", f"accepted: {limit} per worker")
        assert "1" == response.headers["retry-after"]
        assert [200, 200] == [client_with_key.get(path).status_code for path in ("/readyz", "/metrics")]
        for connection in (first, second):
            connection.sendall(rest_of_body)
            assert 200 == RawResponse(connection).status
    assert 200 == client_with_key.post("/predict", json={"images": FLAT}).status_code


@pytest.mark.parametrize("pause", [pytest.param(0.3, id="R53")])
def test_slow_client_times_out_once(
    server_with_keys: Server, client_with_key: httpx.Client, api_keys: tuple[str, str], pause: float
):
    """A client that sends slowly gets one 504 at the timeout, and the worker is free again."""
    start = time.monotonic()
    with (
        start_request(server_with_keys, api_keys[0]) as first,
        start_request(server_with_keys, api_keys[0]) as second,
    ):
        for byte in json_body(FLAT)[100:120]:
            time.sleep(pause)
            try:
                first.sendall(bytes([byte]))
                second.sendall(bytes([byte]))
            except OSError:
                break
        responses = [
            b"".join(iter(lambda connection=connection: connection.recv(65_536), b""))
            for connection in (first, second)
        ]
    assert time.monotonic() - start < 10
    for response in responses:
        assert response.startswith(b"HTTP/1.1 504 ")
        assert 1 == response.count(b"HTTP/1.1")
        assert b'"code":"timeout"' in response
    assert 200 == client_with_key.post("/predict", json={"images": FLAT}).status_code
