"""Promise of accuracy on realistic input: digits from a pen or a font, at any place, dark or bright."""

import io
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps

from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.images.decode import decode_image
from relearn.model.images.resize import fit_image
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.server import run_server
from relearn.serving.releases.golden import Golden

FONTS = [
    Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    for name in ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral")
]
PNG = {"content-type": "image/png"}
VARIANTS = {  # digit size / page size, stroke width / digit size, offset (right, down) / page size
    "off center": (0.4, 0.1, (-0.25, 0.2)),
    "inverted": (0.6, 0.1, (0, 0)),
    "thick": (0.6, 0.2, (0, 0)),
    "thin": (0.6, 0.03, (0, 0)),
    "large": (0.95, 0.1, (0, 0)),
    "small": (0.15, 0.1, (0, 0)),
}


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[tuple[float, float]]:
    """Return points of an ellipse around (x, y) between two angles in degrees; 0 is right, 90 is down."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


# Pen strokes of each digit in a box of 1 × 1.
PEN_STROKES = {
    0: [arc(0.5, 0.5, 0.32, 0.48, -90, 270)],
    1: [[(0.35, 0.2), (0.52, 0.02), (0.52, 0.98)]],
    2: [[*arc(0.5, 0.28, 0.3, 0.26, -170, 50), (0.18, 0.96), (0.84, 0.96)]],
    3: [[*arc(0.46, 0.26, 0.3, 0.24, -150, 90), *arc(0.46, 0.74, 0.34, 0.24, -90, 150)]],
    4: [[(0.62, 0.98), (0.62, 0.02), (0.12, 0.66), (0.88, 0.66)]],
    5: [[(0.8, 0.03), (0.28, 0.03), (0.24, 0.45), *arc(0.46, 0.68, 0.34, 0.29, -110, 140)]],
    6: [[(0.68, 0.04), *arc(0.6, 0.55, 0.42, 0.42, -150, -190), *arc(0.5, 0.72, 0.3, 0.25, -180, 180)]],
    7: [[(0.14, 0.05), (0.84, 0.05), (0.4, 0.98)]],
    8: [[*arc(0.5, 0.26, 0.26, 0.24, 90, 450), *arc(0.5, 0.74, 0.32, 0.24, -90, 270)]],
    9: [[*arc(0.5, 0.3, 0.3, 0.28, 0, 360), (0.8, 0.3), (0.72, 0.98)]],
}


def written(digit: int, side: int, width: float, rng: np.random.Generator) -> Image.Image:
    """Draw a digit with the pen, white on black, `side` pixels high, with random slant and aspect ratio."""
    slant, aspect_ratio = rng.uniform(-0.1, 0.25), rng.uniform(0.7, 1.0)
    margin = side // 4
    page = Image.new("L", (side + 2 * margin,) * 2)
    stroke_width = max(2, round(width * side))
    for stroke in PEN_STROKES[digit]:
        points = [
            (margin + side * (0.5 + (x - 0.5) * aspect_ratio + slant * (0.5 - y)), margin + side * y)
            for x, y in stroke
        ]
        ImageDraw.Draw(page).line(points, 255, stroke_width, "curve")
        for x, y in (points[0], points[-1]):
            radius = stroke_width / 2
            ImageDraw.Draw(page).ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return page


def printed(digit: int, side: int, width: float, rng: np.random.Generator) -> Image.Image:
    """Draw a digit in a random font, thickened by `width` above 0.1."""
    font = ImageFont.truetype(str(rng.choice(FONTS)), int(1.35 * side))
    page = Image.new("L", (2 * side,) * 2)
    stroke_width = round(max(0.0, width - 0.1) / 2 * side)
    ImageDraw.Draw(page).text((side, side), str(digit), 255, font, anchor="mm", stroke_width=stroke_width)
    return page


def draw_png(digit: int, draw: Callable[..., Image.Image], variant: str, rng: np.random.Generator) -> bytes:
    """Draw a PNG of 200 to 400 pixels: dark on light as on paper, or light on dark if inverted."""
    size, width, (right, down) = VARIANTS[variant]
    side = int(rng.integers(200, 401))
    ink = draw(digit, int(size * side), width, rng)
    ink = ink.crop(ink.getbbox())
    paper = Image.new("L", (side, side))
    left, top = (
        int(np.clip((side - length) / 2 + shift * side, 0, max(side - length, 0)))
        for length, shift in zip(ink.size, (right, down), strict=True)
    )
    paper.paste(ink, (left, top))
    content = io.BytesIO()
    (paper if variant == "inverted" else ImageOps.invert(paper)).save(content, "PNG")
    return content.getvalue()


def draw_all() -> Iterator[tuple[int, str, bytes]]:
    """Yield 200 PNG files: every digit from pen and font, in every variant at least once."""
    rng = np.random.default_rng(0)
    for number in range(200):
        digit, draw = number % 10, (written, printed)[number // 10 % 2]
        variant = list(VARIANTS)[number // 20 % len(VARIANTS)]
        yield digit, f"{draw.__name__}, {variant}", draw_png(digit, draw, variant, rng)


@pytest.fixture(scope="module")
def mnist_classifier(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """An mlp trained on MNIST."""
    config = TrainConfig.from_preset("fast", dataset="mnist", network="mlp")
    prepared = prepare_dataset(config, Home(tmp_path_factory.mktemp("reading"), real_data))
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    return Classifier(network, ModelCard.from_network(config, prepared, network))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drawn_digits_are_classified_correctly(
    mnist_classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Accuracy is at least 90 % on 200 PNG files, and below 50 % if they are only resized."""
    home = Home(tmp_path, tmp_path)
    mnist_classifier.save(tmp_path / "saved")
    golden = Golden.from_classifier(mnist_classifier, np.zeros((1, 1, 28, 28), np.uint8))
    golden.save(tmp_path / "saved")
    drawings = list(draw_all())
    bento = build_bento(tmp_path / "saved", "mnist", "1", home)
    with (
        run_server(bento, ServeConfig(port=0), home) as url,
        httpx.Client(base_url=url, headers=PNG) as client,
    ):
        responses = [client.post("/predict", content=png) for *_, png in drawings]
    predicted = [response.json()["predictions"][0]["label"] for response in responses]
    resized = np.stack(
        [fit_image(decode_image(png), mnist_classifier.card.shape, "photo") for *_, png in drawings]
    )
    predicted_resized = mnist_classifier.to_labels(mnist_classifier.predict(resized))

    digits = np.array([str(digit) for digit, *_ in drawings])
    accuracy, accuracy_resized = (digits == predicted).mean(), (digits == predicted_resized).mean()
    mistakes = [
        f"{description}: {digit} as {label}"
        for (digit, description, _), label in zip(drawings, predicted, strict=True)
        if str(digit) != label
    ]
    summary = f"accuracy {accuracy:.1%} with fit_image, {accuracy_resized:.1%} only resized"
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}; mistakes: {'; '.join(mistakes)}\n")
    assert accuracy >= 0.9
    assert accuracy_resized < 0.5
