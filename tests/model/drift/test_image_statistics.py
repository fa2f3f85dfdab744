"""Tests of the image statistics."""

import numpy as np
import pytest

from relearn.model.drift.image_statistics import STATISTICS, compute_statistics


def statistics_of(image: np.ndarray) -> dict[str, float]:
    """Return the statistics of one image (channels, height, width), by name."""
    return dict(zip(STATISTICS, compute_statistics(image[None])[0].tolist(), strict=True))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14)])
def test_statistics_equal_their_formulas(shape: tuple[int, int, int]):
    """The statistics equal the formulas in double precision, for more images than fit into one chunk."""
    images = np.random.default_rng(1).integers(0, 256, (150, *shape), dtype=np.uint8)
    gray = images.mean(1) / 255
    y, x = np.mgrid[0 : shape[1], 0 : shape[2]]
    mass = gray.sum((1, 2))
    expected = [
        gray.mean((1, 2)),
        gray.std((1, 2)),
        (gray >= 128 / 255).mean((1, 2)),
        (gray * x).sum((1, 2)) / mass / (shape[2] - 1),
        (gray * y).sum((1, 2)) / mass / (shape[1] - 1),
        np.sqrt((np.diff(gray, axis=1) ** 2).mean((1, 2))),
    ]

    assert np.allclose(np.stack(expected, 1), compute_statistics(images), atol=1e-5)


def test_the_center_of_a_blank_image_is_its_middle():
    """A blank image causes no division by zero."""
    blank = dict.fromkeys(STATISTICS, 0.0) | {"center_x": 0.5, "center_y": 0.5}

    assert blank == statistics_of(np.zeros((1, 28, 28), np.uint8))


def test_the_upper_right_corner_has_center_1_0():
    """The center is measured from the left and from the top edge."""
    image = np.zeros((1, 10, 20), np.uint8)
    image[0, 0, 19] = 255

    statistics = statistics_of(image)
    assert (1.0, 0.0) == (statistics["center_x"], statistics["center_y"])


def test_an_empty_batch_has_no_rows():
    """An empty batch has an empty table of statistics."""
    assert (0, len(STATISTICS)) == compute_statistics(np.empty((0, 1, 28, 28), np.uint8)).shape
