"""Networks and data for the libraries that wrap torch."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.peers.types import Settings, Split


def network(settings: Settings) -> nn.Module:
    torch.manual_seed(settings["seed"])
    return NETWORKS[settings["network"]]()


def tensors(settings: Settings, part: Split) -> TensorDataset:
    images = torch.tensor(part[0]).float() / 255
    return TensorDataset(images.flatten(1) if settings["network"] == "mlp" else images, torch.tensor(part[1]))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


NETWORKS = {"mlp": _mlp, "cnn": _cnn}
