"""The page to draw on, in a real browser: drawn on by mouse, finger and keys."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Route, expect, sync_playwright

from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.inference.classifier import Classifier, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.predictions import reader as recorded
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

pytestmark = pytest.mark.needs("chromium")

ARGUMENTS = [
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
ANSWERED = "() => document.getElementById('label').textContent !== '–'"


def arc(
    x: float, y: float, width: float, height: float, begin: float, end: float
) -> list[tuple[float, float]]:
    """Points on an ellipse; angles in turns, from the right, clockwise."""
    angles = np.linspace(2 * np.pi * begin, 2 * np.pi * end, 24)
    return [(x + width * np.cos(angle), y + height * np.sin(angle)) for angle in angles]


# As a hand draws them: strokes of points, in widths of the paper.
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
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reader(
    save: Callable[[Classifier, Path], Path], images: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a network that has learned the bundled digits: a second of work."""
    root = tmp_path_factory.mktemp("reader")
    config = TrainConfig.from_preset("default", dataset="digits")
    prepared = prepare_dataset(config, Home(root, root / "data"))
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))
    assert (1, 28, 28) == classifier.card.shape
    return save(classifier, root / "classifier")


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("page")
    return Home(root, root)


@pytest.fixture(scope="module")
def own_server(own_home: Home) -> Iterator[Server]:
    """A server that keeps records, before its first release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        server = start_server(
            None, ServeConfig(port=0, workers=2, graceful_timeout_seconds=2), own_home, model_name="digits"
        )
    try:
        server.wait_until_ok("/livez")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def released(own_server: Server, own_home: Home, reader: Path, publish: Callable[..., Release]) -> Server:
    """The same server, serving what has learned to read."""
    releases = ReleaseStore(own_home.releases_dir("digits"))
    if releases.read_current() is None:
        publish(releases, "1", reader)
    own_server.wait_until_ok("/readyz")
    return own_server


class Visit:
    """One tab, and what it must not have done by the end: errors, and requests to elsewhere."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.page = context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda one: self.errors.append(one.text) if one.type != "log" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{server.url}/")
        self.box = self.page.locator("#canvas").bounding_box()

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        return (
            self.box["x"] + point[0] * self.box["width"],
            self.box["y"] + point[1] * self.box["height"],
        )

    def draw(self, digit: str) -> str:
        """Draw it with the mouse; the label that is shown in the end."""
        for first, *rest in DIGITS[digit]:
            self.page.mouse.move(*self.at(first))
            self.page.mouse.down()
            for point in rest:
                self.page.mouse.move(*self.at(point), steps=2)
            self.page.mouse.up()
        return self.settled()

    def settled(self) -> str:
        """The label, once the drawing was taken for finished, recorded and read out."""
        self.page.wait_for_function(ANSWERED)
        label = self.page.locator("#label")
        expect(self.page.locator("#spoken")).to_contain_text(" %")
        return label.inner_text()


@pytest.fixture
def visit(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Visit]]:
    """Opens the page; in the end it must have left the console and the rest of the world alone."""
    contexts, visits = [], []

    def done(server: Server, **options: object) -> Visit:
        context = chromium.new_context(**{"viewport": DESKTOP} | options)
        contexts.append(context)
        visits.append(Visit(context, server))
        return visits[-1]

    yield done
    for one in visits:
        origin = one.page.url.removesuffix("/draw")
        assert [] == one.errors
        assert [] == [url for url in one.asked if not url.startswith((f"{origin}/", "data:", "blob:"))]
    for context in contexts:
        context.close()


def test_before_a_release_the_page_says_so_and_waits(
    own_server: Server,
    own_home: Home,
    reader: Path,
    publish: Callable[..., Release],
    visit: Callable[..., Visit],
):
    """Drawn on already, it reads the drawing as soon as there is something to read it with."""
    assert ReleaseStore(own_home.releases_dir("digits")).read_current() is None
    page = visit(own_server).page
    expect(page.locator("#told")).to_contain_text("Nothing is released yet.")
    page.locator("#canvas").click()
    time.sleep(0.5)
    expect(page.locator("#told")).to_contain_text("Nothing is released yet.")

    publish(ReleaseStore(own_home.releases_dir("digits")), "1", reader)

    page.wait_for_function(ANSWERED)
    expect(page.locator("#told")).to_have_text("")
    expect(page.locator("#served")).to_contain_text("Version 1")


