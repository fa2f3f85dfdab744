"""Every hyperparameter, written once: type, default, range and one sentence of help.

Command-line flags, the Prefect form, MLflow's params and `card.json` derive from `TrainConfig`.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from relearn.model.errors import ConfigError

Width = Annotated[int, Field(ge=1, le=65_536)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class TrainConfig(BaseModel):
    """One training: which images, which network, how it learns, where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # data
    dataset: str = Field(
        "auto",
        description="auto (mnist if on disk, else digits), mnist, fashion_mnist, kmnist, cifar10, digits, "
        "folder:PATH, csv:PATH, parquet:PATH or npz:PATH.",
    )
    model_name: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$",
        examples=["1 to 63 of a–z 0–9 - _, with a letter or digit at both ends"],
        description="Name of experiment, registered classifier and releases; the dataset's by default.",
    )
    image_size: int | None = Field(
        None, ge=8, le=256, description="Height and width of the images in pixels; the data's own by default."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 for grey, 3 for colour; the data's own by default."
    )
    test_fraction: Fraction = Field(
        0.15, description="Share held out for the test, where the data has no test part of its own."
    )
    validation_fraction: Fraction = Field(
        0.2, description="Share of the training part held out for validation."
    )

    # network
    network: str = Field("mlp", description="mlp, cnn, or a class of your own as package.module:Class.")
    hidden_sizes: tuple[Width, ...] = Field(
        (512,), min_length=1, max_length=16, description="Widths of the mlp's hidden layers."
    )
    conv_channels: tuple[Width, ...] = Field(
        (32,), min_length=1, max_length=8, description="Filters of each of the cnn's convolutions."
    )
    kernel_size: int = Field(3, ge=1, le=15, description="Height and width of the cnn's filters in pixels.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of hidden units silenced in training.")
    batch_norm: bool = Field(False, description="Normalise each hidden layer over the batch.")
    weight_init: Literal["torch", "keras"] = Field(
        "torch", description="First weights: torch (Kaiming uniform) or keras (Glorot uniform, zero bias)."
    )

    # learning
    augmentation_strength: float = Field(
        0.0, ge=0, le=1, description="Strength of random shifts, turns and scalings of training images."
    )
    optimizer: Literal["sgd", "rmsprop", "adagrad"] = Field("sgd", description="Rule of the weight update.")
    learning_rate: float = Field(
        0.1, gt=0, le=10, description="Step size; the peak where a schedule moves it."
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Share of the last step kept in the next (sgd, rmsprop)."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="L2 penalty on the weights.")
    lr_schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "one_cycle", description="How the learning rate moves over the steps of the training."
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="Images per weight update.")
    epochs: int = Field(15, ge=1, le=10_000, description="Passes over the training images, at most.")

    # early stopping
    early_stopping: bool = Field(True, description="Stop when the monitored value no longer gets better.")
    monitor: Literal["val_loss", "val_accuracy"] = Field(
        "val_loss", description="Value that decides which epoch is best and when to stop."
    )
    patience: int = Field(5, ge=1, le=10_000, description="Epochs without improvement before stopping.")
    min_delta: float = Field(0.0, ge=0, le=1, description="Smallest change that counts as an improvement.")

    # machine
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:0", "mps"],
        description="auto, cpu, cuda, cuda:N or mps.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of torch; all cores by default."
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Numbers of the matrix products: tf32 (GPUs only) and bfloat16 are coarser."
    )
    compile: bool = Field(
        False, description="Compile the network first (torch.compile): sums may differ in their last bits."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Start of every random draw.")

    @classmethod
    def from_preset(cls, name: str, **settings: Any) -> Self:
        """The settings that `PRESETS` has under `name`, with others of your own."""
        return cls.parse({**PRESETS[name], **settings})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values, strings included; `ConfigError` names every problem at once."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(format_problems(error, cls.model_fields)) from None


def format_problems(
    error: ValidationError,
    fields: Mapping[str, FieldInfo],
    display_names: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """One line for each problem pydantic found: what, got, accepted.

    `known` are the settings there are, `origins` how those are called that were set under another name.
    """
    details = error.errors()
    settings_with_items = {detail["loc"][0] for detail in details if len(detail["loc"]) > 1}
    return [
        _format_problem(detail, fields, display_names)
        for detail in details
        if (
            detail["type"] != "too_short" or detail["loc"][0] not in settings_with_items
        )  # the item itself is told
        and detail["input"] is not PydanticUndefined  # which follows from another problem
    ]


def _format_problem(detail: Any, fields: Mapping[str, FieldInfo], display_names: Mapping[str, str]) -> str:
    name = ".".join(str(key) for key in detail["loc"])
    if detail["type"] == "extra_forbidden":
        matches = difflib.get_close_matches(name, fields, n=1)
        return f"unknown setting {name!r}" + (f", did you mean {matches[0]!r}?" if matches else "")
    accepted = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch" and fields[name].examples:
        accepted = ", ".join(map(str, fields[name].examples or ()))
    return f"{display_names.get(name, name)}: got {str(detail['input'])[:80]!r}, accepted: {accepted}"


_TUTORIAL: dict[str, Any] = {
    "hidden_sizes": (512,),
    "weight_init": "keras",
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "momentum": 0.95,
    "lr_schedule": "constant",
    "batch_size": 256,
    "epochs": 15,
    "validation_fraction": 0.2,
    "monitor": "val_loss",
    "patience": 3,
}

# The step grows, then shrinks to nothing: the last epochs are the best, and there is nothing to wait for.
_FULL_SCHEDULE: dict[str, Any] = {"early_stopping": False, "monitor": "val_accuracy", "weight_decay": 1e-4}

PRESETS: dict[str, dict[str, Any]] = {
    # On MNIST's validation images, mean of 5 seeds: mlp 98.41 %, cnn 98.93 %; without dropout, and with the
    # epoch of the lowest val_loss, 98.30 % and 98.85 %.
    "default": {"dropout": 0.25, "weight_decay": 1e-4, "monitor": "val_accuracy", "patience": 10},
    # Fewest seconds to 98 % on MNIST. Validation, mean of 3 seeds: 97.93 %; with dropout 97.84 %, and
    # 97.85 % in batches of 64; without it 97.77 % in batches of 256, 97.75 % in three epochs of 64.
    "fast": _FULL_SCHEDULE | {"network": "mlp", "batch_size": 128, "learning_rate": 0.2, "epochs": 4},
    # Fewest seconds to 99 %. Validation, mean of 4 seeds: 98.97 %; mean of 2 seeds: without changed
    # images, with dropout, 98.71 % at most, eight epochs of batches of 128 98.98 %.
    "fast-cnn": _FULL_SCHEDULE | {"network": "cnn", "augmentation_strength": 0.4, "epochs": 6},
    # The best single network, in 326 s on two cores. Validation, one seed each, of a share of 0.2: 99.51 %;
    # 30 epochs with dropout 0.5 and augmentation 0.6 99.45 %, and with 48 and 96 filters then 99.47 %.
    "best": _FULL_SCHEDULE
    | {
        "network": "cnn",
        "conv_channels": (32, 64),
        "kernel_size": 5,
        "dropout": 0.4,
        "augmentation_strength": 0.5,
        "validation_fraction": 0.1,
        "epochs": 40,
    },
    "tutorial": _TUTORIAL,
    "tutorial-rmsprop": _TUTORIAL | {"optimizer": "rmsprop", "momentum": 0.0},
}
