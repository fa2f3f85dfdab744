"""scikit-learn's multilayer perceptron."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.peers.types import EpochDone, Part, Settings


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
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
    images, looking = (part[0].reshape(len(part[0]), -1).astype("float32") / 255 for part in (learn, look))
    for _ in range(settings["epochs"]):
        classifier.partial_fit(images, learn[1], classes=np.arange(10))
        epoch_done(classifier.score(looking, look[1]))