def test_what_is_drawn_is_answered(released: Server, visit: Callable[..., Visit]):
    """0 to 9 by mouse: each is answered, and eight of ten as they were meant."""
    visited = visit(released)
    read = {}
    for digit in DIGITS:
        read[digit] = visited.draw(digit)
        assert 10 == visited.page.locator("#bars li").count()
        assert 1 == visited.page.locator("#bars li.first").count()
        visited.page.locator("#clear").click()
        expect(visited.page.locator("#label")).to_have_text("–")

    assert sum(digit == label for digit, label in read.items()) >= 8, read


def test_the_page_shows_what_the_network_saw(released: Server, visit: Callable[..., Visit]):
    """The picture is the very 28 × 28, enlarged without being smoothed."""
    visited = visit(released)
    visited.draw("7")
    seen = visited.page.locator("#input")

    assert "pixelated" == seen.evaluate("image => getComputedStyle(image).imageRendering")
    content = base64.b64decode(seen.get_attribute("src").removeprefix("data:image/png;base64,"))
    answer = httpx.post(
        f"{released.url}/predict", content=content, headers={"content-type": "image/png"}, trust_env=False
    ).json()
    assert visited.page.locator("#label").inner_text() == answer["predictions"][0]["label"]
    expect(visited.page.locator("#caption")).to_have_text("what the network saw, 28 × 28")


def test_only_finished_drawings_and_feedback_are_recorded(
    released: Server, own_home: Home, visit: Callable[..., Visit]
):
    """One record a drawing, although it was read many times while it was made; the truth stands in it, and
    the image with it, as the network saw it."""
    time.sleep(0.6)  # what was asked before is on disk
    before = len(recorded.load_predictions(own_home.prediction_log_dir("digits")))
    visited = visit(released)
    visited.draw("4")
    visited.page.locator("#classes").get_by_text("9", exact=True).click()
    expect(visited.page.locator("#told")).to_contain_text("Noted: 9.")
    expect(visited.page.locator("#told")).to_contain_text("can become training data")
    time.sleep(0.6)

    frame = recorded.load_predictions(own_home.prediction_log_dir("digits"))
    assert before + 1 == len(frame)
    last = frame.iloc[-1]
    assert "9" == last["truth"]
    asked = [url for url in visited.asked if "/predict" in url]
    assert len(asked) > 1
    assert 1 == sum("log=true" in url for url in asked)
    seen = base64.b64decode(visited.page.locator("#input").get_attribute("src").partition(",")[2])
    image = recorded.load_images(own_home.prediction_log_dir("digits"))[last["request_id"], 0]
    assert seen == encode_png(image)


@pytest.mark.slow
def test_a_correction_waits_for_review(released: Server, own_home: Home, visit: Callable[..., Visit]):
    """What was drawn and corrected is listed, with its image as the network saw it, and can be accepted."""
    from relearn.flows.feedback.review import accept, load_review

    visited = visit(released)
    visited.draw("7")
    visited.page.locator("#classes").get_by_text("2", exact=True).click()
    expect(visited.page.locator("#told")).to_contain_text("Noted: 2.")
    seen = base64.b64decode(visited.page.locator("#input").get_attribute("src").partition(",")[2])
    time.sleep(0.6)

    last = load_review(own_home, "digits").items[-1]
    assert ("2", "1", seen) == (
        last.correction.label,
        last.correction.version,
        encode_png(last.correction.image),
    )
    assert ("new", None, ()) == (last.state, last.rejection_reason, last.warnings)
    accept(own_home, "digits", [last])
    assert "accepted" == load_review(own_home, "digits").items[-1].state


