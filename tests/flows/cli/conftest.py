"""A small image and a small classifier, for commands that take files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A white stroke on black, 28 × 28."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[4:24, 12:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return tmp_path / "one.png"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A saved cnn of two classes on gray images of 12 × 12."""
    config = TrainConfig(network="cnn")
    torch.manual_seed(0)
    network = build_network(config, (1, 12, 12), 2)
    card = ModelCard(
        config=config,
        dataset="mnist",
        classes=("round", "straight"),
        shape=(1, 12, 12),
        style="mnist",
        fingerprint="0" * 64,
        parameters=count_parameters(network),
    )
    Classifier(network, card).save(tmp_path / "classifier")
    return tmp_path / "classifier"
