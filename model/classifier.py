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

from relearn.model import atomic
from relearn.model.additions import Joined
from relearn.model.config import TrainConfig, problems
from relearn.model.datasets import Style
from relearn.model.errors import InputError, IntegrityError, NotFoundError
from relearn.model.networks import NETWORKS, build, count
from relearn.model.own_network import import_file
from relearn.model.preprocess import is_flat, scale

if TYPE_CHECKING:
    from relearn.model.prepared import Prepared  # a server does without

FORMAT = 1  # of the folder; raised whenever an older reader could not make sense of it
File = Literal["weights.safetensors", "network.py", "seen.npy"]
CARD = "card.json"
WEIGHTS: File = "weights.safetensors"
SOURCE: File = "network.py"
SEEN: File = "seen.npy"

# Images a network sees at a time: the cnn's convolution then takes 22 MB on 1×28×28.
CHUNK = 256


class Card(BaseModel):
    """What is known of a classifier; `card.json` beside its weights.

    `digests` holds the SHA-256 of every other file of the folder, `fingerprint` that of the data, of which
    `additions` tells what joined it from elsewhere; `device` and `threads` are what the network learned on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    config: TrainConfig
    dataset: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    style: Style
    fingerprint: str
    additions: Joined | None = None
    parameters: int
    torch: str = torch.__version__
    device: str = "cpu"
    threads: int | None = None
    metrics: dict[str, float] = {}
    digests: dict[File, str] = {}

    @classmethod
    def of(cls, config: TrainConfig, prepared: "Prepared", network: nn.Module) -> Self:
        """The card of a network that learned from `prepared`, before anything was measured or saved."""
        return cls(
            config=config,
            dataset=prepared.name,
            classes=prepared.classes,
            shape=prepared.shape,
            style=prepared.style,
            fingerprint=prepared.fingerprint,
            additions=prepared.additions,
            parameters=count(network),
        )

    @property
    def name(self) -> str:
        """The name under which this classifier is registered and released."""
        return self.config.name or self.dataset


class Classifier:
    """A network, its preprocessing and its class names: one object for evaluation and serving."""

    def __init__(self, network: nn.Module, card: Card) -> None:
        self.network = network
        self.card = card

    def predict(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, channels, height, width) → probabilities, float32 (n, classes), rows sum to 1.

        Raises `InputError` for another dtype or shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.card.shape:
            accepted = ", ".join(map(str, self.card.shape))
            raise InputError(
                f"images: got {images.dtype} {images.shape}, accepted: uint8 (n, {accepted})", "wrong_shape"
            )
        if not len(images):
            return np.empty((0, len(self.card.classes)), np.float32)
        if self.network.training:  # without asking, one image takes 13 µs longer: `eval` visits every layer
            self.network.eval()
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(images))
            if len(images) <= CHUNK:  # splitting and joining what is one chunk is 12 µs
                return self._probabilities(tensor).numpy()
            return torch.cat([self._probabilities(chunk) for chunk in tensor.split(CHUNK)]).numpy()

    def _probabilities(self, images: torch.Tensor) -> torch.Tensor:
        device = next(self.network.parameters()).device
        logits: torch.Tensor = self.network(scale(images.to(device), is_flat(self.network)))
        return logits.softmax(1).cpu()

    def labels(self, probabilities: np.ndarray) -> list[str]:
        """The class name of the greatest probability in each row."""
        return [self.card.classes[index] for index in probabilities.argmax(1)]

    def save(self, folder: Path, seen: np.ndarray | None = None) -> None:
        """Write weights, card and, for a user's own network, its source to `folder`, whole or not at all.

        `seen`, uint64 as `splits.contents` gives it, tells which images it has learned from.
        """
        state = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.network.state_dict().items()
        }
        files: dict[File, bytes] = {WEIGHTS: safetensors.torch.save(state)}
        if self.card.config.network not in NETWORKS:
            files[SOURCE] = source_of(type(self.network)).encode()
        if seen is not None:
            np.save(array := io.BytesIO(), np.sort(seen))
            files[SEEN] = array.getvalue()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        card = self.card.model_copy(update={"digests": digests})
        with atomic.folder(folder) as temporary:
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            (temporary / CARD).write_text(card.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; every digest is checked before anything is used.

        Raises `NotFoundError` where there is no classifier, `IntegrityError` where it is not what was
        written.
        """
        card = read_card(folder)
        files = {name: read_verified(folder / name, digest) for name, digest in card.digests.items()}
        if WEIGHTS not in files:
            raise IntegrityError(f"{folder / CARD} names no {WEIGHTS}")
        network = untrained(card, folder)
        try:
            network.load_state_dict(safetensors.torch.load(files[WEIGHTS]))
        except (SafetensorError, RuntimeError) as error:
            raise IntegrityError(f"{folder / WEIGHTS} does not fit its card: {error}") from None
        return cls(network.eval(), card)


def read_card(folder: Path) -> Card:
    """The card in `folder`, checked."""
    path = folder / CARD
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"no classifier in {folder}: it has no {CARD}") from None
    except (ValueError, OSError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise IntegrityError(f"{path}: got format {found!r}, accepted: {FORMAT}")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise IntegrityError(f"{path}: {'; '.join(problems(error, Card.model_fields))}") from None


def read_seen(folder: Path) -> np.ndarray:
    """The images that the classifier in `folder` has learned from, by content; uint64, sorted.

    Raises `IntegrityError` where that is not what was saved, or was not.
    """
    digest = read_card(folder).digests.get(SEEN)
    if digest is None:
        raise IntegrityError(f"{folder / CARD} does not tell what the classifier has learned from")
    array: np.ndarray = np.load(io.BytesIO(read_verified(folder / SEEN, digest)))
    return array


def read_verified(path: Path, sha256: str) -> bytes:
    """The content of a file; raises `IntegrityError` where it cannot be read, or has another SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{path} is not what was saved: its SHA-256 differs")
    return content


def source_of(network_class: type[nn.Module]) -> str:
    """The code of the file where a class stands; raises `InputError` where there is none."""
    file = inspect.getsourcefile(network_class)
    if file is None:
        raise InputError(f"network: the source file of {network_class.__name__} cannot be found")
    return Path(file).read_text()


def untrained(card: Card, folder: Path) -> nn.Module:
    """The network as it was before it learned; a user's own class comes from the source saved with it."""
    own: type[nn.Module] | None = None
    if card.config.network not in NETWORKS:
        if SOURCE not in card.digests:
            raise IntegrityError(f"{folder / CARD} names no {SOURCE} for {card.config.network}")
        try:
            module = import_file(folder / SOURCE, f"relearn_network_{card.digests[SOURCE][:16]}")
            own = getattr(module, card.config.network.split(":", 1)[1])
        except Exception as error:
            raise IntegrityError(f"{folder / SOURCE} cannot be imported: {error}") from error
    return build(card.config, card.shape, len(card.classes), own)