def test_a_drawing_is_recorded_once(released: Server, visit: Callable[..., Visit]):
    """Although a class is chosen while its record is under way: the feedback is on that one. Where the
    record fails, it is asked for again."""
    visited = visit(released)
    page = visited.page
    late: list[Route] = []
    said: list[dict[str, object]] = []
    page.route("**/predict?*log=true", lambda route: late.append(route))  # noqa: PLW0108  # no built-in is taken
    page.on("request", lambda one: said.append(one.post_data_json) if "/feedback" in one.url else None)
    page.locator("#canvas").click()
    page.wait_for_function(ANSWERED)
    page.wait_for_timeout(1_500)
    page.locator("#classes").get_by_text("9", exact=True).click()
    page.wait_for_timeout(500)
    assert 1 == len(late)
    error = {"code": "x", "message": "not now", "request_id": "x"}
    late[0].fulfill(status=503, json={"error": error}, headers={"retry-after": "1"})
    expect(page.locator("#told")).to_have_text("not now")
    page.wait_for_timeout(1_500)
    assert 2 == len(late)
    answer = late[1].fetch()
    late[1].fulfill(response=answer)
    expect(page.locator("#told")).to_contain_text("Noted: 9.")

    assert 2 == len(late)
    assert [answer.json()["request_id"]] == [one["request_id"] for one in said]
    visited.errors[:] = [one for one in visited.errors if "503" not in one]  # the browser's own line


def test_undo_takes_the_last_stroke_back(released: Server, visit: Callable[..., Visit]):
    """By Ctrl+Z and by its button; with nothing left there is no answer. A dot is a stroke too."""
    page = visit(released).page
    picture = "document.getElementById('canvas').toDataURL()"
    shown = [page.evaluate(picture)]
    for place in (50, 150):
        page.locator("#canvas").click(position={"x": place, "y": place})
        page.wait_for_function(f"before => {picture} !== before", arg=shown[-1])
        shown.append(page.evaluate(picture))
    page.wait_for_function(ANSWERED)
    page.keyboard.press("Control+z")
    page.wait_for_function(f"before => {picture} === before", arg=shown[1])
    page.locator("#undo").click()
    page.wait_for_function(f"before => {picture} === before", arg=shown[0])

    expect(page.locator("#label")).to_have_text("–")
    expect(page.locator("#undo")).to_be_disabled()


@pytest.mark.parametrize("end", ["undo", "clear", "drop"])
def test_a_gesture_ends_with_its_stroke(
    released: Server, visit: Callable[..., Visit], encoded: Callable[..., bytes], end: str
):
    """Undone, cleared or replaced while the mouse still draws it: what the mouse does until it is let go
    belongs to nothing."""
    visited = visit(released)
    page = visited.page
    picture = "document.getElementById('canvas').toDataURL()"
    page.locator("#canvas").click(position={"x": 50, "y": 50})
    visited.settled()
    dot = page.evaluate(picture)
    page.mouse.move(*visited.at((0.5, 0.5)))
    page.mouse.down()
    page.mouse.move(*visited.at((0.5, 0.7)))
    page.wait_for_function(f"before => {picture} !== before", arg=dot)
    if end == "undo":
        page.keyboard.press("Control+z")
        page.wait_for_function(f"before => {picture} === before", arg=dot)
    elif end == "clear":
        page.locator("#clear").press("Enter")
        expect(page.locator("#label")).to_have_text("–")
    else:
        content = base64.b64encode(encoded(np.zeros((1, 28, 28), np.uint8))).decode()
        page.evaluate(DROP, [content, "image/png"])
        visited.settled()
    time.sleep(0.1)
    ended = page.evaluate(picture)
    page.mouse.move(*visited.at((0.8, 0.8)), steps=3)
    page.mouse.up()
    time.sleep(0.1)

    assert ended == page.evaluate(picture)
    page.locator("#canvas").click(position={"x": 150, "y": 50})  # the next one is a stroke again
    page.wait_for_function(f"before => {picture} !== before", arg=ended)


