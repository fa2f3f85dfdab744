"""The draw page in a real browser: drawing by mouse, finger and keyboard."""

import base64
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Route, expect, sync_playwright

from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.api.routes import OPERATIONS
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.page.pages import PAGE_FILES
from relearn.serving.predictions import reader
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

pytestmark = pytest.mark.needs("chromium")

CHROMIUM_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PREDICTION_SHOWN = "() => document.getElementById('label').textContent !== '–'"


def arc(
    x: float, y: float, width: float, height: float, start: float, end: float
) -> list[tuple[float, float]]:
    """Return points on an ellipse; angles are in turns, clockwise from the right."""
    angles = np.linspace(2 * np.pi * start, 2 * np.pi * end, 24)
    return [(x + width * np.cos(angle), y + height * np.sin(angle)) for angle in angles]


# Handwritten digits: strokes of points, as fractions of the canvas width.
DIGITS = {
    "0": [arc(0.5, 0.5, 0.2, 0.3, -0.25, 0.76)],
    "1": [[(0.42, 0.3), (0.53, 0.2), (0.53, 0.8)]],
    "2": [[*arc(0.5, 0.36, 0.19, 0.16, -0.5, 0.1), (0.32, 0.78), (0.72, 0.78)]],
    "3": [[*arc(0.48, 0.35, 0.18, 0.15, -0.45, 0.22), *arc(0.48, 0.65, 0.2, 0.16, -0.25, 0.45)]],
    "4": [[(0.42, 0.2), (0.3, 0.55), (0.72, 0.55)], [(0.6, 0.25), (0.58, 0.82)]],
    "5": [[(0.68, 0.2), (0.4, 0.2), (0.37, 0.46), *arc(0.47, 0.62, 0.2, 0.18, -0.25, 0.4)]],
    "6": [[(0.6, 0.18), (0.42, 0.4), *arc(0.49, 0.65, 0.16, 0.16, 0.5, 1.55)]],
    "7": [[(0.3, 0.22), (0.7, 0.22), (0.48, 0.82)]],
    "8": [[*arc(0.5, 0.34, 0.14, 0.14, 0.25, 1.25), *arc(0.5, 0.65, 0.17, 0.17, -0.25, 0.75)]],
    "9": [[*arc(0.5, 0.36, 0.15, 0.15, 0, 1), (0.64, 0.5), (0.6, 0.82)]],
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def digits_classifier(
    save: Callable[[Classifier, Path], Path], images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a classifier trained on the bundled digits, which takes a second."""
    root = tmp_path_factory.mktemp("reader")
    config = TrainConfig(dataset="digits")
    prepared = prepare_dataset(config, Home(root, root / "data"))
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))
    assert (1, 28, 28) == classifier.card.shape
    return save(classifier, root / "classifier")


@pytest.fixture(scope="module")
def page_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("page")
    return Home(root, root)


@pytest.fixture(scope="module")
def page_server(page_home: Home) -> Iterator[Server]:
    """Start a server with a prediction log, before its first release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        server = start_server(
            None, ServeConfig(port=0, workers=2, graceful_timeout_seconds=2), page_home, model_name="digits"
        )
    try:
        server.wait_until_ok("/livez")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def released_server(
    page_server: Server, page_home: Home, digits_classifier: Path, publish: Callable[..., Release]
) -> Server:
    """Release the trained classifier on the same server."""
    releases = ReleaseStore(page_home.releases_dir("digits"))
    if releases.read_live() is None:
        publish(releases, "1", digits_classifier)
    page_server.wait_until_ok("/readyz")
    return page_server


class Visit:
    """A browser tab with its console errors and request URLs."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.request_urls: list[str] = []
        self.page.on("console", lambda item: self.errors.append(item.text) if item.type != "log" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.request_urls.append(request.url))
        self.page.goto(f"{server.url}/")
        self.box = self.page.locator("#canvas").bounding_box()

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        return (
            self.box["x"] + point[0] * self.box["width"],
            self.box["y"] + point[1] * self.box["height"],
        )

    def draw(self, digit: str) -> str:
        """Draw a digit with the mouse and return the final label."""
        for first_point, *other_points in DIGITS[digit]:
            self.page.mouse.move(*self.at(first_point))
            self.page.mouse.down()
            for point in other_points:
                self.page.mouse.move(*self.at(point), steps=2)
            self.page.mouse.up()
        return self.wait_for_label()

    def wait_for_label(self) -> str:
        """Wait until the drawing is finished, logged and announced; return the label."""
        self.page.wait_for_function(PREDICTION_SHOWN)
        label = self.page.locator("#label")
        expect(self.page.locator("#announcement")).to_contain_text("%")
        return label.inner_text()


@pytest.fixture
def visit_page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page; it must log no error and contact no other host."""
    contexts, visits = [], []

    def open_page(server: Server, **options: object) -> Visit:
        context = chromium.new_context(**{"viewport": DESKTOP} | options)
        contexts.append(context)
        visits.append(Visit(context, server))
        return visits[-1]

    yield open_page
    for visit in visits:
        origin = visit.page.url.removesuffix("/draw")
        assert [] == visit.errors
        assert [] == [
            url for url in visit.request_urls if not url.startswith((f"{origin}/", "data:", "blob:"))
        ]
    for context in contexts:
        context.close()


def test_page_waits_for_the_first_release(
    page_server: Server,
    page_home: Home,
    digits_classifier: Path,
    publish: Callable[..., Release],
    visit_page: Callable[..., Visit],
):
    """The page says that no model is released, and predicts the drawing after the release."""
    assert ReleaseStore(page_home.releases_dir("digits")).read_live() is None
    page = visit_page(page_server).page
    expect(page.locator("#message")).to_contain_text("No model is released yet.")
    page.locator("#canvas").click()
    time.sleep(0.5)
    expect(page.locator("#message")).to_contain_text("No model is released yet.")

    publish(ReleaseStore(page_home.releases_dir("digits")), "1", digits_classifier)

    page.wait_for_function(PREDICTION_SHOWN)
    expect(page.locator("#message")).to_have_text("")
    expect(page.locator("#model-info")).to_contain_text("Version 1")


def test_drawings_are_predicted(released_server: Server, visit_page: Callable[..., Visit]):
    """Each digit drawn by mouse gets a prediction; at least eight of ten are correct."""
    visit = visit_page(released_server)
    labels = {}
    for digit in DIGITS:
        labels[digit] = visit.draw(digit)
        assert 10 == visit.page.locator("#bars li").count()
        assert 1 == visit.page.locator("#bars li.first").count()
        visit.page.locator("#clear").click()
        expect(visit.page.locator("#label")).to_have_text("–")

    assert sum(digit == label for digit, label in labels.items()) >= 8, labels


def test_page_shows_the_network_input(released_server: Server, visit_page: Callable[..., Visit]):
    """The image shown is the 28 × 28 network input, enlarged without smoothing."""
    visit = visit_page(released_server)
    visit.draw("7")
    network_input = visit.page.locator("#input")

    assert "pixelated" == network_input.evaluate("image => getComputedStyle(image).imageRendering")
    content = base64.b64decode(network_input.get_attribute("src").removeprefix("data:image/png;base64,"))
    response = httpx.post(
        f"{released_server.url}/predict",
        content=content,
        headers={"content-type": "image/png"},
        trust_env=False,
    ).json()
    assert visit.page.locator("#label").inner_text() == response["predictions"][0]["label"]
    expect(visit.page.locator("#caption")).to_have_text("network input, 28 × 28")


def test_only_finished_drawings_and_feedback_are_logged(
    released_server: Server, page_home: Home, visit_page: Callable[..., Visit]
):
    """A drawing is predicted many times but logged once, with its corrected label and network input."""
    time.sleep(0.6)  # earlier log entries are on disk
    old_count = len(reader.load_predictions(page_home.prediction_log_dir("digits")))
    visit = visit_page(released_server)
    visit.draw("4")
    visit.page.locator("#classes").get_by_text("9", exact=True).click()
    expect(visit.page.locator("#message")).to_contain_text("Correction saved: 9.")
    expect(visit.page.locator("#message")).to_contain_text("can become training data")
    time.sleep(0.6)

    frame = reader.load_predictions(page_home.prediction_log_dir("digits"))
    assert old_count + 1 == len(frame)
    entry = frame.iloc[-1]
    assert "9" == entry["label"]
    request_urls = [url for url in visit.request_urls if "/predict" in url]
    assert len(request_urls) > 1
    assert 1 == sum("log=true" in url for url in request_urls)
    network_input = base64.b64decode(visit.page.locator("#input").get_attribute("src").partition(",")[2])
    image = reader.load_images(page_home.prediction_log_dir("digits"))[entry["request_id"], 0]
    assert network_input == encode_png(image)


@pytest.mark.slow
def test_correction_waits_for_review(
    released_server: Server, page_home: Home, visit_page: Callable[..., Visit]
):
    """A correction is listed for review with its network input, and can be accepted."""
    from relearn.flows.feedback.review import accept, load_review

    visit = visit_page(released_server)
    visit.draw("7")
    visit.page.locator("#classes").get_by_text("2", exact=True).click()
    expect(visit.page.locator("#message")).to_contain_text("Correction saved: 2.")
    network_input = base64.b64decode(visit.page.locator("#input").get_attribute("src").partition(",")[2])
    time.sleep(0.6)

    entry = load_review(page_home, "digits").items[-1]
    assert ("2", "1", network_input) == (
        entry.correction.label,
        entry.correction.version,
        encode_png(entry.correction.image),
    )
    assert ("new", None, ()) == (entry.state, entry.rejection_reason, entry.warnings)
    accept(page_home, "digits", [entry])
    assert "accepted" == load_review(page_home, "digits").items[-1].state


def test_drawing_is_logged_once(released_server: Server, visit_page: Callable[..., Visit]):
    """A correction during the log request refers to that request; a failed log request is retried."""
    visit = visit_page(released_server)
    page = visit.page
    log_requests: list[Route] = []
    feedback_bodies: list[dict[str, object]] = []
    page.route("**/predict?*log=true", lambda route: log_requests.append(route))  # noqa: PLW0108  # Playwright rejects a built-in
    page.on(
        "request",
        lambda item: feedback_bodies.append(item.post_data_json) if "/feedback" in item.url else None,
    )
    page.locator("#canvas").click()
    page.wait_for_function(PREDICTION_SHOWN)
    page.wait_for_timeout(1_500)
    page.locator("#classes").get_by_text("9", exact=True).click()
    page.wait_for_timeout(500)
    assert 1 == len(log_requests)
    error = {"code": "x", "message": "not now", "request_id": "x"}
    log_requests[0].fulfill(status=503, json={"error": error}, headers={"retry-after": "1"})
    expect(page.locator("#message")).to_have_text("not now")
    page.wait_for_timeout(1_500)
    assert 2 == len(log_requests)
    response = log_requests[1].fetch()
    log_requests[1].fulfill(response=response)
    expect(page.locator("#message")).to_contain_text("Correction saved: 9.")

    assert 2 == len(log_requests)
    assert [response.json()["request_id"]] == [item["request_id"] for item in feedback_bodies]
    visit.errors[:] = [item for item in visit.errors if "503" not in item]  # the browser's own message


def test_undo_removes_the_last_stroke(released_server: Server, visit_page: Callable[..., Visit]):
    """Ctrl+Z and the button remove one stroke, a dot included; a blank canvas has no prediction."""
    page = visit_page(released_server).page
    canvas_data = "document.getElementById('canvas').toDataURL()"
    snapshots = [page.evaluate(canvas_data)]
    for place in (50, 150):
        page.locator("#canvas").click(position={"x": place, "y": place})
        page.wait_for_function(f"before => {canvas_data} !== before", arg=snapshots[-1])
        snapshots.append(page.evaluate(canvas_data))
    page.wait_for_function(PREDICTION_SHOWN)
    page.keyboard.press("Control+z")
    page.wait_for_function(f"before => {canvas_data} === before", arg=snapshots[1])
    page.locator("#undo").click()
    page.wait_for_function(f"before => {canvas_data} === before", arg=snapshots[0])

    expect(page.locator("#label")).to_have_text("–")
    expect(page.locator("#undo")).to_be_disabled()


@pytest.mark.parametrize("end", ["undo", "clear", "drop"])
def test_pointer_draws_nothing_after_its_stroke_ended(
    released_server: Server, visit_page: Callable[..., Visit], encoded: Callable[..., bytes], end: str
):
    """After a stroke is undone, cleared or replaced under a pressed mouse, further movement draws nothing."""
    visit = visit_page(released_server)
    page = visit.page
    canvas_data = "document.getElementById('canvas').toDataURL()"
    page.locator("#canvas").click(position={"x": 50, "y": 50})
    visit.wait_for_label()
    dot = page.evaluate(canvas_data)
    page.mouse.move(*visit.at((0.5, 0.5)))
    page.mouse.down()
    page.mouse.move(*visit.at((0.5, 0.7)))
    page.wait_for_function(f"before => {canvas_data} !== before", arg=dot)
    if end == "undo":
        page.keyboard.press("Control+z")
        page.wait_for_function(f"before => {canvas_data} === before", arg=dot)
    elif end == "clear":
        page.locator("#clear").press("Enter")
        expect(page.locator("#label")).to_have_text("–")
    else:
        image = np.zeros((1, 28, 28), np.uint8)
        image[:, 6:22, 13:15] = 255  # a stroke; a blank image has no label
        page.evaluate(DROP, [base64.b64encode(encoded(image)).decode(), "image/png"])
        visit.wait_for_label()
    time.sleep(0.1)
    snapshot = page.evaluate(canvas_data)
    page.mouse.move(*visit.at((0.8, 0.8)), steps=3)
    page.mouse.up()
    time.sleep(0.1)

    assert snapshot == page.evaluate(canvas_data)
    page.locator("#canvas").click(position={"x": 150, "y": 50})  # the next click draws again
    page.wait_for_function(f"before => {canvas_data} !== before", arg=snapshot)


def test_finger_draws_on_a_phone(released_server: Server, visit_page: Callable[..., Visit]):
    """A phone of 390 × 844 or 360 pixels width scrolls neither sideways nor while drawing."""
    visit = visit_page(released_server, viewport=PHONE, has_touch=True, is_mobile=True)
    page = visit.page
    cdp_session = page.context.new_cdp_session(page)
    first_point, *other_points = DIGITS["7"][0]
    for event_type, points in [
        ("touchStart", [first_point]),
        *[("touchMove", [item]) for item in other_points],
        ("touchEnd", []),
    ]:
        touches = [dict(zip("xy", visit.at(point), strict=True)) for point in points]
        cdp_session.send("Input.dispatchTouchEvent", {"type": event_type, "touchPoints": touches})

    visit.wait_for_label()
    assert 0 == page.evaluate("scrollY")
    for width in (390, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert width == page.evaluate("document.documentElement.scrollWidth")
    small_buttons = "all => all.filter(one => one.getBoundingClientRect().height < 44).length"
    assert 0 == page.locator("button:visible").evaluate_all(small_buttons)


def test_keyboard_draws_and_corrects(released_server: Server, visit_page: Callable[..., Visit]):
    """The keyboard alone can draw, hear the prediction announced, and correct it."""
    visit = visit_page(released_server)
    page = visit.page
    page.keyboard.press("Tab")
    assert "canvas" == page.evaluate("document.activeElement.id")
    expect(page.locator("#keyboard-help")).to_be_visible()
    for key in ["Shift+ArrowUp"] * 2 + ["Space"] + ["ArrowDown"] * 14 + ["Space"]:
        page.keyboard.press(key)
    visit.wait_for_label()
    expect(page.locator("#announcement")).to_have_attribute("role", "status")
    order = []
    while page.evaluate("document.activeElement.textContent") != "1":
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.textContent"))
        assert len(order) < 20
    page.keyboard.press("Enter")

    assert ["Undo", "Clear", "Open image…", "0", "1"] == order
    expect(page.locator("#message")).to_contain_text("Correction saved: 1.")
    expect(page.get_by_role("button", name="1", exact=True)).to_have_attribute("aria-pressed", "true")


DROP = """async ([content, type]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "file", {type}));
  for (const kind of ["dragover", "drop"]) {
    const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
    document.body.dispatchEvent(new DragEvent(kind, options));
  }
}"""


def test_image_file_is_dropped_or_chosen(
    released_server: Server,
    visit_page: Callable[..., Visit],
    encoded: Callable[..., bytes],
    images: np.ndarray,
    tmp_path: Path,
):
    """A file of the classifier's size arrives unchanged; too flat images and other files are reported."""
    visit = visit_page(released_server)
    page = visit.page
    page.evaluate(DROP, [base64.b64encode(encoded(images[0])).decode(), "image/png"])
    visit.wait_for_label()
    assert encoded(images[0]) == base64.b64decode(
        page.locator("#input").get_attribute("src").partition(",")[2]
    )

    page.locator("#clear").click()
    (tmp_path / "one.jpg").write_bytes(encoded(np.kron(images[1], np.ones((1, 4, 4), np.uint8)), "JPEG"))
    page.locator("#file").set_input_files(tmp_path / "one.jpg")
    page.wait_for_function(PREDICTION_SHOWN)

    page.locator("#clear").click()
    strip = base64.b64encode(encoded(np.full((1, 1, 5000), 255, np.uint8))).decode()
    page.evaluate(DROP, [strip, "image/png"])
    expect(page.locator("#message")).to_contain_text(
        re.compile("the image has 1024 × 1 pixels, accepted: sides of 4 or")
    )

    page.evaluate(DROP, [base64.b64encode(b"not an image").decode(), "image/png"])
    expect(page.locator("#message")).to_contain_text("cannot read that as an image")
    visit.errors[:] = [item for item in visit.errors if "422" not in item]  # the browser's own message


def test_key_is_requested_and_kept_for_the_tab(released_server: Server, visit_page: Callable[..., Visit]):
    """The page asks for a key after a 401, here from a route of the test, and keeps it for the tab."""
    visit = visit_page(released_server)
    page = visit.page
    authorizations: list[str | None] = []
    wrong_key, valid_key = "wrong-key-0123456789", "right-key-0123456789"

    def check_key(route: Route) -> None:
        authorizations.append(route.request.headers.get("authorization"))
        if authorizations[-1] == f"Bearer {valid_key}":
            route.continue_()
            return
        error = {"code": "unauthorized", "message": "key: got another one", "request_id": "x"}
        route.fulfill(status=401, content_type="application/json", body=json.dumps({"error": error}))

    page.route("**/predict*", check_key)
    page.locator("#canvas").click()
    for key in (wrong_key, valid_key):
        expect(page.locator("#key-dialog")).to_be_visible()
        assert "password" == page.locator("#key-input").get_attribute("type")
        page.locator("#key-input").fill(key)
        page.keyboard.press("Enter")
        if key == wrong_key:
            expect(page.locator("#key-error")).to_have_text("key: got another one")
    page.wait_for_function(PREDICTION_SHOWN)

    assert [None, f"Bearer {wrong_key}", f"Bearer {valid_key}"] == authorizations[:3]
    assert {f"Bearer {valid_key}"} == set(authorizations[2:])
    assert valid_key == page.evaluate("sessionStorage.getItem('relearn-key')")
    assert 0 == page.evaluate("localStorage.length")
    assert valid_key not in page.url
    visit.errors[:] = [item for item in visit.errors if "401" not in item]  # the browser's own message


def test_page_of_a_server_with_keys_asks_for_a_key_first(
    server_with_keys: Server, api_keys: tuple[str, str], visit_page: Callable[..., Visit]
):
    """The page asks before its first request that needs a key, and neither sends nor keeps a malformed key.

    The API link then shows the document that needs a key.
    """
    visit = visit_page(server_with_keys)
    page = visit.page
    expect(page.locator("#key-dialog")).to_be_visible()
    for malformed_key in (
        "sixteen-or-moré-characters",
        "ключ-ключ-ключ-ключ",
        "with a space, and a comma",
        "short",
    ):
        page.locator("#key-input").fill(malformed_key)
        page.keyboard.press("Enter")
        expect(page.locator("#key-error")).to_have_text(
            "A key has at least 16 letters a–z, digits or punctuation marks, no spaces or commas."
        )
        expect(page.locator("#key-dialog")).to_be_visible()
        page.locator("#key-error").evaluate("message => message.textContent = ''")
    assert [] == [url for url in visit.request_urls if "openapi.json" in url]
    assert page.evaluate("sessionStorage.getItem('relearn-key')") is None
    page.locator("#key-input").fill(api_keys[0])
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#service-description")).to_contain_text("Classifies images of digits")

    page.get_by_role("link", name="API").click()
    page.get_by_text("Predict a label and the probability of every class").wait_for()
    page.go_back()
    page.locator("#canvas").click()
    visit.wait_for_label()


def test_api_errors_are_shown(released_server: Server, visit_page: Callable[..., Visit]):
    """The message of an API error is shown unchanged; the next drawing is predicted again."""
    visit = visit_page(released_server)
    error = {"code": "x", "message": "body: accepted: up to 3 bytes", "request_id": "x"}
    visit.page.route("**/predict*", lambda route: route.fulfill(status=413, json={"error": error}))
    visit.page.locator("#canvas").click()
    expect(visit.page.locator("#message")).to_have_text("body: accepted: up to 3 bytes")
    visit.page.unroute("**/predict*")
    visit.page.locator("#canvas").click()

    visit.page.wait_for_function(PREDICTION_SHOWN)
    expect(visit.page.locator("#message")).to_have_text("")
    visit.errors[:] = [item for item in visit.errors if "413" not in item]  # the browser's own message


def test_page_has_a_strict_content_security_policy(client: httpx.Client):
    """Each file of both pages has a strict policy; `/` redirects to the draw page."""
    for path in PAGE_FILES:
        response = client.get(path)
        assert 200 == response.status_code
        policy = dict(
            part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";")
        )
        assert "'none'" == policy["default-src"] == policy["base-uri"] == policy["form-action"]
        assert "'none'" == policy["frame-ancestors"]
        assert "'self'" == policy["script-src"] == policy["style-src"] == policy["connect-src"]
        assert "'self' data: blob:" == policy["img-src"]
        assert "nosniff" == response.headers["x-content-type-options"]
        assert "no-referrer" == response.headers["referrer-policy"]
    assert "text/html; charset=utf-8" == client.get("/draw").headers["content-type"]
    assert (307, "draw") == (client.get("/").status_code, client.get("/").headers["location"])
    assert 404 == client.get("/draw/index.html").status_code


def test_docs_page_shows_the_api_and_sends_a_request(
    server_with_keys: Server, api_keys: tuple[str, str], visit_page: Callable[..., Visit]
):
    """`/docs` lists every route, and sends an example with the key that the draw page keeps for the tab."""
    visit = visit_page(server_with_keys)
    page = visit.page
    page.evaluate(f"sessionStorage.setItem('relearn-key', '{api_keys[0]}')")
    page.goto(f"{server_with_keys.url}/docs")
    page.locator(".opblock").first.wait_for()
    expect(page.locator(".opblock")).to_have_count(len(OPERATIONS))

    page.locator("#operations-predictions-predict .opblock-summary-control").click()
    page.get_by_role("button", name="Execute").click()

    expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
    expect(page.locator(".curl")).to_contain_text("/predict")
    page.goto(f"{server_with_keys.url}/draw")


def test_colors_follow_the_system(released_server: Server, visit_page: Callable[..., Visit]):
    """Light and dark schemes of the system have different backgrounds."""
    colors = set()
    for scheme in ("light", "dark"):
        page = visit_page(released_server, color_scheme=scheme).page
        colors.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert 2 == len(colors)


@pytest.mark.parametrize("query", ["?return_input=1", "?log=no"])
def test_flags_accept_only_true_and_false(client: httpx.Client, query: str):
    """Other spellings of a boolean are rejected."""
    response = client.post(f"/predict{query}", json={"images": [0] * 784})

    assert (422, "wrong_type") == (response.status_code, response.json()["error"]["code"])
