"""skorch, a scikit-learn interface to torch."""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

from benchmarks.peers.torch_parts import network, tensors
from benchmarks.peers.types import EpochEndCallback, Settings, Split


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    images, labels = tensors(settings, train_split).tensors
    classifier = NeuralNetClassifier(
        network(settings),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=settings["learning_rate"],
        optimizer__momentum=settings["momentum"],
        batch_size=settings["batch_size"],
        max_epochs=settings["epochs"],
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(*tensors(settings, validation_split).tensors)),
        callbacks=[("pause", Pause(on_epoch_end))],
        verbose=0,
    )
    classifier.fit(images, labels)


class Pause(Callback):
    """Callback that runs after those of skorch, which compute the accuracy."""

    def __init__(self, on_epoch_end: EpochEndCallback) -> None:
        self.callback = on_epoch_end

    def on_epoch_end(self, net: NeuralNetClassifier, **_: object) -> None:
        self.callback(net.history[-1, "valid_acc"])
