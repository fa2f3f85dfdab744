"""Accuracy on drawings: MNIST's test digits, redrawn in the forms in which people send them."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.images.decode import decode_image
from relearn.model.images.resize import fit_image
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

DIGITS = 500  # of MNIST's test images, in each form
SURE = 0.7  # probability of a wrong label that would mislead
SIDE, ZOOM = 28, 10
SHAPE = (1, SIDE, SIDE)
BLUE, CREAM, YELLOW, RED, GREEN = (40, 60, 190), (250, 250, 245), (245, 220, 40), (255, 20, 16), (40, 129, 40)
Color = int | tuple[int, int, int]
Drawing = Callable[[np.ndarray, np.random.Generator], Image.Image]


def measure() -> tuple[str, str, pd.DataFrame]:
    """Send 500 test digits in each form to the mlp of the preset fast."""
    classifier, images, labels = _train_classifier()
    indices = np.random.default_rng(0).permutation(len(images))[:DIGITS]
    images, labels = images[indices], labels[indices]
    undisturbed = classifier.predict(images)
    accuracy = (undisturbed.argmax(1) == labels).mean()
    inks = [enlarge(image[0]) for image in images]
    rows = [{"form": "MNIST's own pixels", **_score(classifier, images, labels, float(accuracy))}]
    for form, draw in DRAWINGS.items():
        rng = np.random.default_rng(1)
        inputs = np.stack([read(encode(draw(ink, rng))) for ink in inks])
        rows.append({"form": form, **_score(classifier, inputs, labels, float(accuracy))})
    note = (
        f"{DIGITS} test digits of MNIST in each form, sent as files to the mlp of the preset fast. Relative "
        "accuracy is the accuracy divided by that of MNIST's own pixels; no answer counts as wrong."
    )
    return "Accuracy on drawings", note, pd.DataFrame(rows)


def _score(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, undisturbed_accuracy: float
) -> dict[str, str]:
    probabilities, is_blank = classifier.predict(images), classifier.find_blank(images)
    is_right = (probabilities.argmax(1) == labels) & ~is_blank
    is_misleading = ~is_right & ~is_blank & (probabilities.max(1) > SURE)
    return {
        "accuracy": f"{is_right.mean():.1%}",
        "relative": f"{is_right.mean() / undisturbed_accuracy:.1%}",
        f"wrong, surer than {SURE}": f"{is_misleading.mean():.1%}",
        "no answer": f"{is_blank.mean():.1%}",
    }


def _train_classifier() -> tuple[Classifier, np.ndarray, np.ndarray]:
    """Train on MNIST; return the classifier with MNIST's test images and labels."""
    home = Home(Path(tempfile.mkdtemp(prefix="relearn-benchmark-")), Home.from_environment().data)
    config = TrainConfig.from_preset("fast", dataset="mnist")
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    test = prepared.splits.test
    return Classifier(network, ModelCard.from_network(config, prepared, network)), test.images, test.labels


def encode(page: Image.Image) -> bytes:
    """Encode a page as a PNG file; a page that was read from a JPEG file stays that file."""
    content = io.BytesIO()
    page.save(content, page.format or "PNG", **({"quality": "keep"} if page.format else {}))
    return content.getvalue()


def read(content: bytes) -> np.ndarray:
    """Read an image file as a server does; uint8 (1, 28, 28)."""
    return fit_image(decode_image(content), SHAPE, "mnist")


def enlarge(digit: np.ndarray) -> np.ndarray:
    """Enlarge a digit, uint8 (28, 28), to sharp ink, float 0 to 1 (280, 280)."""
    large = ndimage.zoom(digit / 255, ZOOM, order=3)
    return np.asarray((ndimage.gaussian_filter(large, 2) - 0.3) / 0.4).clip(0, 1)


def crop(ink: np.ndarray) -> np.ndarray:
    """Crop ink without a margin."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def place(ink: np.ndarray, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Place ink anywhere on a page of `height` × `width`."""
    ink, page = crop(ink), np.zeros((height, width))
    top, left = (
        int(rng.integers(0, side - length + 1)) for side, length in zip(page.shape, ink.shape, strict=True)
    )
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return page


def resize(ink: np.ndarray, side: int) -> np.ndarray:
    """Resize ink to `side` × `side`."""
    method = Image.Resampling.BOX if side < max(ink.shape) else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize((side, side), method)).clip(0, 1)


