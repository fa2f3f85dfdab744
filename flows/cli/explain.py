"""`relearn explain`: backpropagation with numbers, in the terminal and as drawings."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from rich.console import Console
from rich.markup import escape

from relearn.flows.rendering import Table, write_figure
from relearn.model.errors import InputError, NotFoundError
from relearn.model.home import Home

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from relearn.model.datasets import Style
    from relearn.model.explain import Explanation

SMALL, PICTURE = "2,3,3,1", "784,16,10"  # the networks without --sizes: the tutorial's, and for a picture
MOST_WEIGHTS = 5_000_000  # in a lesson; printing and drawing them is not training
MOST_ROWS = 30  # of a table; of a longer one the largest numbers are shown


class ExplainConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One lesson: which network, which example, how far a step goes."""

    sizes: str | None = Field(
        None,
        description=f"Units of each layer, the inputs first; {SMALL} by default, {PICTURE} for a picture.",
    )
    steps: int = Field(100, ge=1, le=10_000, description="Steps of the curves of the loss.")
    lr: float = Field(
        0.5, gt=0, le=1000, description="Learning rate: how far against its gradient a weight goes."
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last step kept in the next.")
    seed: int = Field(
        2,
        ge=0,
        lt=2**63,
        description="Start of the random draws; 2 gives each layer of 2,3,3,1 a silent unit.",
    )
    image: Path | None = Field(None, description="PNG or JPEG file to take as the example.")
    label: str | None = Field(
        None,
        validate_default=True,
        description="What the picture shows: a number from 0, or a class of the classifier.",
    )
    classifier: Path | None = Field(
        None, description="Folder of a trained classifier for the picture; an untrained network by default."
    )
    output: Path | None = Field(
        None, description="Folder for the figures; explain/2-3-3-1 and the like in the home by default."
    )

    @field_validator("sizes")
    @classmethod
    def _layers(cls, sizes: str | None) -> str | None:
        if sizes is None:
            return None
        widths = [int(width) if width.strip().isdecimal() else 0 for width in sizes.split(",")]
        if not 2 <= len(widths) <= 16 or min(widths) < 1:
            raise ValueError("2 to 16 whole numbers above 0 with commas between them, such as 4,5,3")
        if sum(left * right for left, right in itertools.pairwise(widths)) > MOST_WEIGHTS:
            raise ValueError(f"layers with {MOST_WEIGHTS:,} weights in all, at most")
        return sizes

    @field_validator("label")
    @classmethod
    def _label_of_picture(cls, label: str | None, info: ValidationInfo) -> str | None:
        picture = info.data.get("image")
        if picture is not None and label is None:
            raise ValueError("what the picture shows, since the error is measured against it")
        if picture is None and label is not None:
            raise ValueError("only with --image")
        return label

    @field_validator("classifier")
    @classmethod
    def _network_of_picture(cls, classifier: Path | None, info: ValidationInfo) -> Path | None:
        if classifier is not None and info.data.get("image") is None:
            raise ValueError("only with --image")
        if classifier is not None and info.data.get("sizes") is not None:
            raise ValueError("either --classifier or --sizes")
        return classifier

    @property
    def widths(self) -> tuple[int, ...]:
        chosen = self.sizes or (PICTURE if self.image else SMALL)
        return tuple(int(width) for width in chosen.split(","))


DEFAULTS = ExplainConfig()


def explain(*, config: Annotated[ExplainConfig, Parameter(name="*")] = DEFAULTS) -> None:
    """Show backpropagation with numbers: forward pass, error, deltas, update of the weights.

    One example goes through a small network. With a single output it ends in a sigmoid, and its loss is
    the binary cross-entropy: δ of the output is output − target then, as it is for a softmax with
    cross-entropy over several outputs.
    """
    lesson = config.image.stem if config.image else "-".join(map(str, config.widths))
    folder = config.output or Home.from_environment().root / "explain" / lesson
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output: got the file {folder}, accepted: a folder")
    explanation, figures = _small(config) if config.image is None else _picture(config, config.image)
    console = Console()
    _tell(explanation, console)
    console.rule("Figures", align="left")
    for name, figure in figures.items():
        write_figure(folder / f"{name}.png", figure)
        console.print(escape(str(folder / f"{name}.png")), soft_wrap=True, highlight=False)


def _small(config: ExplainConfig) -> "tuple[Explanation, dict[str, Figure]]":
    from relearn.model.diagrams import PHASES, is_drawable, worked_network
    from relearn.model.examples import compare_rates, worked_example
    from relearn.model.gradient_plots import losses, relu

    explanation = worked_example(config.widths, config.steps, config.lr, config.momentum, config.seed)
    rates = [config.lr * factor for factor in (0.1, 0.3, 1, 3, 10)]
    table = compare_rates(explanation, rates, config.steps, config.seed)
    figures = {}
    if is_drawable(explanation.sizes):
        figures = {
            f"{number}-{phase}": worked_network(explanation, phase)
            for number, phase in enumerate(PHASES, start=1)
        }
    return explanation, figures | {
        "relu": relu(),
        "loss": losses(explanation.loss_table()),
        "learning-rates": losses(table, guessing=math.log(max(2, explanation.sizes[-1]))),
    }


def _picture(config: ExplainConfig, path: Path) -> "tuple[Explanation, dict[str, Figure]]":
    from relearn.model.classifier import Classifier
    from relearn.model.examples import picture_example, untrained
    from relearn.model.gradient_plots import losses, picture_passage, relu

    style: Style = "strokes"
    if config.classifier is None:
        side = math.isqrt(config.widths[0])
        if side * side != config.widths[0]:
            raise InputError(
                f"--sizes: got {config.widths[0]} inputs, accepted for a picture: a square, such as 784"
            )
        shape = (1, side, side)
        network: nn.Module = untrained(config.widths, config.seed)
        classes = tuple(str(label) for label in range(max(2, config.widths[-1])))
    else:
        trained = Classifier.load(config.classifier)
        network, classes = trained.network.cpu(), trained.card.classes
        shape, style = trained.card.shape, trained.card.style
    image = _read(path, shape, style)
    explanation = picture_example(
        network, image, str(config.label), classes, config.steps, config.lr, config.momentum
    )
    names = classes if explanation.sizes[-1] > 1 else ("1",)
    return explanation, {
        "passage": picture_passage(explanation, image, names),
        "relu": relu(),
        "loss": losses(explanation.loss_table()),
    }


def _read(path: Path, shape: tuple[int, int, int], style: "Style") -> "np.ndarray":
    from relearn.model.images import decode, fit_image

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"--image: there is no file {path}") from None
    except OSError as error:
        raise InputError(f"--image: {path} cannot be read: {error.strerror}") from None
    return fit_image(decode(content), shape, style)


