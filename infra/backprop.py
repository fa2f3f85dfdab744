"""Worked example of backpropagation, as printed tables and figures: `make backprop ARGS="--sizes 2 3 1"`."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from relearn.flows.cli.app import PARAMETERS, run_app
from relearn.flows.process import environment
from relearn.flows.terminal.console import make_console
from relearn.flows.terminal.rendering import Table, write_figure
from relearn.model.errors import UserInputError
from relearn.model.home import Home
from relearn.model.images.formats import FORMAT_NAMES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from relearn.model.backprop.worked_example import WorkedExample
    from relearn.model.images.resize import ImageStyle

NETWORK, IMAGE_NETWORK = (2, 3, 3, 1), (784, 16, 10)  # without --sizes
MAX_ROWS = 30  # rows of a printed table


class BackpropConfig(BaseModel):
    """Settings of a worked example: network, example, update step."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sizes: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = Field(
        None,
        min_length=2,
        max_length=6,
        description="Units of each layer, inputs first; 2 3 3 1 by default, 784 16 10 for an image.",
    )
    steps: int = Field(100, ge=1, le=10_000, description="SGD steps; the tables show the first.")
    lr: float = Field(0.5, gt=0, le=1000, description="Learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum, from the second step on.")
    seed: int = Field(
        2,
        ge=0,
        lt=2**63,
        description="Random seed; 2 gives each hidden layer of 2 3 3 1 an inactive unit.",
    )
    image: Path | None = Field(None, description=f"{FORMAT_NAMES} file to use as the example.")
    label: str | None = Field(None, description="Class of the image: a number from 0, or a class name.")
    classifier: Path | None = Field(
        None, description="Folder of a trained classifier for the image; a random network by default."
    )
    output: Path | None = Field(
        None, description="Folder for the figures; by default backprop/2-3-3-1 or backprop/IMAGE in the home."
    )


DEFAULTS = BackpropConfig()


app = App(
    name="make backprop",
    usage='Usage: make backprop ARGS="[OPTIONS]"',
    default_parameter=PARAMETERS,
    version_flags=[],
    result_action="return_value",
)


@app.default
def backprop(*, config: Annotated[BackpropConfig, Parameter(name="*")] = DEFAULTS) -> None:
    """Show backpropagation with numbers: forward pass, loss, backward pass, weight update.

    One example goes through a small network. A single output uses sigmoid and binary cross-entropy, several
    outputs softmax and cross-entropy; for both, δ of the output is output − target.
    """
    if (config.image is None) != (config.label is None):
        raise UserInputError("--image, --label: got one of them, accepted: both or neither")
    if config.classifier and (config.sizes or not config.image):
        raise UserInputError("--classifier: accepted with --image and without --sizes")
    sizes = config.sizes or (IMAGE_NETWORK if config.image else NETWORK)
    folder_name = config.image.stem if config.image else "-".join(map(str, sizes))
    folder = config.output or Home.from_environment().root / "backprop" / folder_name
    if folder.exists() and not folder.is_dir():
        raise UserInputError(f"--output: got the file {folder}, accepted: a folder")
    if config.image:
        example, figures = _build_image_example(config, sizes, config.image)
    else:
        example, figures = _build_random_example(config, sizes)
    console = make_console()
    _print_example(example, console)
    console.rule("Figures", align="left")
    for name, figure in figures.items():
        write_figure(folder / f"{name}.png", figure)
        console.print(str(folder / f"{name}.png"), soft_wrap=True)


def _build_random_example(
    config: BackpropConfig, sizes: tuple[int, ...]
) -> "tuple[WorkedExample, dict[str, Figure]]":
    from relearn.model.backprop.worked_example import compare_learning_rates, random_example
    from relearn.model.plots import backprop as backprop_plots

    example = random_example(sizes, config.steps, config.lr, config.momentum, config.seed)
    rates = [config.lr * factor for factor in (0.1, 0.3, 1, 3, 10)]
    losses = compare_learning_rates(example, rates, config.steps, config.seed)
    phases = backprop_plots.PHASES if max(sizes) <= backprop_plots.MAX_UNITS else ()
    return example, {
        **{
            f"{number}-{phase}": backprop_plots.plot_backprop_phase(example, phase)
            for number, phase in enumerate(phases, 1)
        },
        "relu": backprop_plots.plot_relu(),
        "learning-rates": backprop_plots.plot_losses(losses, chance=math.log(max(2, sizes[-1]))),
    }


