"""Scale of pixel values: which value is white, and the conversion to 0–255.

A guess by the maximum alone would brighten dark photos, so only unmistakable ranges have one scale.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

BYTE_WHITE, WORD_WHITE = 2**8 - 1, 2**16 - 1


@dataclass(frozen=True)
class ValueRange:
    """Smallest and largest value of a set of images, and whether all values are whole."""

    minimum: float
    maximum: float
    is_whole: bool

    @classmethod
    def from_values(cls, values: np.ndarray) -> Self:
        """Measure `values`; NaN and infinity are no whole numbers."""
        if values.dtype.kind in "bui":
            return cls(float(values.min()), float(values.max()), True)
        return cls(float(values.min()), float(values.max()), bool((values == np.floor(values)).all()))

    def merge(self, other: Self | None) -> Self:
        """Return the range of both sets."""
        if other is None:
            return self
        return type(self)(  # unlike min and max, numpy's functions keep NaN
            float(np.minimum(self.minimum, other.minimum)),
            float(np.maximum(self.maximum, other.maximum)),
            self.is_whole and other.is_whole,
        )

    def fits(self, white: int) -> bool:
        """Return True for numbers from 0 to `white`; whole ones, unless `white` is 1."""
        return self.minimum >= 0 and self.maximum <= white and (self.is_whole or white == 1)

    def __str__(self) -> str:
        kind = "whole numbers" if self.is_whole else "fractions"
        return f"{kind} from {self.minimum:g} to {self.maximum:g}"


def list_plausible_scales(values: ValueRange) -> tuple[int, ...]:
    """Return the values that may be white in bare numbers: one, two to choose from, or none.

    0 and 1, or fractions from 0 to 1: 1. Whole numbers up to 255, one of them above 127: 255. Other whole
    numbers up to 65535 have two readings; negative numbers and other fractions have none.
    """
    if not values.minimum >= 0 or not values.maximum <= WORD_WHITE:  # also NaN
        return ()
    if values.maximum <= 1:
        return (1,)
    if not values.is_whole:
        return ()
    if values.maximum <= BYTE_WHITE // 2:
        return int(values.maximum), BYTE_WHITE
    if values.maximum <= BYTE_WHITE:
        return (BYTE_WHITE,)
    smallest = next_bit_depth_white(values.maximum)
    return tuple(dict.fromkeys((smallest if smallest < WORD_WHITE else int(values.maximum), WORD_WHITE)))


def next_bit_depth_white(maximum: float) -> int:
    """Return the white of the smallest bit depth that holds `maximum`: 4095 for 3000."""
    return int(2 ** int(maximum).bit_length() - 1)


def scale_to_uint8(values: np.ndarray, white: int) -> np.ndarray:
    """Convert values from 0 to `white` to uint8; more than 8 bits lose their lowest bits."""
    if white == BYTE_WHITE:
        return values.astype(np.uint8, copy=False)
    if white > BYTE_WHITE and white & (white + 1) == 0:
        return (values.astype(np.uint32) >> (white.bit_length() - 8)).astype(np.uint8)
    scaled: np.ndarray = np.round(values * np.float64(255 / white))
    return scaled.astype(np.uint8)


def scale_from_uint8(images: np.ndarray, white: int) -> np.ndarray:
    """Convert uint8 to values from 0 to `white`: fractions if it is 1, else whole numbers.

    `scale_to_uint8` gives `images` back, or the nearest that whole numbers up to `white` can express.
    """
    values: np.ndarray = images * np.float64(white / 255)
    return values if white == 1 else np.round(values).astype(np.uint16)
