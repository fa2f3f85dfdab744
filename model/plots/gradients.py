"""Figure of the gradients of a training run."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relearn.model.plots import style
from relearn.model.plots.style import (
    GRAY,
    add_legend_below,
    create_figure,
    ellipsize,
    mask_non_finite,
    style_axes,
)
from relearn.model.training import gradient_health

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LINES = 10  # layers per panel; of a deeper network, evenly spaced layers are shown
MARKERS = "os^Dv<>P*X"
PANELS = {"weight_gradient": "‖∂L/∂W‖", "delta": "‖δ‖ = ‖∂L/∂Z‖", "dead_fraction": "dead ReLU units (%)"}


def plot_gradient_flow(health: pd.DataFrame) -> "Figure":
    """Plot gradient norms, δ norms (log scale) and the fraction of dead ReLUs of each layer over the epochs.

    `health` holds rows of `measure_gradients`. Zero and infinite norms are gaps in a line. The title is the
    diagnosis.
    """
    from matplotlib.ticker import MaxNLocator

    report = gradient_health.diagnose(health)
    title = "Gradients are healthy in every layer" if report.is_healthy else ellipsize(report.warnings[0], 88)
    if len(report.warnings) > 1:
        title += f"\nand {len(report.warnings) - 1} more warnings"
    figure = create_figure(4.4, title)
    layers = health["layer"].unique()
    if len(layers) > MAX_LINES:
        layers = layers[np.linspace(0, len(layers) - 1, MAX_LINES).round().astype(int)]
    columns = [column for column in PANELS if health[column].notna().any()]
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for index, layer in enumerate(layers):
            rows = health[health["layer"] == layer]
            values = mask_non_finite(rows[column].to_numpy(dtype=float))
            values = 100 * values if column == "dead_fraction" else np.where(values > 0, values, np.nan)
            color, marker = style.COLORS[index % len(style.COLORS)], MARKERS[index]
            label = f"layer {ellipsize(layer, 20)}"
            axes.plot(rows["epoch"], values, color=color, marker=marker, markersize=4.5, label=label)
        axes.set(xlabel="epoch", title=PANELS[column])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        style_axes(axes)
        if column == "dead_fraction":
            axes.set(ylim=(-3, 103))
            axes.axhline(
                100 * gradient_health.DEAD_FRACTION, color=GRAY, linestyle=":", label="warning threshold"
            )
        elif any((line.get_ydata() > 0).any() for line in axes.lines):
            axes.set(yscale="log")
    add_legend_below(figure, panels[-1], columns=5)
    return figure