def shift(ink: np.ndarray, rng: np.random.Generator, distance: int) -> np.ndarray:
    """Shift ink in a random diagonal direction."""
    return np.roll(ink, tuple(int(rng.choice([-distance, distance])) for _ in range(2)), (0, 1))


def paint(ink: np.ndarray, pen: Color = 0, paper: Color = 255) -> Image.Image:
    """Paint ink on paper."""
    share = ink if isinstance(pen, int) else ink[..., None]
    pixels = share * np.array(pen, float) + (1 - share) * np.array(paper, float)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def paint_transparent(ink: np.ndarray, pen: int) -> Image.Image:
    """Paint ink on a transparent page."""
    pixels = np.full((*ink.shape, 4), pen, np.uint8)
    pixels[..., 3] = (255 * ink).round()
    return Image.fromarray(pixels)


def thin(ink: np.ndarray, width: int) -> np.ndarray:
    """Draw the middle line of each stroke again with a pen of `width` pixels."""
    depth = ndimage.distance_transform_edt(ink > 0.5)
    slope = np.hypot(*np.gradient(ndimage.gaussian_filter(depth, 2)))
    middle = (slope < 0.55) & (depth > 4)
    return np.asarray(width / 2 - ndimage.distance_transform_edt(~middle) + 0.5).clip(0, 1)


def interrupt(ink: np.ndarray, rng: np.random.Generator, gap: int) -> np.ndarray:
    """Leave `gap` rows of every 50 without ink."""
    ink = ink.copy()
    for top in range(int(rng.integers(0, 50)), len(ink), 50):
        ink[top : top + gap] = 0
    return ink


def add_frame(page: Image.Image, width: int, color: int) -> Image.Image:
    """Add a frame at the edge."""
    page = page.copy()
    ImageDraw.Draw(page).rectangle((0, 0, page.width - 1, page.height - 1), outline=color, width=width)
    return page


def add_noise(page: Image.Image, rng: np.random.Generator, std: float) -> Image.Image:
    """Add Gaussian noise."""
    pixels = np.asarray(page, float)
    return Image.fromarray((pixels + rng.normal(0, std, pixels.shape)).round().clip(0, 255).astype(np.uint8))


