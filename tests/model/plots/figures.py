"""Helpers for tests of figures."""

import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def save_as_png(figure: Figure) -> Figure:
    """Write the figure as PNG, which is when matplotlib warns, and return it."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def line_points(axes: Axes, label: str) -> np.ndarray:
    """Return x and y of the line with this label, (2, n)."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(line.get_data(), dtype=float)


def _non_empty_texts(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def text_contents(figure: Figure) -> list[str]:
    """Return all texts inside the axes."""
    return [text.get_text() for text in _non_empty_texts(figure)]


def text_boxes(figure: Figure) -> list[Bbox]:
    """Return the bounding box of each text in pixels, without the padding around its letters."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer).padded(-1, -2) for text in _non_empty_texts(figure)]


def make_history(epochs: int) -> pd.DataFrame:
    """Return a history of training as `FitResult.to_frame()` does."""
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": 1 / epoch + 0.1,
            "val_accuracy": 0.9 - 0.5 / epoch,
        }
    )
