"""Promises of scales: white is guessed only where one reading is possible, and conversion is exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.model.images.scale import ValueRange, list_plausible_scales, scale_to_uint8


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        ([0, 1], (1,)),
        ([0.0, 1.0], (1,)),
        ([0.25, 1.0], (1,)),
        ([0, 200], (255,)),
        ([0, 128], (255,)),
        ([0, 127], (127, 255)),
        ([0, 16], (16, 255)),
        ([0, 4000], (4095, 65_535)),
        ([0, 65_000], (65_000, 65_535)),
        ([0, 65_535], (65_535,)),
        ([-1, 1], ()),
        ([0.5, 200], ()),
        ([0, np.nan], ()),
        ([0, np.inf], ()),
        ([0, 70_000], ()),
    ],
)
def test_only_unmistakable_ranges_have_one_scale(values: list[float], scales: tuple[int, ...]) -> None:
    """A guess by the maximum alone would brighten dark images."""
    assert scales == list_plausible_scales(ValueRange.from_values(np.array(values)))


@given(st.integers(0, 255))
def test_conversion_undoes_usual_ways_to_write_8_bits(value: int) -> None:
    """Divided by 255, times 257 or 256 in 16 bits, times 16 in 12 bits: the same value."""
    for written, white in (
        (value / 255, 1),
        (value * 257, 65_535),
        (value * 256, 65_535),
        (value * 16, 4095),
    ):
        assert value == scale_to_uint8(np.array([written]), white)[0]
    assert value == scale_to_uint8(np.array([value], np.uint8), 255)[0]


def test_the_largest_value_is_white() -> None:
    """For any scale, 0 is black and white is 255."""
    for white in (1, 15, 16, 127, 255, 1023, 4095, 65_535):
        assert [0, 255] == scale_to_uint8(np.array([0, white]), white).tolist()
