"""Training throughput: our loop against a plain torch loop with a DataLoader, interleaved."""

import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.transforms import expects_flat_input
from relearn.model.home import Home
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

ROUNDS = 5
EPOCHS = 2


def measure() -> tuple[str, str, pd.DataFrame]:
    """Measure thousand training images per second, validation included."""
    config = TrainConfig(dataset="mnist", epochs=EPOCHS, batch_size=256, learning_rate=0.01, momentum=0.95)
    splits = prepare_dataset(config, Home.from_environment()).splits
    devices.set_num_threads(None)
    rows = []
    for name in ("mlp", "cnn"):
        settings = config.model_copy(
            update={"network": name, "lr_schedule": "constant", "early_stopping": False}
        )
        ours, plain = [], []
        for _ in range(ROUNDS):
            ours.append(_seconds(fit, settings, build_network(settings, (1, 28, 28), 10), splits, 10))
            plain.append(_seconds(plain_fit, settings, splits.train, splits.validation))
        images = EPOCHS * len(splits.train) / 1000
        ratios = [plain_seconds / own_seconds for own_seconds, plain_seconds in zip(ours, plain, strict=True)]
        rows.append(
            {
                "network": name,
                "ours, thousand images/s": f"{images / median(ours):.1f}",
                "plain loop": f"{images / median(plain):.1f}",
                "ratio, median": f"{median(ratios):.2f}",
                "ratio, range": f"{min(ratios):.2f}–{max(ratios):.2f}",
            }
        )
    note = (
        f"{EPOCHS} epochs on MNIST, {len(splits.train):,} images each, batch 256, float32, SGD; the plain "
        "loop is torch's with a DataLoader over a TensorDataset of float32 images and no workers. "
        f"{ROUNDS} rounds, interleaved; ratios are within a round."
    )
    return "Training throughput", note, pd.DataFrame(rows)


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def plain_fit(
    config: TrainConfig,
    train: LabelledImages,
    validation: LabelledImages,
    on_epoch: Callable[[float], None] = lambda accuracy: None,
) -> nn.Module:
    """Train with a plain torch loop; `on_epoch` receives the validation accuracy in 0–1."""
    network = build_network(config, (1, 28, 28), 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=config.momentum)
    train_loader = DataLoader(_tensors(train, network), config.batch_size, shuffle=True)
    validation_loader = DataLoader(_tensors(validation, network), config.batch_size)
    for _ in range(config.epochs):
        network.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        network.eval()
        correct, loss = 0, 0.0
        with torch.no_grad():
            for images, labels in validation_loader:
                logits = network(images)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(1) == labels).sum())
        on_epoch(correct / len(validation))
    return network


def _tensors(split: LabelledImages, network: nn.Module) -> TensorDataset:
    images = torch.tensor(split.images).float() / 255
    return TensorDataset(
        images.flatten(1) if expects_flat_input(network) else images, torch.tensor(split.labels)
    )
