"""Keras, on the backend that `KERAS_BACKEND` names."""

import keras
import numpy as np
from keras import layers

from benchmarks.peers.types import EpochEndCallback, Settings, Split


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    keras.utils.set_random_seed(settings["seed"])
    network = NETWORKS[settings["network"]](settings)
    network.compile(
        optimizer=OPTIMIZERS[settings["optimizer"]](settings),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = _prepared(settings, train_split)
    network.fit(
        images,
        labels,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        validation_data=_prepared(settings, validation_split),
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: on_epoch_end(logs["val_accuracy"]))
        ],
        verbose=0,
    )


def _prepared(settings: Settings, part: Split) -> Split:
    images = np.moveaxis(part[0], 1, -1).astype("float32") / 255
    return (images.reshape(len(images), -1) if settings["network"] == "mlp" else images), np.array(part[1])


def _mlp(settings: Settings) -> keras.Model:
    hidden = [layers.Dense(width, activation="relu") for width in settings["hidden_sizes"]]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])


def _cnn(settings: Settings) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


NETWORKS = {"mlp": _mlp, "cnn": _cnn}
OPTIMIZERS = {
    "sgd": lambda settings: keras.optimizers.SGD(settings["learning_rate"], settings["momentum"]),
    "rmsprop": lambda settings: keras.optimizers.RMSprop(settings["learning_rate"]),
}
