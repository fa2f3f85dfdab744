"""What is trained, evaluated, released and served: a network with all it needs to read an image."""

import hashlib
import inspect
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import nn

from relearn.model.config import TrainConfig, format_problems
from relearn.model.data.extra_images import MergeSummary
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.model.files import atomic_folder
from relearn.model.images.decode import ImageStyle
from relearn.model.networks.custom import import_file
from relearn.model.networks.registry import NETWORKS, build_network, count_parameters

if TYPE_CHECKING:
    from relearn.model.data.prepared import PreparedDataset  # a server does without

FORMAT = 2  # of the folder; raised whenever an older reader could not make sense of it
FileName = Literal["weights.safetensors", "network.py", "training_hashes.npy"]
CARD_FILE = "card.json"
WEIGHTS_FILE: FileName = "weights.safetensors"
SOURCE_FILE: FileName = "network.py"
TRAINING_HASHES_FILE: FileName = "training_hashes.npy"

# Images a network sees at a time: the cnn's convolution then takes 22 MB on 1×28×28.
MAX_BATCH = 256


class ModelCard(BaseModel):
    """What is known of a classifier; `card.json` beside its weights.

    `digests` holds the SHA-256 of every other file of the folder, `fingerprint` that of the data, of which
    `additions` tells what joined it from elsewhere; `device` and `threads` are what the network learned on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    config: TrainConfig
    dataset: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    style: ImageStyle
    fingerprint: str
    extra_images: MergeSummary | None = None
    parameters: int
    torch: str = torch.__version__
    device: str = "cpu"
    threads: int | None = None
    metrics: dict[str, float] = {}
    digests: dict[FileName, str] = {}

    @classmethod
    def from_network(cls, config: TrainConfig, dataset: "PreparedDataset", network: nn.Module) -> Self:
        """The card of a network that learned from `prepared`, before anything was measured or saved."""
        return cls(
            config=config,
            dataset=dataset.name,
            classes=dataset.classes,
            shape=dataset.shape,
            style=dataset.style,
            fingerprint=dataset.fingerprint,
            extra_images=dataset.extra_images,
            parameters=count_parameters(network),
        )

    @property
    def name(self) -> str:
        """The name under which this classifier is registered and released."""
        return self.config.model_name or self.dataset


class Classifier:
    """A network, its preprocessing and its class names: one object for evaluation and serving."""

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        self.network = network
        self.card = card

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, channels, height, width) → probabilities, float32 (n, classes), rows sum to 1.

        Raises `InputError` for another dtype or shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            accepted_shape = ", ".join(map(str, self.card.shape))
            raise UserInputError(
                f"images: got {images.dtype} {images.shape}, accepted: uint8 (n, {accepted_shape})",
                "wrong_shape",
            )
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.float32)
        if self.network.training:  # without asking, one image takes 13 µs longer: `eval` visits every layer
            self.network.eval()
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(images))
            if len(images) <= MAX_BATCH:  # splitting and joining what is one chunk is 12 µs
                return self._predict_batch(tensor).numpy()
            return torch.cat([self._predict_batch(chunk) for chunk in tensor.split(MAX_BATCH)]).numpy()

    def _predict_batch(self, images: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        logits: torch.Tensor = self.network(
            to_unit_float(images.to(device), expects_flat_input(self.network))
        )
        return logits.softmax(1).cpu()

    def to_labels(self, probabilities: np.ndarray) -> list[str]:
        """The class name of the greatest probability in each row."""
        return [self.card.classes[index] for index in probabilities.argmax(1)]

    def save(self, folder: Path, training_hashes: np.ndarray | None = None) -> None:
        """Write weights, card and, for a user's own network, its source to `folder`, whole or not at all.

        `seen`, uint64 as `splits.contents` gives it, tells which images it has learned from.
        """
        weights = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.network.state_dict().items()
        }
        files: dict[FileName, bytes] = {WEIGHTS_FILE: safetensors.torch.save(weights)}
        if self.card.config.network not in NETWORKS:
            files[SOURCE_FILE] = read_class_source(type(self.network)).encode()
        if training_hashes is not None:
            np.save(array := io.BytesIO(), np.sort(training_hashes))
            files[TRAINING_HASHES_FILE] = array.getvalue()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        card = self.card.model_copy(update={"digests": digests})
        with atomic_folder(folder) as temp_folder:
            for name, content in files.items():
                (temp_folder / name).write_bytes(content)
            (temp_folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; every digest is checked before anything is used.

        Raises `NotFoundError` where there is no classifier, `IntegrityError` where it is not what was
        written.
        """
        card = read_card(folder)
        files = {name: read_verified(folder / name, digest) for name, digest in card.digests.items()}
        if WEIGHTS_FILE not in files:
            raise CorruptDataError(f"{folder / CARD_FILE} names no {WEIGHTS_FILE}")
        network = build_untrained_network(card, folder)
        try:
            network.load_state_dict(safetensors.torch.load(files[WEIGHTS_FILE]))
        except (SafetensorError, RuntimeError) as error:
            raise CorruptDataError(f"{folder / WEIGHTS_FILE} does not fit its card: {error}") from None
        return cls(network.eval(), card)


def read_card(folder: Path) -> ModelCard:
    """The card in `folder`, checked."""
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"no classifier in {folder}: it has no {CARD_FILE}") from None
    except (ValueError, OSError) as error:
        raise CorruptDataError(f"{path} cannot be read: {error}") from None
    format_version = content.get("format") if isinstance(content, dict) else None
    if format_version != FORMAT:
        raise CorruptDataError(f"{path}: got format {format_version!r}, accepted: {FORMAT}")
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        raise CorruptDataError(
            f"{path}: {'; '.join(format_problems(error, ModelCard.model_fields))}"
        ) from None


def read_training_hashes(folder: Path) -> np.ndarray:
    """The images that the classifier in `folder` has learned from, by content; uint64, sorted.

    Raises `IntegrityError` where that is not what was saved, or was not.
    """
    digest = read_card(folder).digests.get(TRAINING_HASHES_FILE)
    if digest is None:
        raise CorruptDataError(f"{folder / CARD_FILE} does not tell what the classifier has learned from")
    array: np.ndarray = np.load(io.BytesIO(read_verified(folder / TRAINING_HASHES_FILE, digest)))
    return array


def read_verified(path: Path, sha256: str) -> bytes:
    """The content of a file; raises `IntegrityError` where it cannot be read, or has another SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptDataError(f"{path} is not what was saved: its SHA-256 differs")
    return content


def read_class_source(network_class: type[nn.Module]) -> str:
    """The code of the file where a class stands; raises `InputError` where there is none."""
    file = inspect.getsourcefile(network_class)
    if file is None:
        raise UserInputError(f"network: the source file of {network_class.__name__} cannot be found")
    return Path(file).read_text()


def build_untrained_network(card: ModelCard, folder: Path) -> nn.Module:
    """The network as it was before it learned; a user's own class comes from the source saved with it."""
    own: type[nn.Module] | None = None
    if card.config.network not in NETWORKS:
        if SOURCE_FILE not in card.digests:
            raise CorruptDataError(f"{folder / CARD_FILE} names no {SOURCE_FILE} for {card.config.network}")
        try:
            module = import_file(folder / SOURCE_FILE, f"relearn_network_{card.digests[SOURCE_FILE][:16]}")
            own = getattr(module, card.config.network.split(":", 1)[1])
        except Exception as error:
            raise CorruptDataError(f"{folder / SOURCE_FILE} cannot be imported: {error}") from error
    return build_network(card.config, card.shape, len(card.classes), own)
