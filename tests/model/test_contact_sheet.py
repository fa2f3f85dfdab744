"""Promises of the contact sheet: every image as it is, with its words, and what is doubtful in a frame."""

import numpy as np
import pytest

from relearn.model.plots.contact_sheet import COLUMNS, plot_contact_sheet

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)])
def test_every_image_is_shown_with_its_words(shape: tuple[int, int, int]) -> None:
    """In rows, grey or in colour, unchanged; places without an image stay empty."""
    images = RANDOM.integers(0, 256, (COLUMNS + 3, *shape), np.uint8)
    figure = plot_contact_sheet(
        "Told", [(image, (f"id {n}", "told $7"), n == 2) for n, image in enumerate(images)]
    )
    shown = [axes for axes in figure.axes if axes.images]

    assert (2 * COLUMNS, COLUMNS + 3) == (len(figure.axes), len(shown))
    for number, (axes, image) in enumerate(zip(shown, images, strict=True)):
        assert np.array_equal(image.transpose(1, 2, 0).squeeze(), axes.images[0].get_array())
        assert f"id {number}\ntold \\$7" == axes.get_xlabel()
        assert (number == 2) == axes.spines["top"].get_visible()
    assert "Told: 11 images, 1 framed: doubtful" == figure.get_suptitle()


def test_a_sheet_without_images_says_so() -> None:
    """And can be drawn."""
    figure = plot_contact_sheet("Told", [])
    figure.canvas.draw()
    assert "Told: 0 images" == figure.get_suptitle()
