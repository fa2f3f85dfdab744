"""What all figures share: size, colours, titles, and how names are written.

Figures are 900 pixels wide, the width at which MLflow's page shows them. Colours are those of Okabe and
Ito ("Color Universal Design", 2008), which readers with any colour vision tell apart; whatever a colour
says, a shape or a number says as well.
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
    """An empty figure of 9 × `height` inches at 100 dots, with its title at the left."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # it has read the matplotlibrc of the current folder, if there is one
    figure = Figure(figsize=(9, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=BLACK)
    return figure


def style_axes(axes: "Axes") -> None:
    """Leave the frame to the data: two spines, a faint grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)


def add_legend_below(figure: "Figure", axes: "Axes", columns: int = 4) -> None:
    """One legend for all panels, under them, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def ellipsize(name: str, max_length: int = 16) -> str:
    """`name` as a figure can draw it: at most `longest` characters, the middle left out.

    Characters that matplotlib's own font lacks are spelt U+XXXX, and a dollar sign starts no formula.
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

    return frozenset(code for code in FT2Font(findfont("DejaVu Sans")).get_charmap() if code >= ord(" "))


def mask_non_finite(values: np.ndarray) -> np.ndarray:
    """Infinite values as NaN: a diverged epoch leaves a hole and does not flatten the rest."""
    return np.where(np.isfinite(values), values, np.nan)
