"""Decisions about label corrections: accepted ones become training data.

The decision log of a model contains the corrections with their images, since the prediction log is bounded.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, model_validator

from relearn.flows.process import provenance
from relearn.model.append_log import HashChainedLog, LogEntry
from relearn.model.data.splits import hash_contents
from relearn.model.errors import CorruptDataError
from relearn.model.file_lock import locked
from relearn.model.home import Home
from relearn.model.inference.model_card import ModelCard
from relearn.model.preparation.extra_images import ExtraImages

DECISIONS_FILE = "decisions.jsonl"
LOCK_TIMEOUT_SECONDS = 30.0  # the lock is held for an append, some 10 ms
Action = Literal["accept", "reject"]


class LabelCorrection(
    BaseModel, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
):
    """Label `label` that users gave an image, `reports` times, last at `reported_at`.

    `id` is a hash of image and label or, without an image, of request id, index and label. `predicted_label`,
    `probability` (0–1) and `version` describe the prediction, None if it was not logged. The image is
    `pixels`, uint8 of `shape`; both are None if it was not stored. `image_matches` is False if the image sent
    with the feedback differs from the predicted one.
    """

    id: str
    label: str
    request_id: str
    index: int
    reported_at: AwareDatetime
    reports: int = 1
    predicted_label: str | None = None
    probability: float | None = None
    version: str | None = None
    image_matches: bool = True
    shape: tuple[int, int, int] | None = None
    pixels: bytes | None = None

    @model_validator(mode="after")
    def _check_pixel_count(self) -> Self:
        is_consistent = self.shape is None or (
            min(self.shape) > 0 and math.prod(self.shape) == len(self.pixels or b"")
        )
        if not is_consistent:
            raise ValueError(f"pixels that fill an image of {self.shape}")
        return self

    @classmethod
    def from_feedback(
        cls, image: np.ndarray | None, label: str, request_id: str, index: int, **fields: Any
    ) -> Self:
        """Build a correction with its id; `fields` are the other fields."""
        identity = (request_id, index) if image is None else (image.shape, image.tobytes())
        correction_id = hashlib.blake2b(repr((identity, label)).encode(), digest_size=8).hexdigest()
        if image is not None:
            fields |= {"shape": image.shape, "pixels": image.tobytes()}
        return cls(id=correction_id, label=label, request_id=request_id, index=index, **fields)

    @property
    def image(self) -> np.ndarray | None:
        """Image, uint8 (channels, height, width)."""
        if self.pixels is None or self.shape is None:
            return None
        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)

    @property
    def image_hash(self) -> int | None:
        """Content hash of the image, from `hash_contents`."""
        return None if self.image is None else int(hash_contents(self.image[None])[0])


class Decision(LogEntry):
    """Log entry: who accepted or rejected which correction."""

    actor: str
    action: Action
    correction: LabelCorrection


class DecisionLog:
    """Decisions about one model, oldest first; the last one about a correction counts."""

    def __init__(self, home: Home, name: str) -> None:
        self.folder = home.feedback_dir(name)
        self.log = HashChainedLog(self.folder / DECISIONS_FILE, Decision)

    def load(self, max_decisions: int | None = None) -> list[Decision]:
        """Load the first `max_decisions`, by default all; raise `CorruptDataError` if some are lost."""
        decisions = self.log.read_entries()
        if max_decisions is not None and max_decisions > len(decisions):
            raise CorruptDataError(
                f"{self.log.path} has {len(decisions)} decisions, accepted: {max_decisions} or more"
            )
        return decisions[:max_decisions]

    def record(self, action: Action, corrections: Sequence[LabelCorrection]) -> list[Decision]:
        """Append the decision `action` about each correction, except where it is the last decision already.

        Returns the new decisions once they are on disk.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # images may be private
        busy_message = (
            f"another process has held the decision log of {self.folder.name} for"
            f" {LOCK_TIMEOUT_SECONDS:g} seconds"
        )
        with locked(self.folder / ".lock", busy_message, LOCK_TIMEOUT_SECONDS):
            decisions = self.log.read_entries()
            accepted_labels, rejected_ids = resolve_accepted_labels(decisions), find_rejected_ids(decisions)
            decided_ids = (
                rejected_ids
                if action == "reject"
                else {correction.id for correction in accepted_labels.values()}
            )
            undecided = [correction for correction in corrections if correction.id not in decided_ids]
            actor = provenance.current_user()
            return self.log.append_entries(
                *({"actor": actor, "action": action, "correction": correction} for correction in undecided)
            )


def resolve_accepted_labels(decisions: Sequence[Decision]) -> dict[int, LabelCorrection]:
    """Return the accepted correction of each image, by content hash."""
    correction_by_image: dict[int, LabelCorrection] = {}
    for decision in decisions:
        correction = decision.correction
        if correction.image_hash is None:
            continue
        if decision.action == "accept":
            correction_by_image[correction.image_hash] = correction
        elif (
            correction.image_hash in correction_by_image
            and correction_by_image[correction.image_hash].id == correction.id
        ):
            del correction_by_image[correction.image_hash]
    return correction_by_image


def find_rejected_ids(decisions: Sequence[Decision]) -> set[str]:
    """Return the ids of the corrections whose last decision is a rejection."""
    last_actions = {decision.correction.id: decision.action for decision in decisions}
    return {correction_id for correction_id, action in last_actions.items() if action == "reject"}


def collect_feedback_images(home: Home, name: str, last_decision: int | None = None) -> ExtraImages:
    """Return the accepted images for a training of model `name`.

    Only the first `last_decision` decisions count; all of them if it is None.
    """
    decisions = DecisionLog(home, name).load(last_decision)
    corrections = resolve_accepted_labels(decisions).values()
    return ExtraImages(
        images=tuple(correction.image for correction in corrections if correction.image is not None),
        labels=tuple(correction.label for correction in corrections if correction.image is not None),
        last_decision=len(decisions),
    )


def collect_feedback_images_for_card(home: Home, card: ModelCard) -> ExtraImages:
    """Return the extra images that the classifier of `card` was trained with."""
    return (
        collect_feedback_images(home, card.name, card.extra_images.last_decision)
        if card.extra_images
        else ExtraImages()
    )