def test_a_finger_draws_on_a_phone(released: Server, visit: Callable[..., Visit]):
    """At 390 × 844, and nothing is wider than even 360: no scrolling sideways, none while drawing."""
    visited = visit(released, viewport=PHONE, has_touch=True, is_mobile=True)
    page = visited.page
    wire = page.context.new_cdp_session(page)
    first, *rest = DIGITS["7"][0]
    for kind, points in [("touchStart", [first]), *[("touchMove", [one]) for one in rest], ("touchEnd", [])]:
        touches = [dict(zip("xy", visited.at(point), strict=True)) for point in points]
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    visited.settled()
    assert 0 == page.evaluate("scrollY")
    for width in (390, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert width == page.evaluate("document.documentElement.scrollWidth")
    small = "all => all.filter(one => one.getBoundingClientRect().height < 44).length"
    assert 0 == page.locator("button:visible").evaluate_all(small)


def test_keys_draw_and_correct(released: Server, visit: Callable[..., Visit]):
    """Tab to the paper, draw with arrows and Space, hear the answer, Tab to a class, and Enter."""
    visited = visit(released)
    page = visited.page
    page.keyboard.press("Tab")
    assert "canvas" == page.evaluate("document.activeElement.id")
    expect(page.locator("#keys")).to_be_visible()
    for key in ["Shift+ArrowUp"] * 2 + ["Space"] + ["ArrowDown"] * 14 + ["Space"]:
        page.keyboard.press(key)
    visited.settled()
    expect(page.locator("#spoken")).to_have_attribute("role", "status")
    order = []
    while page.evaluate("document.activeElement.textContent") != "1":
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.textContent"))
        assert len(order) < 20
    page.keyboard.press("Enter")

    assert ["Undo", "Clear", "Open image…", "0", "1"] == order
    expect(page.locator("#told")).to_contain_text("Noted: 1.")
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


def test_a_file_is_dropped_or_chosen(
    released: Server,
    visit: Callable[..., Visit],
    encoded: Callable[..., bytes],
    images: np.ndarray,
    tmp_path: Path,
):
    """A picture in the classifier's size arrives pixel by pixel; one that is too flat, and what is no
    picture, is told."""
    visited = visit(released)
    page = visited.page
    page.evaluate(DROP, [base64.b64encode(encoded(images[0])).decode(), "image/png"])
    visited.settled()
    assert encoded(images[0]) == base64.b64decode(
        page.locator("#input").get_attribute("src").partition(",")[2]
    )

    page.locator("#clear").click()
    (tmp_path / "one.jpg").write_bytes(encoded(np.kron(images[1], np.ones((1, 4, 4), np.uint8)), "JPEG"))
    page.locator("#file").set_input_files(tmp_path / "one.jpg")
    page.wait_for_function(ANSWERED)

    page.locator("#clear").click()
    strip = base64.b64encode(encoded(np.full((1, 1, 5000), 255, np.uint8))).decode()
    page.evaluate(DROP, [strip, "image/png"])
    expect(page.locator("#told")).to_contain_text("the image has 1024 × 1 pixels, accepted: sides of 4 or")

    page.evaluate(DROP, [base64.b64encode(b"no picture").decode(), "image/png"])
    expect(page.locator("#told")).to_contain_text("cannot read that as an image")
    visited.errors[:] = [one for one in visited.errors if "422" not in one]  # the browser's own line


def test_a_key_is_asked_for_and_kept_for_the_tab(released: Server, visit: Callable[..., Visit]):
    """The 401 is made up on the network, for this server has no keys: what the page does then is real."""
    visited = visit(released)
    page = visited.page
    sent: list[str | None] = []
    wrong, right = "wrong-key-0123456789", "right-key-0123456789"

    def guarded(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == f"Bearer {right}":
            route.continue_()
            return
        error = {"code": "unauthorized", "message": "key: got another one", "request_id": "x"}
        route.fulfill(status=401, content_type="application/json", body=json.dumps({"error": error}))

    page.route("**/predict*", guarded)
    page.locator("#canvas").click()
    for key in (wrong, right):
        expect(page.locator("#lock")).to_be_visible()
        assert "password" == page.locator("#secret").get_attribute("type")
        page.locator("#secret").fill(key)
        page.keyboard.press("Enter")
        if key == wrong:
            expect(page.locator("#wrong")).to_have_text("key: got another one")
    page.wait_for_function(ANSWERED)

    assert [None, f"Bearer {wrong}", f"Bearer {right}"] == sent[:3]
    assert {f"Bearer {right}"} == set(sent[2:])
    assert right == page.evaluate("sessionStorage.getItem('relearn-key')")
    assert 0 == page.evaluate("localStorage.length")
    assert right not in page.url
    visited.errors[:] = [one for one in visited.errors if "401" not in one]  # the browser's own line


def test_a_guarded_page_asks_for_a_key_first(
    guarded: Server, keys: tuple[str, str], visit: Callable[..., Visit]
):
    """Before any request that needs one; what can be no key is neither sent nor kept, and another can be
    typed at once. Its link shows the document that needs a key."""
    visited = visit(guarded)
    page = visited.page
    expect(page.locator("#lock")).to_be_visible()
    for other in ("sixteen-or-moré-characters", "ключ-ключ-ключ-ключ", "with a space, and a comma", "short"):
        page.locator("#secret").fill(other)
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_have_text(
            "A key has 16 or more letters a–z, digits or signs, without space and comma."
        )
        expect(page.locator("#lock")).to_be_visible()
        page.locator("#wrong").evaluate("message => message.textContent = ''")
    assert [] == [url for url in visited.asked if "openapi.json" in url]
    assert page.evaluate("sessionStorage.getItem('relearn-key')") is None
    page.locator("#secret").fill(keys[0])
    page.keyboard.press("Enter")
    expect(page.locator("#lock")).to_be_hidden()
    expect(page.locator("#about")).to_contain_text("Reads images of digits")

    page.get_by_role("link", name="API").click()
    page.wait_for_url("blob:**")
    assert "3.1.0" == json.loads(page.locator("body").inner_text())["openapi"]
    page.go_back()
    page.locator("#canvas").click()
    visited.settled()


def test_what_the_api_refuses_is_told(released: Server, visit: Callable[..., Visit]):
    """Its one line, as it is; the next drawing is asked again."""
    visited = visit(released)
    error = {"code": "x", "message": "body: accepted: up to 3 bytes", "request_id": "x"}
    visited.page.route("**/predict*", lambda route: route.fulfill(status=413, json={"error": error}))
    visited.page.locator("#canvas").click()
    expect(visited.page.locator("#told")).to_have_text("body: accepted: up to 3 bytes")
    visited.page.unroute("**/predict*")
    visited.page.locator("#canvas").click()

    visited.page.wait_for_function(ANSWERED)
    expect(visited.page.locator("#told")).to_have_text("")
    visited.errors[:] = [one for one in visited.errors if "413" not in one]  # the browser's own line


def test_the_page_may_do_nothing_it_need_not(client: httpx.Client):
    """A strict policy on each of its files; `/` leads to it."""
    for path in ("/draw", "/draw/page.css", "/draw/page.js"):
        answer = client.get(path)
        assert 200 == answer.status_code
        policy = dict(
            part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
        )
        assert "'none'" == policy["default-src"] == policy["base-uri"] == policy["form-action"]
        assert "'none'" == policy["frame-ancestors"]
        assert "'self'" == policy["script-src"] == policy["style-src"] == policy["connect-src"]
        assert "'self' data: blob:" == policy["img-src"]
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "no-referrer" == answer.headers["referrer-policy"]
    assert "text/html; charset=utf-8" == client.get("/draw").headers["content-type"]
    assert (307, "draw") == (client.get("/").status_code, client.get("/").headers["location"])
    assert 404 == client.get("/draw/index.html").status_code


def test_dark_and_light_are_the_readers(released: Server, visit: Callable[..., Visit]):
    """As the system has it."""
    colours = set()
    for scheme in ("light", "dark"):
        page = visit(released, color_scheme=scheme).page
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert 2 == len(colours)


@pytest.mark.parametrize("query", ["?return_input=1", "?log=no"])
def test_a_flag_is_true_or_false(client: httpx.Client, query: str):
    """And nothing that could be taken for one of them."""
    answer = client.post(f"/predict{query}", json={"images": [0] * 784})

    assert (422, "wrong_type") == (answer.status_code, answer.json()["error"]["code"])