def add_specks(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add six specks of dirt."""
    for x, y in rng.integers(0, page.width - 4, (6, 2)).tolist():
        ImageDraw.Draw(page).rectangle((x, y, x + 3, y + 3), 40)
    return page


def add_lines(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw the pale lines of ruled paper."""
    for y in range(int(rng.integers(20, 40)), page.height, 40):
        ImageDraw.Draw(page).line((0, y, page.width, y), (190, 210, 240), 1)
    return page


def light_from_one_side(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Leave 40 % of the light at one side."""
    light = np.linspace(0.4, 1, page.width)[:: int(rng.choice([-1, 1]))]
    return add_noise(Image.fromarray((np.asarray(page) * light).astype(np.uint8)), rng, 3)


def as_jpeg(page: Image.Image, quality: int) -> Image.Image:
    """Encode as JPEG and open the file."""
    page.save(content := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(content)


def on_table(
    ink: np.ndarray, rng: np.random.Generator, table: tuple[int, int, int], *, is_cut: bool = False
) -> Image.Image:
    """Photograph a sheet, slightly turned, on a table; `is_cut`: the sheet's top left is not in the photo."""
    sheet = Image.new("RGB", (300, 300), (235,) * 3)
    sheet.paste(paint(ink, 50, 235), (10, 10))
    angle = float(rng.uniform(-8, 8))
    turned, mask = (
        image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        for image in (sheet, Image.new("L", sheet.size, 255))
    )
    photo = Image.new("RGB", (440, 400), table)
    photo.paste(turned, (-30, -30) if is_cut else tuple(rng.integers(15, 60, 2).tolist()), mask)
    return add_noise(photo, rng, 4)


DRAWINGS: dict[str, Drawing] = {
    "28 × 28, white on black": lambda ink, rng: paint(resize(ink, 28), 255, 0),
    "28 × 28, black on white": lambda ink, rng: paint(resize(ink, 28)),
    "28 × 28, black on white, JPEG": lambda ink, rng: as_jpeg(paint(resize(ink, 28)), 85),
    "28 × 28, black on transparency": lambda ink, rng: paint_transparent(resize(ink, 28), 0),
    "28 × 28, white on transparency": lambda ink, rng: paint_transparent(resize(ink, 28), 255),
    "28 × 28, off center by 3": lambda ink, rng: paint(shift(resize(ink, 28), rng, 3), 255, 0),
    "28 × 28, black, off center by 4": lambda ink, rng: paint(shift(resize(ink, 28), rng, 4)),
    "28 × 28, frame": lambda ink, rng: add_frame(paint(resize(ink, 28), 255, 0), 1, 255),
    "28 × 28, black on white, frame": lambda ink, rng: add_frame(paint(resize(ink, 28)), 1, 0),
    "28 × 28, gray on gray": lambda ink, rng: paint(resize(ink, 28), 90, 170),
    "28 × 28, noise": lambda ink, rng: add_noise(paint(resize(ink, 28), 40, 220), rng, 15),
    "28 × 28, 60 % as large": lambda ink, rng: paint(place(resize(ink, 16), rng, 28, 28), 255, 0),
    "28 × 28, tight crop, stretched": lambda ink, rng: paint(resize(crop(ink), 28)),
    "29 to 60 pixels": lambda ink, rng: paint(resize(ink, int(rng.integers(29, 61)))),
    "black on white": lambda ink, rng: paint(ink),
    "white on black": lambda ink, rng: paint(ink, 255, 0),
    "blue on white": lambda ink, rng: paint(ink, BLUE, CREAM),
    "yellow on white": lambda ink, rng: paint(ink, YELLOW, (255, 255, 255)),
    "red on green of equal luminance": lambda ink, rng: paint(ink, RED, GREEN),
    "black on transparency": lambda ink, rng: paint_transparent(ink, 0),
    "white on transparency": lambda ink, rng: paint_transparent(ink, 255),
    "frame of 1 pixel": lambda ink, rng: add_frame(paint(ink), 1, 0),
    "frame of 4 pixels": lambda ink, rng: add_frame(paint(ink), 4, 0),
    "white on black, frame of 4 pixels": lambda ink, rng: add_frame(paint(ink, 255, 0), 4, 255),
    "gray frame of 2 pixels": lambda ink, rng: add_frame(paint(ink), 2, 128),
    "1200 × 1200, frame of 1 pixel": lambda ink, rng: add_frame(paint(resize(ink, 1200)), 1, 0),
    "sheet on a dark table": lambda ink, rng: on_table(ink, rng, (70, 50, 40)),
    "sheet on a gray table": lambda ink, rng: on_table(ink, rng, (150, 140, 135)),
    "sheet on a white table": lambda ink, rng: on_table(ink, rng, (255, 255, 255)),
    "sheet, cut by the photo": lambda ink, rng: on_table(ink, rng, (70, 50, 40), is_cut=True),
    "anywhere on 500 × 400": lambda ink, rng: paint(place(ink, rng, 400, 500)),
    "small on 500 × 400": lambda ink, rng: paint(place(resize(ink, 80), rng, 400, 500)),
    "tight crop": lambda ink, rng: paint(crop(ink)),
    "tight crop, white on black": lambda ink, rng: paint(crop(ink), 255, 0),
    "touching the edge": lambda ink, rng: paint(np.pad(crop(ink), ((0, 90), (0, 120)))),
    "thick pen": lambda ink, rng: paint(ndimage.grey_dilation(ink, (13, 13))),
    "broken": lambda ink, rng: paint(interrupt(ink, rng, 8)),
    "dithered": lambda ink, rng: paint(0.8 * ink + 0.1).convert("1"),
    "64 × 64, dithered": lambda ink, rng: paint(resize(0.8 * ink + 0.1, 64)).convert("1"),
    "grainy paper": lambda ink, rng: add_noise(paint(ink, 60, 200), rng, 20),
    "very grainy paper": lambda ink, rng: add_noise(paint(ink, 60, 200), rng, 40),
    "light from one side": lambda ink, rng: light_from_one_side(paint(ink, 40, 240), rng),
    "faint pencil": lambda ink, rng: add_noise(paint(ink, 205, 240), rng, 3),
    "JPEG of quality 15": lambda ink, rng: as_jpeg(paint(ink, 30, 230), 15),
    "blurred": lambda ink, rng: paint(ndimage.gaussian_filter(ink, 5)),
    "specks": lambda ink, rng: add_specks(paint(place(ink, rng, 400, 400)), rng),
    "ruled paper": lambda ink, rng: add_lines(paint(ink, BLUE, CREAM), rng),
    "thin pen": lambda ink, rng: paint(thin(ink, 4)),
    "thin pen, 600 × 600": lambda ink, rng: paint(place(thin(ink, 4), rng, 600, 600)),
    "thin pen, broken": lambda ink, rng: paint(interrupt(thin(ink, 5), rng, 8)),
}
