"""Network of all peer servers: the mlp 784-512-10 with our weights, on one thread."""

import os

import numpy as np
import safetensors.torch
import torch
from torch import nn
from typing_extensions import TypedDict  # pydantic takes no other on Python 3.11

WEIGHTS_VARIABLE = "BENCHMARK_WEIGHTS"  # environment variable with the path


class Prediction(TypedDict):
    """Prediction of one image."""

    label: str
    probabilities: dict[str, float]


class Digits:
    """The loaded network."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
        weights = safetensors.torch.load_file(os.environ[WEIGHTS_VARIABLE])
        names = zip(sorted(self.network.state_dict()), sorted(weights), strict=True)
        self.network.load_state_dict({name: weights[own_name] for name, own_name in names})

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """Predict uint8 (n, 28, 28), one prediction per image."""
        with torch.inference_mode():
            inputs = torch.from_numpy(images).flatten(1).float().div_(255)
            probabilities = self.network(inputs).softmax(1).tolist()
        return [
            {"label": str(np.argmax(row)), "probabilities": {str(digit): p for digit, p in enumerate(row)}}
            for row in probabilities
        ]
