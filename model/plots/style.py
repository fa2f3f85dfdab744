"""Common style of all figures: size, colors, titles, names.

Figures are 900 pixels wide, the width of images in the MLflow UI. The colors are by Okabe and Ito ("Color
Universal Design", 2008) and can be distinguished with any color vision. Shapes or numbers repeat the
information of a color.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GRAY, BLACK = "#E69F00", "#56B4E9", "#777777", "#222222"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINE_STYLES = ("-", "--", ":", "-.")


def create_figure(height: float, title: str) -> "Figure":
    """Create an empty figure of 9 × `height` inches at 100 dpi, with a left-aligned title."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # matplotlib may have read a matplotlibrc in the current folder
    figure = Figure(figsize=(9, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=BLACK)
    return figure


def style_axes(axes: "Axes") -> None:
    """Hide the top and right spine, and draw a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def add_legend_below(figure: "Figure", axes: "Axes", columns: int = 4) -> None:
    """Draw one legend for all panels below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def ellipsize(name: str, max_length: int = 16) -> str:
    """Shorten `name` to `max_length` characters by omitting the middle, and make it drawable.

    Control characters, and those that matplotlib's default font lacks, are written as U+XXXX; dollar signs
    are escaped.
    """
    drawable_codes = _get_drawable_codes()
    text = "".join(
        character if ord(character) in drawable_codes else f"U+{ord(character):X}" for character in name
    )
    if len(text) > max_length:
        text = f"{text[: max_length // 2]}…{text[len(text) - (max_length - 1) // 2 :]}"
    return text.replace("$", r"\$")


@cache
def _get_drawable_codes() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(
        code for code in FT2Font(findfont("DejaVu Sans")).get_charmap() if chr(code).isprintable()
    )


def mask_non_finite(values: np.ndarray) -> np.ndarray:
    """Replace infinite values with NaN: a diverged epoch is a gap and does not flatten the other values."""
    return np.where(np.isfinite(values), values, np.nan)
