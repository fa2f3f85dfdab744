"""Promises of what all figures share."""

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
    """Names are short, on one line, without formulas and without characters the font lacks."""
    assert expected == style.ellipsize(name)


@pytest.mark.parametrize("longest", [8, 9, 14])
def test_shown_names_keep_to_the_length(longest: int) -> None:
    """Of a long name both ends stay, since names often differ in the last letter."""
    text = style.ellipsize("class_number_000017", longest)

    assert longest == len(text)
    assert text.endswith("7")


def test_infinite_values_leave_a_hole() -> None:
    """One infinite loss does not squeeze all others into a line."""
    assert [False, True, True] == np.isnan(style.mask_non_finite(np.array([1, np.inf, np.nan]))).tolist()


def test_blank_is_nine_hundred_pixels_wide() -> None:
    """The width at which MLflow's page shows an image, and the title stands in it."""
    figure = style.create_figure(3, "What is seen")

    assert [900, 300] == figure.bbox.size.tolist()
    assert "What is seen" == figure.get_suptitle()
