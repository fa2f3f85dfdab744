"""Model card of a saved classifier, and the hashes of its training and validation images.

The hashes are kept so that candidate and champion are never compared on an image that one of them has seen.
"""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from relearn.model.checksums import read_verified
from relearn.model.config import TrainConfig, format_problems
from relearn.model.errors import CorruptDataError, DataError, NotFoundError
from relearn.model.files import read_regular_file
from relearn.model.images.resize import ImageStyle
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.networks.registry import NETWORKS
from relearn.model.networks.summary import count_parameters
from relearn.model.preparation.extra_images import MergeSummary

if TYPE_CHECKING:
    from relearn.model.preparation.prepared import PreparedDataset  # not loaded by a server

FORMAT = 4  # of the folder; incremented when the meaning of a field changes
FileName = Literal["weights.safetensors", "network.py", "training_hashes.npy"]
CARD_FILE = "card.json"
WEIGHTS_FILE: FileName = "weights.safetensors"
SOURCE_FILE: FileName = "network.py"
TRAINING_HASHES_FILE: FileName = "training_hashes.npy"


class ModelCard(BaseModel):
    """Metadata of a classifier, saved as `card.json` in its folder.

    `digests` maps all other files of the folder to their SHA-256. `fingerprint` identifies the dataset,
    `extra_images` counts the feedback images added to it. `scale` is the value that is white in bare numbers,
    `file_scale` that in image files, None if each declares it. `temperature` divides the logits.
    `device` and `threads` describe the training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    config: TrainConfig
    dataset: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    style: ImageStyle
    scale: int = BYTE_WHITE
    file_scale: int | None = None
    fingerprint: str
    extra_images: MergeSummary | None = None
    parameters: int
    temperature: float = Field(1.0, gt=0)
    torch: str = torch.__version__
    device: str = "cpu"
    threads: int | None = None
    metrics: dict[str, float] = {}
    digests: dict[FileName, str] = {}

    @classmethod
    def from_network(
        cls, config: TrainConfig, dataset: "PreparedDataset", network: nn.Module, temperature: float = 1.0
    ) -> Self:
        """Make the card of a network trained on `dataset`, without metrics and digests."""
        return cls(
            config=config,
            dataset=dataset.name,
            classes=dataset.classes,
            shape=dataset.shape,
            style=dataset.style,
            scale=dataset.scale,
            file_scale=dataset.description.file_scale if dataset.description else None,
            fingerprint=dataset.fingerprint,
            extra_images=dataset.extra_images,
            parameters=count_parameters(network),
            temperature=temperature,
        )

    def check_scale(self, subject: str, scale: int) -> None:
        """Raise `DataError` if another value is white in the data of `subject`."""
        if scale != self.scale:
            raise DataError(
                f"{subject}: {scale} is white in the data, accepted: {self.scale}, as in the data of "
                f"{self.name}. Convert the data, or train them under another --model-name"
            )

    @property
    def name(self) -> str:
        """The model name, under which the classifier is registered and released."""
        return self.config.model_name or self.dataset

    @property
    def is_custom(self) -> bool:
        """True if the code of the network is the user's."""
        return self.config.network not in NETWORKS


def read_card(folder: Path) -> ModelCard:
    """Read and validate the card in `folder`.

    Raises `NotFoundError` if the folder has no card, `CorruptDataError` if the card is invalid.
    """
    path = folder / CARD_FILE
    try:
        return parse_card(read_regular_file(path), path)
    except FileNotFoundError:
        raise NotFoundError(f"no classifier in {folder}: it has no {CARD_FILE}") from None
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}") from None


def parse_card(json_text: bytes, path: Path) -> ModelCard:
    """Parse and validate the card that was read from `path`; raise `CorruptDataError` if it is invalid."""
    try:
        content = json.loads(json_text)
    except ValueError as error:
        raise CorruptDataError(f"{path} cannot be read: {error}") from None
    format_version = content.get("format") if isinstance(content, dict) else None
    if format_version != FORMAT:
        raise CorruptDataError(f"{path}: got format {format_version!r}, accepted: {FORMAT}")
    try:
        return ModelCard.model_validate(content)
    except ValidationError as error:
        problems = format_problems(error, ModelCard.model_fields)
        raise CorruptDataError(f"{path}: {'; '.join(problems)}") from None


def read_training_hashes(folder: Path, card: ModelCard | None = None) -> np.ndarray:
    """Read the hashes of source and pixels of the images that a classifier learned from, uint64 (n, 2).

    `card` is by default the one in `folder`. Raises `CorruptDataError` if it lists no hashes, or their file
    was changed.
    """
    digest = (card or read_card(folder)).digests.get(TRAINING_HASHES_FILE)
    if digest is None:
        raise CorruptDataError(f"{folder / CARD_FILE} lists no {TRAINING_HASHES_FILE}")
    array: np.ndarray = np.load(io.BytesIO(read_verified(folder / TRAINING_HASHES_FILE, digest)))
    return array
