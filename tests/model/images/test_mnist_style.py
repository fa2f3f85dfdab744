"""Promises of the `mnist` style: a drawing on any page becomes an image like MNIST's."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from relearn.model.images.resize import fit_image

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=[0, 3, 14, 27])
def digit(request: pytest.FixtureRequest) -> np.ndarray:
    """A handwritten digit, bright on dark, 140 × 140 with the digit in the central 100 × 100."""
    small = load_digits().images[request.param] * 255 / 16
    large = Image.fromarray(small.astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC)
    pixels = np.asarray(large, int)
    return np.pad(np.clip((pixels - 90) * 3, 0, 255).astype(np.uint8), 20)


def to_mnist_image(page: np.ndarray) -> np.ndarray:
    return fit_image(Image.fromarray(page), (1, 28, 28), "mnist")[0].astype(float)


def best_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The highest correlation of two images, with one of them shifted by up to a pixel."""
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return max(np.corrcoef(first.ravel(), np.roll(second, shift, (0, 1)).ravel())[0, 1] for shift in shifts)


def place_on_page(digit: np.ndarray, top: int, left: int, height: int = 400, width: int = 500) -> np.ndarray:
    page = np.zeros((height, width), np.uint8)
    page[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return page


def zoom(digit: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def add_specks(page: np.ndarray) -> np.ndarray:
    page = page.copy()
    page[3:6, 3:6] = page[-9:-6, -9:-6] = 200
    return page


DRAWING_VARIANTS = {
    "at the top left": lambda digit: place_on_page(digit, 0, 0),
    "at the bottom right": lambda digit: place_on_page(digit, 260, 360),
    "dark on light": lambda digit: 255 - place_on_page(digit, 30, 200),
    "large": lambda digit: zoom(digit, 900),
    "small": lambda digit: zoom(digit, 56),
    "tiny on a large page": lambda digit: 255 - place_on_page(zoom(digit, 70), 40, 300),
    "faint": lambda digit: (180 - place_on_page(digit, 9, 9) * 0.25).astype(np.uint8),
    "with specks": lambda digit: add_specks(place_on_page(digit, 100, 100)),
    "on grainy paper": lambda digit: np.clip(
        200 - 0.6 * place_on_page(digit, 40, 90) + np.random.default_rng(0).normal(0, 8, (400, 500)), 0, 255
    ).astype(np.uint8),
    "in uneven light": lambda digit: (
        (255 - 0.8 * place_on_page(digit, 90, 90)) * np.linspace(0.3, 1, 500)
    ).astype(np.uint8),
}


@pytest.mark.parametrize("variant", DRAWING_VARIANTS)
def test_digit_gives_the_same_image_however_it_is_drawn(digit: np.ndarray, variant: str) -> None:
    """Position, size, ink, contrast, grain and light hardly change the result."""
    assert 0.93 < best_correlation(to_mnist_image(digit), to_mnist_image(DRAWING_VARIANTS[variant](digit)))


def test_drawing_follows_the_convention_of_mnist(digit: np.ndarray) -> None:
    """It is bright on dark, its longer side has 20 pixels, its centre of mass is in the middle."""
    image = to_mnist_image(255 - place_on_page(digit, 200, 50))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert 20 == max(np.ptp(rows), np.ptp(columns)) + 1
    assert 255 == image.max()
    assert image.mean() < 80
    for axis in (0, 1):
        assert abs(image.sum(axis=1 - axis) @ np.arange(28) / image.sum() - 14) < 0.7


def test_thin_strokes_are_thickened_and_thick_ones_kept(digit: np.ndarray) -> None:
    """A thin stroke gets the width of MNIST's; a thick one stays thick."""
    from scipy import ndimage

    thick = ndimage.grey_dilation(digit, 5)
    thin = np.zeros((160, 160), np.uint8)
    thin[20:140, 80:83] = thin[78:81, 50:120] = 255
    assert 0.8 < best_correlation(to_mnist_image(digit), to_mnist_image(thick))
    assert to_mnist_image(thick).mean() > to_mnist_image(digit).mean()
    line = to_mnist_image(thin)
    assert 2 <= (line[10] > 128).sum() <= 4


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_blank_page_gives_zeros(shade: int) -> None:
    """A page without a drawing gives zeros, also with grain."""
    page = np.full((90, 70), shade, int) + RNG.integers(-3, 4, (90, 70))
    assert 0 == to_mnist_image(np.clip(page, 0, 255).astype(np.uint8)).max()


@pytest.mark.parametrize(("height", "width"), [(300, 40), (40, 300), (1000, 120), (29, 28), (28, 29), (5, 5)])
def test_any_proportions_are_kept(height: int, width: int) -> None:
    """Strips, sizes near 28 × 28 and tiny pages are fitted with their proportions."""
    page = np.zeros((height, width), np.uint8)
    margin = max(1, min(height, width) // 10)
    page[margin:-margin, margin:-margin] = 255
    image = to_mnist_image(page)
    rows, columns = (image > 99).any(axis=1).sum(), (image > 99).any(axis=0).sum()
    assert 20 == max(rows, columns)
    aspect_ratio = (width - 2 * margin) / (height - 2 * margin)
    assert abs(columns - 20 * min(1, aspect_ratio)) < 1.5
    assert abs(rows - 20 * min(1, 1 / aspect_ratio)) < 1.5
