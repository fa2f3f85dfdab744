"""Tests of the common style of all figures."""

import numpy as np
import pytest

from relearn.model.plots import style


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("7", "7"),
        ("a name of sixteen", "a name o…sixteen"),
        ("price in $", r"price in \$"),
        ("猫", "U+732B"),
        ("two\nlines", "twoU+Alines"),
    ],
)
def test_any_class_name_can_be_drawn(name: str, expected: str) -> None:
    """Names are short, on one line, without formulas and without characters that the font lacks."""
    assert expected == style.ellipsize(name)


@pytest.mark.parametrize("max_length", [8, 9, 14])
def test_shortened_names_have_the_maximum_length(max_length: int) -> None:
    """Both ends of a long name are kept, because names often differ in the last letter."""
    text = style.ellipsize("class_number_000017", max_length)

    assert max_length == len(text)
    assert text.endswith("7")


def test_infinite_values_become_nan() -> None:
    """An infinite loss does not flatten all other values."""
    assert [False, True, True] == np.isnan(style.mask_non_finite(np.array([1, np.inf, np.nan]))).tolist()


def test_figures_are_900_pixels_wide() -> None:
    """A figure has the width of images in the MLflow UI, and its title."""
    figure = style.create_figure(3, "Title")

    assert [900, 300] == figure.bbox.size.tolist()
    assert "Title" == figure.get_suptitle()
