"""The one step between stored images and a network; training, evaluation and serving all take it here."""

from torch import Tensor, nn
from torch.nn import functional as F


def expects_flat_input(network: nn.Module) -> bool:
    """Whether the network takes flattened images."""
    return bool(getattr(network, "flat_input", False))


def to_unit_float(images: Tensor, flat_input: bool = False) -> Tensor:
    """uint8 (n, channels, height, width) in 0–255 → float32 in 0–1; (n, channels·height·width) if `flat`."""
    scaled = images.float().div_(255)
    return scaled.flatten(1) if flat_input else scaled


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int64 (n,) with 0 ≤ label < classes → float32 (n, classes) with a single 1 in each row."""
    return F.one_hot(labels, classes).float()


def preprocess(
    images: Tensor, labels: Tensor, classes: int, flat_input: bool = False
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a network: `scale` of the images, `one_hot` of the labels."""
    return to_unit_float(images, flat_input), one_hot(labels, classes)
