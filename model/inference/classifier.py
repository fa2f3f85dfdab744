"""Classifier: a trained network with its preprocessing and its model card."""

import hashlib
import inspect
import io
from pathlib import Path
from typing import Self

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from relearn.model import devices
from relearn.model.checksums import read_verified
from relearn.model.data.transforms import expects_flat_input, to_unit_float, view_as_tensor
from relearn.model.errors import (
    ConfigError,
    CorruptDataError,
    InvalidModelOutputError,
    RelearnError,
    StopSignal,
    UserInputError,
)
from relearn.model.files import atomic_folder
from relearn.model.images.resize import find_blank
from relearn.model.inference.model_card import (
    CARD_FILE,
    SOURCE_FILE,
    TRAINING_HASHES_FILE,
    WEIGHTS_FILE,
    FileName,
    ModelCard,
    read_card,
)
from relearn.model.networks.custom import find_logits_fault, import_source
from relearn.model.networks.registry import build_network

# Images per forward pass: the cnn's convolution then takes 22 MB on 1×28×28.
MAX_BATCH = 256
# Accepted difference of a sum of probabilities from 1: far above the rounding error of a softmax in float32.
SUM_TOLERANCE = 1e-3


class Classifier:
    """Network, preprocessing and class names; the same object for evaluation and serving."""

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        self.network = network
        self.card = card
        self.max_batch = 1 if getattr(network, "predicts_singly", False) else MAX_BATCH

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Predict probabilities, float32 (n, classes), rows sum to 1.

        `images` are uint8 (n, channels, height, width). Raises `UserInputError` for another dtype or shape,
        `InvalidModelOutputError` if the network fails or returns anything but probabilities.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            accepted_shape = ", ".join(map(str, self.card.shape))
            raise UserInputError(
                f"images: got {images.dtype} {images.shape}, accepted: uint8 (n, {accepted_shape})",
                "wrong_shape",
            )
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.float32)
        try:
            if self.network.training:  # `eval` visits every layer: 13 µs more per call if it always ran
                self.network.eval()
            with torch.inference_mode():
                tensor = view_as_tensor(np.ascontiguousarray(images))
                if len(images) <= self.max_batch:  # saves the 12 µs that split and cat take
                    probabilities = self._predict_batch(tensor).numpy()
                else:
                    predict = torch.inference_mode()(self._predict_batch)  # the mode is that of one thread
                    map_batches = devices.map_on_cores if self.max_batch == 1 else map
                    probabilities = torch.cat(
                        list(map_batches(predict, tensor.split(self.max_batch)))
                    ).numpy()
        except (RelearnError, StopSignal):
            raise
        except (Exception, SystemExit) as error:  # the code of a custom network may raise anything
            raise InvalidModelOutputError(
                f"{self._network_name} raised {type(error).__name__}", error
            ) from error
        self._check_probabilities(probabilities)
        return probabilities

    def _predict_batch(self, images: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        logits: torch.Tensor = self.network(
            to_unit_float(images.to(device), expects_flat_input(self.network))
        )
        if fault := find_logits_fault(logits, (len(images), len(self.card.classes))):
            raise InvalidModelOutputError(f"{self._network_name} {fault}")
        return logits.float().div(self.card.temperature).softmax(1).cpu()

    def _check_probabilities(self, probabilities: np.ndarray) -> None:
        errors = np.abs(probabilities.sum(1) - 1)
        if errors.max() <= SUM_TOLERANCE and probabilities.min() >= 0:  # both are false for NaN
            return
        is_invalid = ~((errors <= SUM_TOLERANCE) & (probabilities >= 0).all(1))
        raise InvalidModelOutputError(
            f"{self._network_name} returned NaN, infinity or no probabilities for {is_invalid.sum()} of "
            f"{len(probabilities)} images, first image {is_invalid.argmax()}"
        )

    @property
    def _network_name(self) -> str:
        return f"network {self.card.config.network}"

    def to_labels(self, probabilities: np.ndarray) -> list[str]:
        """Return the class name with the highest probability in each row."""
        return [self.card.classes[index] for index in probabilities.argmax(1)]

    def find_blank(self, images: np.ndarray) -> np.ndarray:
        """Find images (n, channels, height, width) that have nothing to predict a label from; bool (n,).

        Those are drawings without ink. A photo always has a label.
        """
        return find_blank(images, self.card.style)

    def save(self, folder: Path, training_hashes: np.ndarray | None = None) -> None:
        """Write weights, card and, for a custom network, its source file to `folder`, atomically.

        `training_hashes`, uint64 (n, 2) from `Splits.train_val_hashes`, identify the training images.
        """
        weights = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.network.state_dict().items()
        }
        files: dict[FileName, bytes] = {WEIGHTS_FILE: safetensors.torch.save(weights)}
        if self.card.is_custom:
            files[SOURCE_FILE] = read_class_source(type(self.network)).encode()
        if training_hashes is not None:
            np.save(array := io.BytesIO(), np.unique(training_hashes, axis=0))
            files[TRAINING_HASHES_FILE] = array.getvalue()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        card = self.card.model_copy(update={"digests": digests})
        with atomic_folder(folder) as temp_folder:
            for name, content in files.items():
                (temp_folder / name).write_bytes(content)
            (temp_folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, card: ModelCard | None = None) -> Self:
        """Load the classifier saved in `folder`; the digests of all files are checked.

        `card` is by default the one in `folder`. Raises `NotFoundError` if `folder` holds no classifier,
        `CorruptDataError` if a file was changed.
        """
        card = card or read_card(folder)
        files = {name: read_verified(folder / name, digest) for name, digest in card.digests.items()}
        if WEIGHTS_FILE not in files:
            raise CorruptDataError(f"{folder / CARD_FILE} lists no {WEIGHTS_FILE}")
        network = build_untrained_network(card, folder)
        try:
            network.load_state_dict(safetensors.torch.load(files[WEIGHTS_FILE]))
        except (SafetensorError, RuntimeError) as error:
            raise CorruptDataError(f"{folder / WEIGHTS_FILE} does not fit its card: {error}") from None
        return cls(network.eval(), card)


def build_untrained_network(card: ModelCard, folder: Path) -> nn.Module:
    """Build the network of `card` with its initial weights; a custom class is imported from `folder`."""
    custom_class: type[nn.Module] | None = None
    if card.is_custom:
        digest = card.digests.get(SOURCE_FILE)
        if digest is None:
            raise CorruptDataError(f"{folder / CARD_FILE} lists no {SOURCE_FILE} for {card.config.network}")
        source = read_verified(folder / SOURCE_FILE, digest)
        try:
            module = import_source(source, folder / SOURCE_FILE, f"relearn_network_{digest[:16]}")
            custom_class = getattr(module, card.config.network.split(":", 1)[1])
        except (Exception, SystemExit) as error:
            raise CorruptDataError(f"{folder / SOURCE_FILE} cannot be imported: {error}") from error
    try:
        return build_network(card.config, card.shape, len(card.classes), custom_class)
    except ConfigError as error:
        raise CorruptDataError(f"{folder / CARD_FILE} describes no usable network: {error}") from error


def read_class_source(network_class: type[nn.Module]) -> str:
    """Return the text of the source file of a class; raise `UserInputError` if there is none."""
    source_file = inspect.getsourcefile(network_class)
    if source_file is None:
        raise UserInputError(f"network: the source file of {network_class.__name__} cannot be found")
    return Path(source_file).read_text()
