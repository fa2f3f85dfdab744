"""Digits as people send them: written with a pen or set in a font, somewhere on a page, dark or bright."""

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
from relearn.model.data.prepared import prepare_dataset
from relearn.model.home import Home
from relearn.model.images.decode import decode_image, fit_image
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.packaging import build_bento
from relearn.serving.deployment.server import run_server

FONTS = [
    Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    for name in ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral")
]
PNG = {"content-type": "image/png"}
WAYS = {  # how large a digit is, of the page; how broad its strokes are, of the digit; and where it stands
    "off the centre": (0.4, 0.1, (-0.25, 0.2)),
    "inverted": (0.6, 0.1, (0, 0)),
    "thick": (0.6, 0.2, (0, 0)),
    "thin": (0.6, 0.03, (0, 0)),
    "large": (0.95, 0.1, (0, 0)),
    "small": (0.15, 0.1, (0, 0)),
}


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[tuple[float, float]]:
    """Points of an ellipse around (x, y), from one angle to another; 0 is right, 90 is down."""
    steps = np.radians(np.linspace(start, end, 24))
    return [(x + width * math.cos(turn), y + height * math.sin(turn)) for turn in steps]


# In a box of 1 × 1, by digit: the strokes of a pen.
PEN = {
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


def written(digit: int, side: int, width: float, dice: np.random.Generator) -> Image.Image:
    """A digit from the pen: leaning, narrow or wide as it comes; white on black, `side` pixels high."""
    lean, squeeze = dice.uniform(-0.1, 0.25), dice.uniform(0.7, 1.0)
    margin = side // 4
    page = Image.new("L", (side + 2 * margin,) * 2)
    brush = max(2, round(width * side))
    for stroke in PEN[digit]:
        places = [
            (margin + side * (0.5 + (x - 0.5) * squeeze + lean * (0.5 - y)), margin + side * y)
            for x, y in stroke
        ]
        ImageDraw.Draw(page).line(places, 255, brush, "curve")
        for x, y in (places[0], places[-1]):
            half = brush / 2
            ImageDraw.Draw(page).ellipse((x - half, y - half, x + half, y + half), 255)
    return page


def printed(digit: int, side: int, width: float, dice: np.random.Generator) -> Image.Image:
    """A digit from a font, made broader with `width`."""
    font = ImageFont.truetype(str(dice.choice(FONTS)), int(1.35 * side))
    page = Image.new("L", (2 * side,) * 2)
    broader = round(max(0.0, width - 0.1) / 2 * side)
    ImageDraw.Draw(page).text((side, side), str(digit), 255, font, anchor="mm", stroke_width=broader)
    return page


def drawing(digit: int, make: Callable[..., Image.Image], way: str, dice: np.random.Generator) -> bytes:
    """A PNG of 280 × 280 or so: bright on dark where inverted, else dark on light, as on paper."""
    size, width, (right, down) = WAYS[way]
    side = int(dice.integers(200, 401))
    ink = make(digit, int(size * side), width, dice)
    ink = ink.crop(ink.getbbox())
    paper = Image.new("L", (side, side))
    left, top = (
        int(np.clip((side - length) / 2 + shift * side, 0, max(side - length, 0)))
        for length, shift in zip(ink.size, (right, down), strict=True)
    )
    paper.paste(ink, (left, top))
    content = io.BytesIO()
    (paper if way == "inverted" else ImageOps.invert(paper)).save(content, "PNG")
    return content.getvalue()


def drawings() -> Iterator[tuple[int, str, bytes]]:
    """200 digits: each of ten from the pen and from a font, in every way at least once."""
    dice = np.random.default_rng(0)
    for number in range(200):
        digit, make = number % 10, (written, printed)[number // 10 % 2]
        way = list(WAYS)[number // 20 % len(WAYS)]
        yield digit, f"{make.__name__}, {way}", drawing(digit, make, way, dice)


@pytest.fixture(scope="module")
def reader(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """An mlp that has learned from MNIST."""
    config = TrainConfig.from_preset("fast", dataset="mnist", network="mlp")
    prepared = prepare_dataset(config, Home(tmp_path_factory.mktemp("reading"), real_data))
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    return Classifier(network, ModelCard.from_network(config, prepared, network))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_are_read_however_they_stand_on_the_page(
    reader: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """At least 90 % of 200 PNG files; the same network reads few of them when they are only resized."""
    home = Home(tmp_path, tmp_path)
    reader.save(tmp_path / "saved")
    asked = list(drawings())
    bento = build_bento(tmp_path / "saved", "mnist", "1", home)
    with (
        run_server(bento, ServeConfig(port=0), home) as url,
        httpx.Client(base_url=url, headers=PNG) as client,
    ):
        answers = [client.post("/predict", content=picture) for *_, picture in asked]
    read = [answer.json()["predictions"][0]["label"] for answer in answers]
    resized = np.stack(
        [fit_image(decode_image(picture), reader.card.shape, "photo") for *_, picture in asked]
    )
    plain = reader.to_labels(reader.predict(resized))

    digits = np.array([str(digit) for digit, *_ in asked])
    right, right_plain = (digits == read).mean(), (digits == plain).mean()
    missed = [
        f"{how}: {digit} as {label}"
        for (digit, how, _), label in zip(asked, read, strict=True)
        if str(digit) != label
    ]
    told = f"read {right:.1%} with fit_image, {right_plain:.1%} only resized; missed: {'; '.join(missed)}"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")
    assert right >= 0.9
    assert right_plain < 0.5
