"""Every kind of bad request, by its row in our list: status, code and message, from the real server."""

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
FORM = "multipart/form-data; boundary=b"


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of a refusal in the one form, which tells neither traceback nor path."""
    assert JSON == answer.headers["content-type"]
    error = answer.json()["error"]
    assert {"code", "message", "request_id"} == set(error)
    assert answer.headers["x-request-id"] == error["request_id"]
    assert not any(word in answer.text for word in ("Traceback", "/tmp", "site-packages", ".py", "\\n"))
    return answer.status_code, error["code"], error["message"]


def expect(answer: httpx.Response, status: int, code: str, message: str) -> None:
    got = refusal(answer)
    assert (status, code) == got[:2]
    assert message in got[2]


def images(value: object) -> bytes:
    return json.dumps({"images": value}).encode()


def part(about: str, content: bytes) -> bytes:
    return (
        b"--b\r\nContent-Disposition: form-data; " + about.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", binascii.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG that says it has so many pixels, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def url_of(kind: str) -> bytes:
    return {
        "loopback": b"http://127.0.0.1:%d/x.png",
        "metadata": b"http://169.254.169.254/latest/meta-data",
        "file": b"file:///etc/passwd",
        "mapped": b"http://[::ffff:127.0.0.1]:%d/x.png",
    }[kind]


ROWS_OF_JSON = [
    ("R1", b"", 400, "empty_body", "body: got none"),
    ("R2-empty", b"{}", 422, "missing_field", 'an object with the one member "images"'),
    ("R2-other", b'{"image": []}', 422, "unknown_field", 'an object with the one member "images"'),
    ("R3-null", b"null", 422, "wrong_type", "accepted: an object"),
    ("R3-list", b"[]", 422, "wrong_type", "accepted: an object"),
    ("R3-text", b'"x"', 422, "wrong_type", "accepted: an object"),
    ("R3-number", b"5", 422, "wrong_type", "accepted: an object"),
    ("R4", b'{"images": [1, 2', 400, "invalid_json", "no valid JSON at byte 16"),
    ("R5-garbage", images(FLAT) + b"x", 400, "invalid_json", "no valid JSON at byte"),
    ("R5-two", images(FLAT) * 2, 400, "invalid_json", "no valid JSON at byte"),
    ("R6", b'{"images": [1], ' + images(FLAT)[1:], 400, "duplicate_key", 'got "images" twice'),
    ("R7", images(FLAT)[:-1] + b', "top": 3}', 422, "unknown_field", "accepted: an object"),
    ("R8", b"\xff", 400, "invalid_encoding", "byte 0 is no UTF-8"),
    ("R8-inside", b'{"images": "\xc3\x28"}', 400, "invalid_encoding", "byte 12 is no UTF-8"),
    ("R10-nan", b'{"images": [NaN]}', 400, "non_finite", "NaN and Infinity are no JSON numbers"),
    ("R10-inf", b'{"images": [Infinity]}', 400, "non_finite", "NaN and Infinity are no JSON numbers"),
    ("R10-minus", b'{"images": [-Infinity]}', 400, "non_finite", "NaN and Infinity are no JSON numbers"),
    ("R11", b'{"images": [1e400]}', 422, "non_finite", "images[0]: got a number without end"),
    (
        "R12-low",
        images([-1, *FLAT[1:]]),
        422,
        "out_of_range",
        "images[0]: got -1, accepted: whole numbers",
    ),
    ("R12-high", images([FLAT, [*FLAT[1:], 256]]), 422, "out_of_range", "images[1][783]: got 256"),
    ("R12-huge", images([1e30]), 422, "out_of_range", "images[0]: got 1e+30"),
    ("R12-fraction", images([0.5, *FLAT[1:]]), 422, "not_whole", "images[0]: got 0.5"),
    ("R13-text", images([[*FLAT[1:], "12"]]), 422, "wrong_type", "images[0][783]: got str"),
    ("R13-texts", images(["12"]), 422, "wrong_type", "images[0]: got another text"),
    ("R13-bool", images([0, True]), 422, "wrong_type", "images[1]: got bool"),
    ("R13-null", images([None]), 422, "wrong_type", "images[0]: got null"),
    (
        "R14-less",
        images(FLAT[1:]),
        422,
        "wrong_shape",
        "got 783, accepted: one image or several",
    ),
    ("R14-more", images([*FLAT, 0]), 422, "wrong_shape", "got 785"),
    ("R14-second", images([FLAT, FLAT[1:]]), 422, "wrong_shape", "images[1]: got 783"),
    ("R15-rows", images(ROWS[1:]), 422, "wrong_shape", "got 27 × 28"),
    ("R15-columns", images([[0] * 29] * 28), 422, "wrong_shape", "got 28 × 29"),
    ("R15-ragged", images([[*ROWS[1:], [0]]]), 422, "wrong_shape", "images[0]: got rows of unequal length"),
    ("R16", images([[[0] * 3] * 28] * 28), 422, "wrong_shape", "got 28 × 28 × 3"),
    ("R17", images([]), 422, "empty_batch", "images: got none, accepted: 1 to 64"),
    ("R18", images([FLAT] * 65), 413, "batch_too_large", "images: got 65, accepted: up to 64"),
    ("R19", b'{"images": ' + b"[" * 100_000, 400, "too_deep", "nested too deeply"),
    ("R19-object", b'{"a":' * 50_000, 422, "unknown_field", "accepted: an object"),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in ROWS_OF_JSON]
)
def test_json_that_is_no_image_is_refused(
    client: httpx.Client, content: bytes, status: int, code: str, message: str
):
    """What was wrong, where, what was got, what is accepted."""
    expect(client.post("/predict", content=content, headers={"content-type": JSON}), status, code, message)


@pytest.mark.parametrize("count", [pytest.param(64, id="R18")])
def test_as_many_images_as_may_be_are_answered(client: httpx.Client, count: int):
    """The limit itself is good."""
    assert count == len(client.post("/predict", json={"images": [FLAT] * count}).json()["predictions"])


@pytest.mark.parametrize("extra", [pytest.param(0, id="R21-limit"), pytest.param(1, id="R21-over")])
def test_a_body_may_be_as_long_as_the_limit(client: httpx.Client, config: ServeConfig, extra: int):
    """Not one byte more."""
    content = images(FLAT).ljust(config.max_body_bytes + extra)

    answer = client.post("/predict", content=content, headers={"content-type": JSON})

    if extra:
        expect(answer, 413, "body_too_large", f"body: accepted: up to {config.max_body_bytes} bytes")
    else:
        assert 200 == answer.status_code


PICKLE = "application/vnd.bentoml+pickle"
MEDIA_TYPES = [
    ("R24", {"content-type": JSON, "content-encoding": "gzip"}, "unsupported_encoding", "Content-Encoding"),
    ("R24-br", {"content-type": JSON, "content-encoding": "br"}, "unsupported_encoding", "Content-Encoding"),
    (
        "R25",
        {},
        "unsupported_media_type",
        "Content-Type: accepted: application/json, ",
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
    ("R28-tab", {"content-type": f"{PICKLE}\t;\tx"}, "unsupported_media_type", "Content-Type"),
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
    ("R34-gif", {"content-type": "image/gif"}, "unsupported_media_type", "Content-Type"),
    ("R35", {"content-type": "image/eps"}, "unsupported_media_type", "Content-Type"),
    ("charset", {"content-type": f"{JSON}; charset=utf-7"}, "unsupported_charset", "accepted charset: utf-8"),
]


@pytest.fixture
def evil(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that would make a file where anything unpickled it, and that file."""
    canary = tmp_path / "canary"
    code = f"import pathlib; pathlib.Path({str(canary)!r}).touch()"
    return b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR.", canary


