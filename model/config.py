"""Training settings with type, default, range and help text, and named presets.

Command-line flags, the Prefect form, MLflow's params and `card.json` are generated from `TrainConfig`.
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
PromotionMetric = Literal["accuracy", "balanced_accuracy", "log_loss"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSettings(_Settings):
    """Data, its image size and its splits."""

    dataset: str = Field(
        "auto",
        description="Dataset: auto (mnist if on disk, else digits), mnist, fashion_mnist, kmnist, cifar10, "
        "digits, a path, folder:PATH, csv:PATH, parquet:PATH, npz:PATH, archive:PATH or a dataset.toml.",
    )
    model_name: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$",
        examples=["1 to 63 of a–z 0–9 - _, with a letter or digit at both ends"],
        description="Name of experiment, registered model and releases. Default: the dataset's name.",
    )
    image_size: int | None = Field(
        None, ge=8, le=256, description="Height and width of the images in pixels. Default: as in the data."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="Image channels: 1 (grayscale) or 3 (RGB). Default: as in the data."
    )
    limit: int | None = Field(
        None, ge=1, description="Use about this many images, evenly from each class, for a first look."
    )
    test_fraction: Fraction = Field(
        0.15, description="Fraction of the images in the test split, if the data has no test split."
    )
    validation_fraction: Fraction = Field(
        0.2, description="Fraction of the training images in the validation split."
    )


class NetworkName(_Settings):
    """Network to train."""

    network: str = Field(
        "mlp",
        description="mlp, cnn, pretrained (EfficientNet-Lite0 with ImageNet's weights), pretrained-lite1, "
        "pretrained-lite2, or a custom class as package.module:Class.",
    )


class LayerSettings(_Settings):
    """Layers of the network."""

    hidden_sizes: tuple[Width, ...] = Field(
        (512,), min_length=1, max_length=16, description="Units of each hidden layer (mlp)."
    )
    conv_channels: tuple[Width, ...] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Output channels of each convolution (cnn). Default: 32; 32 64 128 for color images.",
    )
    kernel_size: int = Field(3, ge=1, le=15, description="Height and width of the filters in pixels (cnn).")
    dropout: float = Field(
        0.25, ge=0, lt=1, description="Probability that a hidden unit is set to zero in training."
    )
    batch_norm: bool | None = Field(
        None,
        description="Apply batch normalization to each hidden layer. Default: in the cnn for color images.",
    )
    weight_init: Literal["torch", "keras"] = Field(
        "torch", description="Initial weights: torch (Kaiming uniform) or keras (Glorot uniform, zero bias)."
    )


class LearningSettings(_Settings):
    """Optimizer, loss, schedule and augmentation."""

    augmentation: Literal["none", "light", "photo", "strong"] = Field(
        "none",
        description="Random changes of training images: light (small shifts, rotations, scalings), photo "
        "(flips, crops, color) or strong (photo and two of ten distortions).",
    )
    optimizer: Literal["sgd", "rmsprop", "adagrad", "adam", "adamw"] = Field("sgd", description="Optimizer.")
    learning_rate: float = Field(
        0.1, gt=0, le=10, description="Learning rate; the maximum if a schedule changes it."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum (sgd, rmsprop).")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="L2 penalty on the weights; biases and batch normalization are exempt."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability that the training target spreads evenly over all classes (not pretrained).",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Weights of the classes in the training loss: none, or balanced: rare ones count more.",
    )
    lr_schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "one_cycle", description="Learning rate schedule over all steps of the training."
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="Images per optimizer step.")
    epochs: int = Field(15, ge=1, le=10_000, description="Maximum number of passes over the training images.")


class StoppingSettings(_Settings):
    """Choice of the best epoch, and early stopping."""

    early_stopping: bool = Field(True, description="Stop when the selection metric no longer improves.")
    selection_metric: Literal["val_loss", "val_accuracy", "val_balanced_accuracy"] = Field(
        "val_accuracy", description="Metric that selects the best epoch and triggers early stopping."
    )
    patience: int = Field(
        10, ge=1, le=10_000, description="Epochs without improvement before early stopping."
    )
    min_delta: float = Field(0.0, ge=0, le=1, description="Minimum change that counts as an improvement.")


class MachineSettings(_Settings):
    """Device, precision and seed."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        examples=["auto", "cpu", "cuda", "cuda:0", "mps"],
        description="Device: auto, cpu, cuda, cuda:N or mps.",
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of torch. Default: all cores.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Precision of matrix products: float32, tf32 (GPUs only) or bfloat16."
    )
    compile: bool = Field(
        False, description="Compile the network with torch.compile; the last bits of sums may change."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers.")


# Groups of flags in `--help`, in their order.
SETTING_GROUPS: dict[str, tuple[type[_Settings], ...]] = {
    "Data": (DataSettings,),
    "Network": (NetworkName, LayerSettings),
    "Learning": (LearningSettings,),
    "Early stopping": (StoppingSettings,),
    "Machine": (MachineSettings,),
}


class DataConfig(NetworkName, DataSettings):
    """Settings of a look at the data: photos are read at the size that the network takes."""


# Those that apply to a pretrained network, of which only a head is trained.
HEAD_SETTINGS = {*DataConfig.model_fields, "class_weights", "device", "threads", "seed"}


class RetrainConfig(MachineSettings, StoppingSettings, LearningSettings, LayerSettings, DataSettings):
    """Settings that all trainings of a retraining share: those of one training without its network."""


class TrainConfig(
    MachineSettings, StoppingSettings, LearningSettings, LayerSettings, NetworkName, DataSettings
):
    """Settings of one training.

    Validation accuracy of the defaults on MNIST, mean of 5 seeds: mlp 98.41 %, cnn 98.93 %. Without dropout
    and weight decay, and with selection_metric=val_loss: 98.30 % and 98.85 %.
    """

    @classmethod
    def from_preset(cls, name: str | None, **settings: Any) -> Self:
        """Build a config from the preset `name`, or the defaults; `settings` override its values."""
        return cls.parse({**(PRESETS[name] if name else {}), **settings})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values or strings; raise one `ConfigError` with all problems."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(format_problems(error, cls.model_fields)) from None


def format_problems(
    error: ValidationError,
    fields: Mapping[str, FieldInfo],
    display_names: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Return one line for each validation problem: setting, value, accepted values.

    `fields` are the known settings; `display_names` maps a setting to the flag or variable that set it.
    """
    details = error.errors()
    settings_with_items = {detail["loc"][0] for detail in details if len(detail["loc"]) > 1}
    return [
        _format_problem(detail, fields, display_names)
        for detail in details
        # An invalid item is reported itself; its tuple is then also reported as too short.
        if (detail["type"] != "too_short" or detail["loc"][0] not in settings_with_items)
        and detail["input"] is not PydanticUndefined  # a consequence of another problem
    ]


def _format_problem(detail: Any, fields: Mapping[str, FieldInfo], display_names: Mapping[str, str]) -> str:
    name = ".".join(str(key) for key in detail["loc"])
    if detail["type"] == "extra_forbidden":
        matches = difflib.get_close_matches(name, fields, n=1)
        return f"unknown setting {name!r}" + (f", did you mean {matches[0]!r}?" if matches else "")
    accepted = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    accepted = accepted.partition(", unable to parse")[0]
    setting, *item = (str(key) for key in detail["loc"])
    if detail["type"] == "string_unicode":
        accepted = f"valid UTF-8 ({(fields[setting].description or '').rstrip('.')})"
    if detail["type"] == "string_pattern_mismatch" and fields[setting].examples:
        accepted = ", ".join(map(str, fields[setting].examples or ()))
    source = ".".join([display_names.get(setting, setting), *item])
    return f"{source}: got {str(detail['input'])[:80]!r}, accepted: {accepted}"


_TUTORIAL: dict[str, Any] = {
    "dropout": 0.0,
    "weight_decay": 0.0,
    "hidden_sizes": (512,),
    "weight_init": "keras",
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "momentum": 0.95,
    "lr_schedule": "constant",
    "batch_size": 256,
    "epochs": 15,
    "validation_fraction": 0.2,
    "selection_metric": "val_loss",
    "patience": 3,
}

# The one-cycle schedule ends near a learning rate of 0: the last epochs are the best, so all of them run.
_FULL_SCHEDULE: dict[str, Any] = {"early_stopping": False, "dropout": 0.0}

PRESETS: dict[str, dict[str, Any]] = {
    # Fastest to 98 % on MNIST. Validation accuracy, mean of 3 seeds: 97.93 %. With dropout 97.84 %, and
    # 97.85 % with batch size 64; without dropout 97.77 % with batch size 256, 97.75 % with 64 and 3 epochs.
    "fast": _FULL_SCHEDULE | {"network": "mlp", "batch_size": 128, "learning_rate": 0.2, "epochs": 4},
    # Fastest to 99 % on MNIST. Validation accuracy, mean of 4 seeds: 98.97 %. Mean of 2 seeds: with dropout
    # instead of augmentation at most 98.71 %; with batch size 128 and 8 epochs 98.98 %.
    "fast-cnn": _FULL_SCHEDULE | {"network": "cnn", "augmentation": "light", "epochs": 6},
    # Best accuracy of a single network, 326 s on two cores. Validation accuracy, one seed each, with
    # validation_fraction 0.2: 99.51 %. With 30 epochs, dropout 0.5 and augmentation 0.6: 99.45 %, and with
    # 48 and 96 filters in addition: 99.47 %.
    "best": _FULL_SCHEDULE
    | {
        "network": "cnn",
        "conv_channels": (32, 64),
        "kernel_size": 5,
        "dropout": 0.4,
        "augmentation": "light",
        "validation_fraction": 0.1,
        "epochs": 40,
    },
    "tutorial": _TUTORIAL,
    "tutorial-rmsprop": _TUTORIAL | {"optimizer": "rmsprop", "momentum": 0.0},
}
