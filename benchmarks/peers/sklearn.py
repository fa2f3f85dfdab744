"""scikit-learn's multilayer perceptron."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.peers.types import EpochEndCallback, Settings, Split


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    classifier = MLPClassifier(
        settings["hidden_sizes"],
        solver=settings["optimizer"],
        learning_rate_init=settings["learning_rate"],
        momentum=settings["momentum"],
        nesterovs_momentum=False,
        alpha=0,
        batch_size=settings["batch_size"],
        random_state=settings["seed"],
    )
    images, validation = (
        part[0].reshape(len(part[0]), -1).astype("float32") / 255 for part in (train_split, validation_split)
    )
    for _ in range(settings["epochs"]):
        classifier.partial_fit(images, train_split[1], classes=np.arange(10))
        on_epoch_end(classifier.score(validation, validation_split[1]))
