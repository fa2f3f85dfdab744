"""Tests of the contact sheet: unchanged images with their captions, flagged images in a frame."""

import numpy as np
import pytest

from relearn.model.plots.contact_sheet import COLUMNS, plot_contact_sheet

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)])
def test_every_image_is_shown_with_its_caption(shape: tuple[int, int, int]) -> None:
    """Gray and color images are drawn unchanged, in rows; unused cells stay empty."""
    images = RANDOM.integers(0, 256, (COLUMNS + 3, *shape), np.uint8)
    figure = plot_contact_sheet(
        "Feedback", [(image, (f"id {n}", "label $7"), n == 2) for n, image in enumerate(images)]
    )
    filled_axes = [axes for axes in figure.axes if axes.images]

    assert (2 * COLUMNS, COLUMNS + 3) == (len(figure.axes), len(filled_axes))
    for number, (axes, image) in enumerate(zip(filled_axes, images, strict=True)):
        assert np.array_equal(image.transpose(1, 2, 0).squeeze(), axes.images[0].get_array())
        assert f"id {number}\nlabel \\$7" == axes.get_xlabel()
        assert (number == 2) == axes.spines["top"].get_visible()
    assert "Feedback: 11 images, 1 flagged (framed)" == figure.get_suptitle()


def test_a_sheet_without_images_can_be_drawn() -> None:
    """Its title says that it has 0 images."""
    figure = plot_contact_sheet("Feedback", [])
    figure.canvas.draw()
    assert "Feedback: 0 images" == figure.get_suptitle()
