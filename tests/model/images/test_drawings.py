"""Promises of accuracy and identity: drawings in any form are read, and training images keep every byte."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.drawings import DRAWINGS, add_frame, add_noise, encode, enlarge, paint, place, read, resize
from relearn.model.config import TrainConfig
from relearn.model.data.custom import infer_style
from relearn.model.data.load import load_dataset
from relearn.model.home import Home
from relearn.model.images.decode import decode_image, encode_png
from relearn.model.images.mnist_style import MIN_CONTRAST, has_mnist_form
from relearn.model.images.resize import find_blank, fit_image, resize_batch
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

MNIST = (1, 28, 28)
DATA = Path(os.environ.get("RELEARN_DATA") or "nowhere").absolute()
HAS_MNIST = (DATA / "MNIST" / "raw").is_dir()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, np.ndarray, np.ndarray]:
    """A classifier of MNIST, or of scikit-learn's digits without MNIST, with its test images and labels."""
    home = Home(tmp_path_factory.mktemp("drawings"), DATA)
    config = TrainConfig.from_preset("fast", dataset="mnist" if HAS_MNIST else "digits", epochs=8)
    prepared = prepare_dataset(config, home)
    network = build_network(config, prepared.shape, len(prepared.classes))
    fit(config, network, prepared.splits, len(prepared.classes))
    test = prepared.splits.test
    return Classifier(network, ModelCard.from_network(config, prepared, network)), test.images, test.labels


def draw_at_random(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Draw a digit in random size, place, polarity and contrast, with or without frame and noise."""
    side = int(rng.integers(24, 300))
    height, width = (int(side * rng.uniform(1.15, 1.6)) for _ in range(2))
    dark, bright = int(rng.integers(0, 70)), int(rng.integers(170, 256))
    levels = (dark, bright) if rng.random() < 0.5 else (bright, dark)
    margin = int(rng.integers(2, 12)) + side // 10
    ink = np.pad(place(resize(enlarge(digit), side), rng, height, width), margin)
    page = paint(ink, *levels)
    if rng.random() < 0.3:
        page = add_frame(page, int(rng.integers(1, 1 + margin // 4)), levels[0])
    return add_noise(page, rng, rng.uniform(0, 8))


def test_drawings_of_any_form_are_read(trained: tuple[Classifier, np.ndarray, np.ndarray]) -> None:
    """Size, place, polarity, contrast, frame and noise cost at most 5 % of the accuracy."""
    classifier, images, labels = trained
    rng = np.random.default_rng(0)
    indices = rng.permutation(len(images))[:100]
    undisturbed = (classifier.predict(images[indices]).argmax(1) == labels[indices]).mean()
    drawings = np.stack([read(encode(draw_at_random(images[index, 0], rng))) for index in indices])
    assert (classifier.predict(drawings).argmax(1) == labels[indices]).mean() >= 0.95 * undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_drawings_are_read(
    real_data: Path, trained: tuple[Classifier, np.ndarray, np.ndarray]
) -> None:
    """In every form of the benchmark at least 95 % of the accuracy is kept, in two kinds 85 %.

    These are thin pens, and digits that were stretched to a square: a 1 may then be an 8 for a person too.
    """
    classifier, images, labels = trained
    rng = np.random.default_rng(0)
    indices = rng.permutation(len(images))[:200]
    undisturbed = (classifier.predict(images[indices]).argmax(1) == labels[indices]).mean()
    inks = [enlarge(images[index, 0]) for index in indices]
    relative = {}
    for form, draw in DRAWINGS.items():
        drawings = np.stack([read(encode(draw(ink, rng))) for ink in inks])
        accuracy = (classifier.predict(drawings).argmax(1) == labels[indices]).mean()
        relative[form] = accuracy / undisturbed
    low = {
        form: f"{value:.1%}"
        for form, value in relative.items()
        if value < (0.85 if "thin" in form or "stretched" in form else 0.95)
    }
    assert not low


def test_training_images_keep_every_byte(tmp_path: Path) -> None:
    """An image of the dataset, sent as a file, reaches the network as it was trained on."""
    images = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, tmp_path)).train.images
    for image in images[::9]:
        assert np.array_equal(image, read(encode_png(image)))
    assert "mnist" == infer_style(images)
    for side in (14, 20, 32, 64):
        assert has_mnist_form(resize_batch(images, (1, side, side))[:, 0]).all()


def test_every_image_of_mnist_keeps_every_byte(real_data: Path, tmp_path: Path) -> None:
    """All 70,000 images have MNIST's form; a sample of the test images keeps every byte as a PNG file."""
    dataset = load_dataset(TrainConfig(dataset="mnist"), Home(tmp_path, real_data))
    assert dataset.test is not None
    assert has_mnist_form(dataset.train.images[:, 0]).all()
    assert has_mnist_form(dataset.test.images[:, 0]).all()
    for image in dataset.test.images[::20]:
        assert np.array_equal(image, read(encode_png(image)))


def test_own_drawings_keep_every_byte() -> None:
    """Gray drawings, bright on dark and not centered, keep their bytes; only dark on bright is converted."""
    rng = np.random.default_rng(0)
    images = np.zeros((50, 1, 28, 28), np.uint8)
    for image in images:
        top, left = rng.integers(1, 15, 2)
        image[0, top : top + 12, left : left + 5] = rng.integers(50, 256, (12, 5))
    assert "drawing" == infer_style(images)
    for image in images:
        assert np.array_equal(image, fit_image(decode_image(encode_png(image)), MNIST, "drawing"))
        assert fit_image(decode_image(encode_png(255 - image)), MNIST, "drawing").mean() < 128


@pytest.mark.parametrize("level", [1, MIN_CONTRAST - 1])
def test_faint_dots_in_the_place_of_a_digit_have_no_content(level: int) -> None:
    """A contrast that is none on a page of another size is none on one of the network's size."""
    page = np.zeros((28, 28), np.uint8)
    page[11:18, 12:17] = level
    assert not fit_image(Image.fromarray(page), (1, 28, 28), "mnist").any()
    page[page > 0] = MIN_CONTRAST
    assert np.array_equal(page, fit_image(Image.fromarray(page), (1, 28, 28), "mnist")[0])


@pytest.mark.parametrize("side", [28, 60, 280])
@pytest.mark.parametrize("noise", [0, 3, 12])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_blank_pages_have_no_content(side: int, noise: int, level: int) -> None:
    """A page without a drawing gives an image without content, also with grain."""
    page = add_noise(paint(np.zeros((side, side)), 0, level), np.random.default_rng(side), noise)
    assert find_blank(read(encode(page))[None], "mnist").tolist() == [True]
    assert find_blank(np.zeros((1, *MNIST)), "photo").tolist() == [False]


@pytest.mark.parametrize(("pen", "expected"), [(255, "white"), (0, "black")])
def test_strokes_on_transparency_are_read(pen: int, expected: str) -> None:
    """White and black strokes on a transparent page give the same image, from RGBA, LA and palettes."""
    ink = np.zeros((100, 100))
    ink[20:80, 45:55] = 1
    pixels = np.full((100, 100, 4), pen, np.uint8)
    pixels[..., 3] = 255 * ink
    image = Image.fromarray(pixels)
    drawn = read(encode(paint(ink)))
    assert np.array_equal(drawn, read(encode(image)))
    assert np.array_equal(drawn, read(encode(image.convert("LA"))))
    assert np.array_equal(drawn, read(encode(image.quantize(4))))