def _build_image_example(
    config: BackpropConfig, sizes: tuple[int, ...], path: Path
) -> "tuple[WorkedExample, dict[str, Figure]]":
    from relearn.model.backprop.worked_example import image_example, random_mlp
    from relearn.model.images.decode import MAX_FILE_BYTES, MAX_PIXELS, open_image
    from relearn.model.images.resize import decode_fitted
    from relearn.model.inference.classifier import Classifier
    from relearn.model.plots.backprop import plot_image_backprop

    style: ImageStyle = "mnist"
    file_scale = None
    if config.classifier:
        classifier = Classifier.load(config.classifier)
        network: nn.Module = classifier.network.cpu()
        card = classifier.card
        shape, style, file_scale, classes = card.shape, card.style, card.file_scale, card.classes
    else:
        side = math.isqrt(sizes[0])
        if side * side != sizes[0]:
            raise UserInputError(
                f"--sizes: got {sizes[0]} inputs, accepted for an image: a square, such as 784"
            )
        shape, classes = (1, side, side), tuple(map(str, range(max(2, sizes[-1]))))
        network = random_mlp(sizes, config.seed)
    try:
        file = open_image(path.read_bytes(), MAX_FILE_BYTES, MAX_PIXELS)
        image = decode_fitted(file, shape, style, file_scale)
    except OSError as error:
        raise UserInputError(f"--image: {path} cannot be read: {error.strerror}") from None
    label = str(config.label)
    example = image_example(network, image, label, classes, config.steps, config.lr, config.momentum)
    return example, {"image": plot_image_backprop(example, image)}


def _print_example(example: "WorkedExample", console: Console) -> None:
    first, second, *_ = example.losses
    sizes = "-".join(map(str, example.sizes))
    console.rule(f"1. Forward pass through {sizes}", align="left")
    inputs = dict(zip(example.unit_names[0], example.inputs[0].tolist(), strict=True))
    if len(inputs) <= MAX_ROWS:
        console.print("inputs: " + ", ".join(f"{name} = {value:.2f}" for name, value in inputs.items()))
    else:
        console.print(f"inputs: {len(inputs):,}, {sum(map(bool, inputs.values())):,} of them not 0")
    console.print(
        f"z = Σ weight · input + bias; activation = relu(z), at the output {example.output_function}(z)"
    )
    _print_table(console, example.forward_table(), "activation")

    console.rule("2. Loss", align="left")
    _print_table(console, example.error_table(), "error")
    probability = f"{math.exp(-first):.3f}"
    console.print(f"probability of the target: {probability}; loss = −ln {probability} = {first:.3f} nats")

    console.rule("3. Backward pass", align="left")
    console.print("δ = upstream gradient · relu′(z); at the output δ = output − target")
    console.print("upstream gradient = Σ weight · δ of the next layer")
    _print_table(console, example.delta_table(), "delta")
    console.print(f"largest difference from autograd: {example.autograd_error:.1g}")

    console.rule("4. Update", align="left")
    rate = f"{example.learning_rate:g}"
    console.print(f"gradient = δ of `to` · activation of `from`; after = before − {rate} · gradient")
    _print_table(console, example.update_table(), "gradient")
    console.print(
        f"loss {first:.4f} before, {second:.4f} after this step, {example.losses[-1]:.2g} "
        f"after {len(example.losses) - 1} steps (momentum {example.momentum:g})"
    )


def _print_table(console: Console, rows: "pd.DataFrame", key: str) -> None:
    """Print all rows, but at most `MAX_ROWS`: those with the largest absolute values in column `key`."""
    if len(rows) > MAX_ROWS:
        console.print(f"the {MAX_ROWS} rows of {len(rows):,} with the largest {key}:")
        rows = rows.sort_values(key, key=abs, ascending=False, kind="stable").head(MAX_ROWS)
    rows = rows.rename(columns=lambda name: name.replace("_", " "))
    table = Table.from_frame(rows, formatter=_format_cell).build(len(rows.columns))
    table.box, table.pad_edge = None, False  # so that the computations fit into 80 characters
    console.print(table)


def _format_cell(value: object) -> str:
    from relearn.model.backprop.worked_example import format_number

    if isinstance(value, float):
        return format_number(value, 4)
    return str(value).replace("<NA>", "")


def main(arguments: Sequence[str]) -> int:
    """Run the example and return its exit code; print expected failures in one line each."""
    return run_app(lambda: _run(arguments), BackpropConfig.model_fields)


def _run(arguments: Sequence[str]) -> None:
    environment.set_tool_defaults(Home.from_environment())
    app(list(arguments), exit_on_error=False, print_error=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