def _tell(explanation: "Explanation", console: Console) -> None:
    """The four steps of backpropagation, and what repeating them does."""
    sizes = "-".join(f"{size}" for size in explanation.sizes)
    console.rule(f"1. Forward pass through {sizes}", align="left")
    inputs = dict(zip(explanation.names[0], explanation.inputs[0].tolist(), strict=True))
    if len(inputs) <= MOST_ROWS:
        console.print("Inputs: " + ", ".join(f"{name} = {value:.2f}" for name, value in inputs.items()))
    else:
        console.print(f"Inputs: {len(inputs):,}, {sum(map(bool, inputs.values())):,} of them not 0")
    _print(console, explanation.forward_table(), "activation")

    console.rule("2. Error", align="left")
    _print(console, explanation.error_table(), "error")
    probability = math.exp(-explanation.losses[0])
    console.print(
        f"The right answer has a probability of {probability:.3f}: loss = −ln {probability:.3f} = "
        f"{explanation.losses[0]:.3f} nats."
    )

    console.rule("3. Backward pass", align="left")
    console.print(
        "δ = (δ of the next layer · its weights) × slope of relu; at the output δ = output − target."
    )
    _print(console, explanation.delta_table(), "delta")

    console.rule("4. Update of the weights", align="left")
    console.print(
        f"gradient = δ of the unit it goes to × activation it comes from; "
        f"after = before − {explanation.learning_rate:g} × gradient."
    )
    _print(console, explanation.update_table(), "gradient")
    first, second, *_ = explanation.losses
    console.print(
        f"Loss {first:.4f} before, {second:.4f} after this step, {explanation.losses[-1]:.2g} "
        f"after {len(explanation.losses) - 1} steps (momentum {explanation.momentum:g})."
    )


def _print(console: Console, rows: "pd.DataFrame", largest: str) -> None:
    """A table of at most `MOST_ROWS`, those with the largest numbers in column `largest`."""
    title = ""
    if len(rows) > MOST_ROWS:
        title = f"the {MOST_ROWS} rows of {len(rows):,} with the largest {largest}"
        rows = rows.reindex(rows[largest].abs().sort_values(ascending=False, kind="stable").index[:MOST_ROWS])
    rows = rows.rename(columns=lambda name: name.replace("_", " "))
    table = Table.from_frame(rows, title, _cell).__rich__()
    table.box, table.pad_edge = None, False  # the computations fit into 80 characters
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value + 0:.4f}".replace("-", "−")  # −0.0 + 0 is 0.0
    return str(value).replace("<NA>", "")
