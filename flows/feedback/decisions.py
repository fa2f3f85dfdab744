"""What people say that images show, once somebody has decided about it: some of it becomes data.

A home keeps the decisions about each name, with all that has to outlive the records, which are bounded.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, model_validator

from relearn.flows import process_identity
from relearn.flows.locks import locked
from relearn.model.append_log import HashChainedLog, LogEntry
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.extra_images import ExtraImages
from relearn.model.data.splits import hash_contents, hash_to_fraction
from relearn.model.errors import CorruptDataError
from relearn.model.home import Home
from relearn.model.inference.model_card import ModelCard

DECISIONS_FILE = "decisions.jsonl"
LOCK_TIMEOUT_SECONDS = 30.0  # seconds for the lock; it is held for an append, some 10 ms
# Of the accepted images, those that show what is asked today: candidate and champion are compared by them,
# and neither may have learned from them.
HOLDOUT_FRACTION, HOLDOUT_SALT = 0.3, b"relearn recent"

Action = Literal["accept", "reject"]


class LabelCorrection(
    BaseModel, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
):
    """That an image shows `label`, as somebody said last at `told_at`, and `times` times in all.

    `id` is the same for equal images and labels; without an image, for the same index of the same request.
    `predicted`, `probability` (0–1) and `version` are of the answer that it was said to, None where that was
    not recorded. The image is `pixels`, uint8 of `shape`, or was not kept. `same` tells whether it is the
    one that was answered, as far as that is known.
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
        """With its id; `told` are the other fields."""
        identity = (request_id, index) if image is None else (image.shape, image.tobytes())
        correction_id = hashlib.blake2b(repr((identity, label)).encode(), digest_size=8).hexdigest()
        if image is not None:
            fields |= {"shape": image.shape, "pixels": image.tobytes()}
        return cls(id=correction_id, label=label, request_id=request_id, index=index, **fields)

    @property
    def image(self) -> np.ndarray | None:
        """uint8 (channels, height, width)."""
        if self.pixels is None or self.shape is None:
            return None
        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)

    @property
    def image_hash(self) -> int | None:
        """The number of its image, as `splits.contents` gives it."""
        return None if self.image is None else int(hash_contents(self.image[None])[0])

    @property
    def is_in_holdout(self) -> bool:
        """Whether its image, if accepted, is one to compare by and not to learn from; for ever."""
        return self.image is not None and bool(
            hash_to_fraction(self.image[None], HOLDOUT_SALT)[0] < HOLDOUT_FRACTION
        )


class Decision(LogEntry):
    """Who accepted or rejected which claim."""

    actor: str
    action: Action
    correction: LabelCorrection


class DecisionLog:
    """Those about one name in `home`, oldest first; of several about the same claim, the last one counts."""

    def __init__(self, home: Home, name: str) -> None:
        self.folder = home.feedback_dir(name)
        self.log = HashChainedLog(self.folder / DECISIONS_FILE, Decision)

    def load(self, max_decisions: int | None = None) -> list[Decision]:
        """The first `number` of them, or all; raises `IntegrityError` where some are lost or damaged."""
        decisions = self.log.read_entries()
        if max_decisions is not None and max_decisions > len(decisions):
            raise CorruptDataError(
                f"{self.log.path} has {len(decisions)} decisions, accepted: {max_decisions} or more"
            )
        return decisions[:max_decisions]

    def record(self, action: Action, corrections: Sequence[LabelCorrection]) -> list[Decision]:
        """Keep a decision about each of `claims` for which it is not the last one already.

        Returns those that were made, when they are on disk.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of people, as in the records
        busy = (
            f"another process has decided about the feedback of {self.folder.name} for"
            f" {LOCK_TIMEOUT_SECONDS:g} seconds"
        )
        with locked(self.folder / ".lock", busy, LOCK_TIMEOUT_SECONDS):
            decisions = self.log.read_entries()
            accepted_labels, rejected_ids = resolve_accepted_labels(decisions), find_rejected_ids(decisions)
            decided_ids = (
                rejected_ids
                if action == "reject"
                else {correction.id for correction in accepted_labels.values()}
            )
            undecided = [correction for correction in corrections if correction.id not in decided_ids]
            actor = process_identity.current_user()
            return self.log.append_entries(
                *({"actor": actor, "action": action, "correction": correction} for correction in undecided)
            )


def resolve_accepted_labels(decisions: Sequence[Decision]) -> dict[int, LabelCorrection]:
    """What counts as true in the end, by the content of the image: of each image one claim."""
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
    """The ids of the claims whose last decision is a rejection."""
    last_actions = {decision.correction.id: decision.action for decision in decisions}
    return {correction_id for correction_id, action in last_actions.items() if action == "reject"}


def collect_extra_images(home: Home, name: str, last_decision: int | None = None) -> ExtraImages:
    """What joins a training of `name`: what is accepted, or was after the first `until` decisions.

    All but the recent images, which no training sees.
    """
    decisions = DecisionLog(home, name).load(last_decision)
    accepted_labels = resolve_accepted_labels(decisions)
    training_pairs = [
        (correction, correction.image)
        for correction in accepted_labels.values()
        if not correction.is_in_holdout
    ]
    holdout_hashes = [
        image_hash for image_hash, correction in accepted_labels.items() if correction.is_in_holdout
    ]
    return ExtraImages(
        images=tuple(image for _, image in training_pairs if image is not None),
        labels=tuple(correction.label for correction, _ in training_pairs),
        excluded_hashes=np.array(holdout_hashes, np.uint64),
        last_decision=len(decisions),
    )


def collect_extra_images_for_card(home: Home, card: ModelCard) -> ExtraImages:
    """What had joined when the classifier of `card` learned."""
    return (
        collect_extra_images(home, card.name, card.extra_images.last_decision)
        if card.extra_images
        else ExtraImages()
    )


def load_recent_holdout(
    home: Home, name: str, classes: tuple[str, ...], shape: tuple[int, ...], excluded_hashes: np.ndarray
) -> LabelledImages:
    """The accepted images that nobody learns from, (n, *shape), but those in `seen`; n may be 0.

    `seen` holds contents, uint64: images that an earlier training may have learned from.
    """
    excluded = set(excluded_hashes.tolist())
    holdout_pairs = [
        (correction.image, classes.index(correction.label))
        for image_hash, correction in resolve_accepted_labels(DecisionLog(home, name).load()).items()
        if correction.is_in_holdout
        and correction.label in classes
        and correction.shape == shape
        and image_hash not in excluded
    ]
    images = np.array([image for image, _ in holdout_pairs], np.uint8).reshape(-1, *shape)
    return LabelledImages(images, np.array([label for _, label in holdout_pairs], np.int64))
