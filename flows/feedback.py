"""What people say that images show, once somebody has decided about it: some of it becomes data.

A home keeps the decisions about each name, with all that has to outlive the records, which are bounded.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BaseModel, model_validator

from relearn.flows import owner
from relearn.flows.locks import locked
from relearn.model.additions import Additions
from relearn.model.classifier import Card
from relearn.model.datasets import LabelledImages
from relearn.model.errors import IntegrityError
from relearn.model.home import Home
from relearn.model.splits import contents, position
from relearn.serving.chain import Chain, Link

FILE = "decisions.jsonl"
PATIENCE = 30.0  # seconds for the lock; it is held for an append, some 10 ms
# Of the accepted images, those that show what is asked today: candidate and champion are compared by them,
# and neither may have learned from them.
RECENT_SHARE, RECENT_SALT = 0.3, b"relearn recent"

Action = Literal["accept", "reject"]


class Claim(BaseModel, frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"):
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
    told_at: AwareDatetime
    times: int = 1
    predicted: str | None = None
    probability: float | None = None
    version: str | None = None
    same: bool = True
    shape: tuple[int, int, int] | None = None
    pixels: bytes | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        filled = self.shape is None or (
            min(self.shape) > 0 and math.prod(self.shape) == len(self.pixels or b"")
        )
        if not filled:
            raise ValueError(f"pixels that fill an image of {self.shape}")
        return self

    @classmethod
    def of(cls, image: np.ndarray | None, label: str, request_id: str, index: int, **told: Any) -> Self:
        """With its id; `told` are the other fields."""
        subject = (request_id, index) if image is None else (image.shape, image.tobytes())
        number = hashlib.blake2b(repr((subject, label)).encode(), digest_size=8).hexdigest()
        if image is not None:
            told |= {"shape": image.shape, "pixels": image.tobytes()}
        return cls(id=number, label=label, request_id=request_id, index=index, **told)

    @property
    def image(self) -> np.ndarray | None:
        """uint8 (channels, height, width)."""
        if self.pixels is None or self.shape is None:
            return None
        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)

    @property
    def content(self) -> int | None:
        """The number of its image, as `splits.contents` gives it."""
        return None if self.image is None else int(contents(self.image[None])[0])

    @property
    def is_recent(self) -> bool:
        """Whether its image, if accepted, is one to compare by and not to learn from; for ever."""
        return self.image is not None and bool(position(self.image[None], RECENT_SALT)[0] < RECENT_SHARE)


class Decision(Link):
    """Who accepted or rejected which claim."""

    actor: str
    action: Action
    claim: Claim


class Decisions:
    """Those about one name in `home`, oldest first; of several about the same claim, the last one counts."""

    def __init__(self, home: Home, name: str) -> None:
        self.root = home.feedback(name)
        self.chain = Chain(self.root / FILE, Decision)

    def until(self, number: int | None = None) -> list[Decision]:
        """The first `number` of them, or all; raises `IntegrityError` where some are lost or damaged."""
        made = self.chain.entries()
        if number is not None and number > len(made):
            raise IntegrityError(f"{self.chain.path} has {len(made)} decisions, accepted: {number} or more")
        return made[:number]

    def decide(self, action: Action, claims: Sequence[Claim]) -> list[Decision]:
        """Keep a decision about each of `claims` for which it is not the last one already.

        Returns those that were made, when they are on disk.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of people, as in the records
        busy = f"another process has decided about the feedback of {self.root.name} for {PATIENCE:g} seconds"
        with locked(self.root / ".lock", busy, PATIENCE):
            made = self.chain.entries()
            standing, rejected = accepted(made), rejections(made)
            settled = rejected if action == "reject" else {claim.id for claim in standing.values()}
            new = [claim for claim in claims if claim.id not in settled]
            who = owner.actor()
            return self.chain.extend(*({"actor": who, "action": action, "claim": claim} for claim in new))


def accepted(made: Sequence[Decision]) -> dict[int, Claim]:
    """What counts as true in the end, by the content of the image: of each image one claim."""
    standing: dict[int, Claim] = {}
    for decision in made:
        claim = decision.claim
        if claim.content is None:
            continue
        if decision.action == "accept":
            standing[claim.content] = claim
        elif claim.content in standing and standing[claim.content].id == claim.id:
            del standing[claim.content]
    return standing


def rejections(made: Sequence[Decision]) -> set[str]:
    """The ids of the claims whose last decision is a rejection."""
    last = {decision.claim.id: decision.action for decision in made}
    return {number for number, action in last.items() if action == "reject"}


def additions(home: Home, name: str, until: int | None = None) -> Additions:
    """What joins a training of `name`: what is accepted, or was after the first `until` decisions.

    All but the recent images, which no training sees.
    """
    made = Decisions(home, name).until(until)
    standing = accepted(made)
    joining = [(claim, claim.image) for claim in standing.values() if not claim.is_recent]
    held_out = [content for content, claim in standing.items() if claim.is_recent]
    return Additions(
        images=tuple(image for _, image in joining if image is not None),
        labels=tuple(claim.label for claim, _ in joining),
        held_out=np.array(held_out, np.uint64),
        until=len(made),
    )


def learned_with(home: Home, card: Card) -> Additions:
    """What had joined when the classifier of `card` learned."""
    return additions(home, card.name, card.additions.until) if card.additions else Additions()


def recent(
    home: Home, name: str, classes: tuple[str, ...], shape: tuple[int, ...], seen: np.ndarray
) -> LabelledImages:
    """The accepted images that nobody learns from, (n, *shape), but those in `seen`; n may be 0.

    `seen` holds contents, uint64: images that an earlier training may have learned from.
    """
    known = set(seen.tolist())
    usable = [
        (claim.image, classes.index(claim.label))
        for content, claim in accepted(Decisions(home, name).until()).items()
        if claim.is_recent and claim.label in classes and claim.shape == shape and content not in known
    ]
    images = np.array([image for image, _ in usable], np.uint8).reshape(-1, *shape)
    return LabelledImages(images, np.array([label for _, label in usable], np.int64))