@pytest.mark.parametrize(
    ("headers", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in MEDIA_TYPES]
)
def test_another_media_type_is_refused_unread(
    client: httpx.Client, evil: tuple[bytes, Path], headers: dict[str, str], code: str, message: str
):
    """However it is written; what came is not touched."""
    content, canary = evil

    expect(client.post("/predict", content=content, headers=headers), 415, code, message)
    assert not canary.exists()


def test_the_canary_sings(evil: tuple[bytes, Path]):
    """The pickle of the test above does what it is meant to do, where somebody unpickles it."""
    import pickle

    content, canary = evil
    pickle.loads(content)

    assert canary.exists()


@pytest.mark.parametrize("size", [pytest.param(10**9, id="R24")])
def test_a_bomb_is_not_unpacked(client: httpx.Client, server: Server, size: int):
    """A gigabyte of zeros in a megabyte is refused for being compressed; the worker does not grow."""
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as packed:
        for _ in range(size // 10**7):
            packed.write(bytes(10**7))
    before = memory(server)

    answer = client.post(
        "/predict",
        content=bomb.getvalue()[:250_000],
        headers={"content-type": JSON, "content-encoding": "gzip"},
    )

    expect(answer, 415, "unsupported_encoding", "accepted: none")
    assert memory(server) - before < 30e6


def memory(server: Server) -> int:
    """Bytes that the workers have in memory."""
    return sum(worker.memory_info().rss for worker in server.worker_processes)


@pytest.mark.parametrize("fields", [pytest.param(60_000, id="R29")])
def test_a_urlencoded_form_is_refused(client: httpx.Client, fields: int):
    """Unparsed, as many fields as there may be."""
    content = b"&".join(b"a=1" for _ in range(fields))
    begin = time.perf_counter()

    answer = client.post(
        "/predict", content=content, headers={"content-type": "application/x-www-form-urlencoded"}
    )

    expect(answer, 415, "unsupported_media_type", "Content-Type: accepted:")
    assert time.perf_counter() - begin < 2


FORMS = [
    ("R30-none", "multipart/form-data", part('name="f"; filename="x"', b"x"), 400, "invalid_multipart"),
    ("R30-long", "multipart/form-data; boundary=" + "b" * 10_000, b"x", 415, "unsupported_media_type"),
    (
        "R30-header",
        FORM,
        part('name="f"; filename="x"; y="' + "z" * 200_000 + '"', b"x"),
        400,
        "invalid_multipart",
    ),
    ("R30-headers", FORM, b"--b\r\n" + b"A: b\r\n" * 20_000, 400, "invalid_multipart"),
    ("R30-preamble", FORM, b"p" * 200_000 + part('name="f"; filename="x"', b"x"), 400, "invalid_multipart"),
    ("R30-newlines", FORM, b"\r\n" * 100_000, 400, "invalid_multipart"),
    ("R30-dashes", FORM, b"--b\r\n" * 50_000, 400, "invalid_multipart"),
    ("R30-parts", FORM, part('name="f"; filename="x"', b"x")[:-7] * 2_000, 413, "batch_too_large"),
    ("R33", FORM, part('name="file"', b"/etc/passwd"), 422, "wrong_type"),
    ("R33-json", JSON, images("/etc/passwd"), 422, "wrong_type"),
]


@pytest.mark.parametrize(
    ("media_type", "content", "status", "code"), [pytest.param(*row[1:], id=row[0]) for row in FORMS]
)
def test_a_form_that_is_none_is_refused_soon(
    client: httpx.Client, server: Server, media_type: str, content: bytes, status: int, code: str
):
    """It costs less than 100 ms of the processor, and no text in it is taken for a path."""
    before = busy(server)

    answer = client.post("/predict", content=content, headers={"content-type": media_type})

    expect(answer, status, code, "")
    assert "root:" not in answer.text
    assert busy(server) - before < 0.1


def busy(server: Server) -> float:
    """Seconds of the processor that the workers have taken."""
    return sum(sum(worker.cpu_times()[:2]) for worker in server.worker_processes)


@pytest.fixture
def canary() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that nobody is to ask, and what it was asked."""
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield listener.server_port, asked
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.mark.parametrize(
    ("kind", "way", "status"),
    [
        pytest.param(kind, way, status, id=f"{row}-{way}-{kind}")
        for kind in ("loopback", "metadata", "file", "mapped")
        for row, way, status in [
            ("R31", "field", 422),
            ("R31", "file", 415),
            ("R32", "json", 422),
            ("R32", "png", 415),
            ("R32", "raw", 422),
        ]
    ],
)
def test_no_url_is_fetched(
    client: httpx.Client, canary: tuple[int, list[str]], kind: str, way: str, status: int
):
    """Wherever one stands; the server it leads to is never asked."""
    port, asked = canary
    template = url_of(kind)
    url = template % port if b"%d" in template else template
    media_type, content = {
        "field": (FORM, part('name="file"', url)),
        "file": (FORM, part('name="file"; filename="x.png"', url)),
        "json": (JSON, images(url.decode())),
        "png": ("image/png", url),
        "raw": ("application/octet-stream", url),
    }[way]

    answer = client.post("/predict", content=content, headers={"content-type": media_type})

    assert status == refusal(answer)[0]
    assert [] == asked
    assert 200 == httpx.get(f"http://127.0.0.1:{port}/own", trust_env=False).status_code
    assert ["/own"] == asked


def shown(kind: str, mode: str = "L", size: tuple[int, int] = (40, 40), **options: object) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, 0).save(content, kind, **options)
    return content.getvalue()


def animated() -> bytes:
    return shown("PNG", save_all=True, append_images=[Image.new("L", (40, 40), 9)])


def torn() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def damaged() -> bytes:
    content = bytearray(torn())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def scans(count: int) -> bytes:
    """A progressive grey JPEG whose last scan is there over and over, `count` in all."""
    content = shown("JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * (count - content.count(b"\xff\xda")) + content[-2:]


PICTURES = [
    ("R34-gif", shown("GIF"), 415, "unsupported_image", "body: the image is neither PNG nor JPEG"),
    ("R34-tiff", shown("TIFF"), 415, "unsupported_image", "neither PNG nor JPEG"),
    ("R34-psd", b"8BPS\x00\x01" + bytes(100), 415, "unsupported_image", "neither PNG nor JPEG"),
    ("R34-eps", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) print", 415, "unsupported_image", "neither PNG nor JPEG"),
    (
        "R34-svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        415,
        "unsupported_image",
        "neither PNG nor JPEG",
    ),
    ("R34-webp", shown("WEBP"), 415, "unsupported_image", "neither PNG nor JPEG"),
    ("R36-truncated", torn()[:-200], 422, "invalid_image", "cannot be decoded"),
    (
        "R36-scans",
        scans(1_500),
        422,
        "image_dimensions",
        "body: the image has 1,500 scans, accepted: up to 32",
    ),
    ("R36-crc", damaged(), 422, "invalid_image", "cannot be decoded"),
    ("R36-magic", b"\x89PNG\r\n\x1a\n", 422, "invalid_image", "cannot be decoded"),
    ("R36-empty", b"", 400, "empty_body", "body: got none"),
    ("R36-jpeg", shown("JPEG")[:200], 422, "invalid_image", "cannot be decoded"),
    (
        "R37-one",
        shown("PNG", size=(1, 1)),
        422,
        "image_dimensions",
        "1 × 1 pixels, accepted: sides of 4",
    ),
    ("R37-none", png(0, 28), 422, "invalid_image", "cannot be decoded"),
    ("R37-20000", png(20_000, 20_000), 422, "image_dimensions", "20000 × 20000 pixels"),
    ("R37-65535", png(65_535, 65_535), 422, "image_dimensions", "65535 × 65535 pixels"),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in PICTURES]
)
def test_a_picture_that_is_none_is_refused(
    client: httpx.Client, server: Server, content: bytes, status: int, code: str, message: str
):
    """By its first bytes, whatever it is called; no other program is started for it, as for PostScript."""
    children = {worker: worker.children() for worker in server.worker_processes}

    answer = client.post("/predict", content=content, headers={"content-type": "image/png"})

    expect(answer, status, code, message)
    assert children == {worker: worker.children() for worker in server.worker_processes}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png(20_000, 20_000, data=bytes(10**7)), id="R37-png"),
        pytest.param(png(65_535, 65_535, depth=16, colour=6), id="R37-16-bit"),
        pytest.param(shown("PNG", "1", (8_000, 8_000)), id="R37-bits"),
        pytest.param(shown("JPEG", "L", (4_100, 4_100), quality=1), id="R37-jpeg"),
    ],
)
def test_a_picture_that_would_unfold_is_refused_unread(client: httpx.Client, server: Server, content: bytes):
    """Ten times in each way it can come; the memory of the worker stays as it was."""
    before = memory(server)

    for _ in range(10):
        file = base64.b64encode(content).decode()
        for answer in (
            client.post("/predict", content=content, headers={"content-type": "image/png"}),
            client.post("/predict", json={"images": [file]}),
            client.post("/predict", files={"f": content}),
        ):
            expect(answer, 422, "image_dimensions", "pixels, accepted:")
    assert memory(server) - before < 30e6


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(shown("PNG", "I;16"), id="R38-16-bit"),
        pytest.param(shown("PNG", "P"), id="R38-palette"),
        pytest.param(shown("PNG", "RGBA"), id="R38-alpha"),
        pytest.param(shown("PNG", "LA"), id="R38-grey-alpha"),
        pytest.param(shown("PNG", "1"), id="R38-bits"),
        pytest.param(shown("JPEG", "CMYK"), id="R38-cmyk"),
        pytest.param(
            shown("PNG", "L", save_all=True, append_images=[Image.new("L", (40, 40), 9)]), id="R38-apng"
        ),
    ],
)
def test_every_kind_of_pixel_is_read(client: httpx.Client, content: bytes):
    """Turned into grey as the documentation of `decode` says."""
    assert 200 == client.post("/predict", content=content, headers={"content-type": "image/png"}).status_code


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, id=f"R40-{method}") for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")],
)
def test_another_method_is_refused(client: httpx.Client, method: str):
    """And the one that is accepted is told."""
    answer = client.request(method, "/predict")

    expect(answer, 405, "method_not_allowed", "method: accepted: POST")
    assert "POST" == answer.headers["allow"]


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
def test_another_path_is_refused(server: Server, target: str, status: int):
    """By the exact path; what is no HTTP is refused in the same form."""
    answer = wired(server, b"GET " + target.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")[0]

    assert status == answer.status
    if status == 404:
        assert b'"code":"not_found"' in answer.content
        assert b"etc" not in answer.content
    else:
        assert b'"code":"invalid_http","message":"request: got no valid HTTP' in answer.content


class Answer:
    """What came over the wire: status, headers, content, and whether the connection was closed after it."""

    def __init__(self, wire: socket.socket) -> None:
        response = http.client.HTTPResponse(wire)
        response.begin()
        self.status, self.headers, self.content = response.status, response.headers, response.read()
        wire.settimeout(0.3)
        try:
            self.closed = not wire.recv(1)
        except TimeoutError:
            self.closed = False
        except ConnectionResetError:
            self.closed = True


def wired(server: Server, *requests: bytes) -> list[Answer]:
    """Send bytes as they are, each request over a connection of its own."""
    answers = []
    for sent in requests:
        with socket.create_connection(server.address, timeout=10) as wire:
            wire.sendall(sent)
            answers.append(Answer(wire))
    return answers


def head(*lines: str) -> bytes:
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
def test_a_length_that_lies_is_refused(server: Server, lines: list[str]):
    """400, and the connection is closed: nobody can tell where the next request begins."""
    (answer,) = wired(server, head(*lines) + images(FLAT))

    assert (400, True) == (answer.status, answer.closed)
    assert b'"code":"invalid_http"' in answer.content


@pytest.mark.parametrize("length", [pytest.param(100_000, id="R22-long")])
def test_a_body_that_does_not_come_is_given_up(guarded: Server, keys: tuple[str, str], length: int):
    """504 after the time that is set, and the connection is closed."""
    (answer,) = wired(guarded, head(f"X-API-Key: {keys[0]}", f"Content-Length: {length}") + images(FLAT))

    assert (504, True) == (answer.status, answer.closed)
    assert b'"code":"timeout","message":"not answered within 2 seconds"' in answer.content


@pytest.mark.parametrize(
    "media_type", [pytest.param(JSON, id="R23"), pytest.param("text/plain", id="R23-unread")]
)
def test_a_body_without_end_is_cut(server: Server, media_type: str):
    """The answer comes at the limit, and the server hangs up, even where it never meant to read the body."""
    sent, most, answer = 0, 200_000_000, b""
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(head("Transfer-Encoding: chunked").replace(JSON.encode(), media_type.encode()))
        while sent < most:
            try:
                wire.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
                answer += b"" if answer else wire.recv(65_536) if sent > 1_000_000 else b""
            except OSError:
                break
            sent += 10_000

    assert sent < most
    assert answer[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 415", b"")


KEYLESS = [
    ("R42-none", {}, "missing_key", "key: got none, accepted: one of the server's"),
    ("R42-empty", {"x-api-key": ""}, "invalid_key", "key: got another one"),
    ("R42-empty-bearer", {"authorization": "Bearer"}, "invalid_key", "key: got another one"),
    ("R42-wrong", {"x-api-key": "first-key-0123456780"}, "invalid_key", "key: got another one"),
    ("R42-start", {"x-api-key": "first-key-012345678"}, "invalid_key", "key: got another one"),
    ("R42-long", {"x-api-key": "x" * 10_000}, "invalid_key", "key: got another one"),
    ("R42-letters", {"x-api-key": b"\xe9" * 20}, "invalid_key", "key: got another one"),
    ("R42-basic", {"authorization": "Basic {key}"}, "invalid_key", "key: got another one"),
    ("R43-bare", {"authorization": "{key}"}, "invalid_key", "key: got another one"),
    ("R43-spaces", {"authorization": "Bearer  {key}"}, "invalid_key", "key: got another one"),
    ("R43-both", {"x-api-key": "{key}", "authorization": "Bearer {key}"}, "invalid_key", "key: got several"),
]


@pytest.mark.parametrize(
    ("headers", "code", "message"), [pytest.param(*row[1:], id=row[0]) for row in KEYLESS]
)
@pytest.mark.parametrize("path", ["/predict", "/info"])
def test_without_a_good_key_nothing_is_answered(
    guarded: Server, keys: tuple[str, str], path: str, headers: dict[str, str], code: str, message: str
):
    """Neither predictions nor what is told of them."""
    filled = {
        name: value if isinstance(value, bytes) else value.replace("{key}", keys[0])
        for name, value in headers.items()
    }

    answer = httpx.request("POST" if path == "/predict" else "GET", guarded.url + path, headers=filled)

    expect(answer, 401, code, message)


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"R42-{name}") for name in ("key", "api_key", "token")]
)
def test_a_key_in_the_address_is_none(
    guarded: Server, insider: httpx.Client, keys: tuple[str, str], name: str
):
    """Addresses stand in logs; beside a good key it is a parameter that nobody knows, and is not repeated."""
    target = f"/info?{name}={keys[0]}"

    expect(httpx.get(guarded.url + target, trust_env=False), 401, "missing_key", "key: got none")
    expect(insider.get(target), 422, "unknown_parameter", "query: got another parameter, accepted: none")
    assert keys[0] not in insider.get(target).text


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        pytest.param(["X-API-Key: {key} "], 401, id="R43-space"),
        pytest.param(["X-API-Key: {key}\n"], 400, id="R43-newline"),
        pytest.param(["Authorization: Bearer {key}", "Authorization: Bearer {key}"], 401, id="R43-two"),
        pytest.param(["X-API-Key: {key}", "X-API-Key: {key}"], 401, id="R43-two-keys"),
    ],
)
def test_a_key_with_something_around_it_is_none(
    guarded: Server, keys: tuple[str, str], lines: list[str], status: int
):
    """What is ambiguous is refused."""
    sent = "\r\n".join(["GET /info HTTP/1.1", "Host: localhost", *lines, "", ""]).replace("{key}", keys[0])

    assert status == wired(guarded, sent.encode())[0].status


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
def test_a_request_id_is_plain_or_ours(server: Server, line: str, status: int):
    """Nothing of it becomes a header; what is not short and plain is replaced."""
    sent = f"GET /livez HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode("latin-1")

    (answer,) = wired(server, sent)

    assert status == answer.status
    assert "set-cookie" not in answer.headers
    if status == 200:
        assert answer.headers["x-request-id"] == "a" or 32 == len(answer.headers["x-request-id"])


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
def test_another_site_is_refused(client: httpx.Client, headers: dict[str, str], code: str, method: str):
    """Without keys: neither a name that was bent to this machine, nor a form or preflight of another page."""
    answer = client.request(method, "/predict", json={"images": FLAT}, headers=headers)

    expect(answer, 403, code, "accepted:")
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(host, id=f"R47-{host}")
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:3000")
    ],
)
def test_this_machine_may_ask(client: httpx.Client, host: str):
    """By any of its own names, at any port, from a page of its own."""
    headers = {"host": host, "origin": f"http://{host}"}

    assert 200 == client.post("/predict", json={"images": FLAT}, headers=headers).status_code


@pytest.mark.parametrize(
    "version", [pytest.param(version, id=f"R51-{version}") for version in ("2", "latest", "<b>x</b>")]
)
def test_another_version_is_not_answered_for(client: httpx.Client, version: str):
    """What is live is told."""
    answer = client.post("/predict", params={"version": version}, json={"images": FLAT})

    expect(answer, 404, "model_version_not_found", "version: got another one, accepted: 3, which is live")


def begun(server: Server, key: str) -> socket.socket:
    """A connection with a request whose body has begun."""
    wire = socket.create_connection(server.address, timeout=10)
    wire.sendall(head(f"X-API-Key: {key}", f"Content-Length: {len(images(FLAT))}") + images(FLAT)[:100])
    return wire


@pytest.mark.parametrize("limit", [pytest.param(2, id="R52")])
def test_more_than_may_be_in_progress_is_refused_at_once(
    guarded: Server, insider: httpx.Client, keys: tuple[str, str], limit: int
):
    """429 with the time to wait; health and counters are told, and what was accepted is answered."""
    rest = images(FLAT)[100:]
    with begun(guarded, keys[0]) as one, begun(guarded, keys[0]) as two:
        time.sleep(0.2)
        start = time.perf_counter()
        answer = insider.post("/predict", json={"images": FLAT})
        assert time.perf_counter() - start < 1
        expect(answer, 429, "too_many_requests", f"accepted: {limit} a worker")
        assert "1" == answer.headers["retry-after"]
        assert [200, 200] == [insider.get(path).status_code for path in ("/readyz", "/metrics")]
        for wire in (one, two):
            wire.sendall(rest)
            assert 200 == Answer(wire).status
    assert 200 == insider.post("/predict", json={"images": FLAT}).status_code


@pytest.mark.parametrize("pause", [pytest.param(0.3, id="R53")])
def test_a_client_that_dawdles_is_given_up_once(
    guarded: Server, insider: httpx.Client, keys: tuple[str, str], pause: float
):
    """However steadily it trickles: one 504 at the deadline, and the worker is free for others."""
    start = time.monotonic()
    with begun(guarded, keys[0]) as one, begun(guarded, keys[0]) as two:
        for byte in images(FLAT)[100:120]:
            time.sleep(pause)
            try:
                one.sendall(bytes([byte]))
                two.sendall(bytes([byte]))
            except OSError:
                break
        answers = [b"".join(iter(lambda wire=wire: wire.recv(65_536), b"")) for wire in (one, two)]
    assert time.monotonic() - start < 10
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert 1 == answer.count(b"HTTP/1.1")
        assert b'"code":"timeout"' in answer
    assert 200 == insider.post("/predict", json={"images": FLAT}).status_code
