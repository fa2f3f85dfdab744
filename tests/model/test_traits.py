"""The numbers that a drift test knows of an image."""

import numpy as np
import pytest

from relearn.model.drift.image_statistics import STATISTICS, compute_statistics


def one(image: np.ndarray) -> dict[str, float]:
    """The traits of one image (channels, height, width), by name."""
    return dict(zip(STATISTICS, compute_statistics(image[None])[0].tolist(), strict=True))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14)])
def test_they_are_what_their_names_say(shape: tuple[int, int, int]):
    """Against the plain formulas in double precision, for more images than fit into one piece."""
    images = np.random.default_rng(1).integers(0, 256, (150, *shape), dtype=np.uint8)
    grey = images.mean(1) / 255
    y, x = np.mgrid[0 : shape[1], 0 : shape[2]]
    mass = grey.sum((1, 2))
    expected = [
        grey.mean((1, 2)),
        grey.std((1, 2)),
        (grey >= 128 / 255).mean((1, 2)),
        (grey * x).sum((1, 2)) / mass / (shape[2] - 1),
        (grey * y).sum((1, 2)) / mass / (shape[1] - 1),
        np.sqrt((np.diff(grey, axis=1) ** 2).mean((1, 2))),
    ]

    assert np.allclose(np.stack(expected, 1), compute_statistics(images), atol=1e-5)


def test_a_blank_image_has_its_centre_in_the_middle():
    """No division by nothing."""
    blank = dict.fromkeys(STATISTICS, 0.0) | {"center_x": 0.5, "center_y": 0.5}

    assert blank == one(np.zeros((1, 28, 28), np.uint8))


def test_a_corner_is_told_from_another():
    """Left, right, top and bottom are where a reader expects them."""
    image = np.zeros((1, 10, 20), np.uint8)
    image[0, 0, 19] = 255

    assert (1.0, 0.0) == (one(image)["center_x"], one(image)["center_y"])


def test_no_image_has_no_traits():
    """An empty batch stays an empty table."""
    assert (0, len(STATISTICS)) == compute_statistics(np.empty((0, 1, 28, 28), np.uint8)).shape
