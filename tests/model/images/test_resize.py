"""Promises of resizing: single images and batches get the shape of a dataset, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.images.resize import fit_image, resize_batch

MNIST = (1, 28, 28)
RNG = np.random.default_rng(0)


def test_photo_of_the_right_size_is_kept() -> None:
    """It is not cropped or inverted; every pixel is kept."""
    image = RNG.integers(0, 256, (28, 28), np.uint8)
    assert np.array_equal(image[None], fit_image(Image.fromarray(image), MNIST, "photo"))
    color = RNG.integers(0, 256, (28, 28, 3), np.uint8)
    assert np.array_equal(color.transpose(2, 0, 1), fit_image(Image.fromarray(color), (3, 28, 28), "photo"))


@pytest.mark.parametrize("style", ["mnist", "drawing", "photo"])
def test_channels_are_those_of_the_shape(style: Any) -> None:
    """Gray images become colored and colored ones gray."""
    image, color = (RNG.integers(0, 256, (28, 28, *channels), np.uint8) for channels in ((), (3,)))
    assert (1, 28, 28) == fit_image(Image.fromarray(color), MNIST, style).shape
    assert (3, 28, 28) == fit_image(Image.fromarray(image), (3, 28, 28), style).shape


def test_photos_keep_background_and_colour() -> None:
    """The whole image is resized, not inverted or cropped."""
    photo = np.full((100, 80, 3), 250, np.uint8)
    photo[:50] = (200, 30, 10)
    image = fit_image(Image.fromarray(photo), (3, 32, 32), "photo")
    assert ((3, 32, 32), np.uint8) == (image.shape, image.dtype)
    assert [200, 30, 10] == image[:, 5, 5].tolist()
    assert [250, 250, 250] == image[:, 28, 28].tolist()


def test_batches_are_resized() -> None:
    """A batch gives the same result as single images; nothing over- or underflows."""
    images = RNG.choice([0, 255], (1500, 3, 12, 10)).astype(np.uint8)
    smaller = resize_batch(images, (1, 6, 5))
    assert ((1500, 1, 6, 5), np.uint8) == (smaller.shape, smaller.dtype)
    assert np.array_equal(smaller[1400:1401], resize_batch(images[1400:1401], (1, 6, 5)))
    white = np.full((2, 1, 8, 8), 255, np.uint8)
    assert (resize_batch(white, (3, 20, 16)) == 255).all()
