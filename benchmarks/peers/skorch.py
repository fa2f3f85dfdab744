"""skorch: torch with the manners of scikit-learn."""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

from benchmarks.peers.torch_parts import network, tensors
from benchmarks.peers.types import EpochDone, Part, Settings


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    images, labels = tensors(settings, learn).tensors
    classifier = NeuralNetClassifier(
        network(settings),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=settings["learning_rate"],
        optimizer__momentum=settings["momentum"],
        batch_size=settings["batch_size"],
        max_epochs=settings["epochs"],
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(*tensors(settings, look).tensors)),
        callbacks=[("pause", Pause(epoch_done))],
        verbose=0,
    )
    classifier.fit(images, labels)


class Pause(Callback):
    """Comes after skorch's own callbacks, which reckon the accuracy."""

    def __init__(self, epoch_done: EpochDone) -> None:
        self.epoch_done = epoch_done

    def on_epoch_end(self, net: NeuralNetClassifier, **_: object) -> None:
        self.epoch_done(net.history[-1, "valid_acc"])
