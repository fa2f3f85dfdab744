"""What people have said of images, put beside all that is known of these: for somebody to decide about."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np

from relearn.flows.feedback import Claim, Decision, Decisions, accepted, rejections
from relearn.flows.reference import Reference
from relearn.flows.truth import Truth
from relearn.model.classifier import Card, read_card
from relearn.model.datasets import LabelledImages
from relearn.model.errors import DataError, NotFoundError, RelearnError
from relearn.model.home import Home
from relearn.model.prepared import PARTS, prepare
from relearn.model.splits import contents
from relearn.model.traits import TRAITS, measure
from relearn.serving import recorded
from relearn.serving.records import Feedback
from relearn.serving.releases import Releases

State = Literal["new", "accepted", "rejected", "replaced"]
NO_IMAGE = "no image: cannot become training data"


@dataclass(frozen=True)
class Reviewed:
    """A claim, what was decided about it, and what there is to know before deciding.

    `unusable` says why it cannot be accepted, `doubts` why nobody should without having looked at it.
    """

    claim: Claim
    state: State
    decision: Decision | None
    unusable: str | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Review:
    """All claims about one name, oldest first; `unknown` says why the training data was not looked at."""

    name: str
    reviewed: tuple[Reviewed, ...]
    unknown: str | None

    @property
    def new(self) -> list[Reviewed]:
        return [one for one in self.reviewed if one.state == "new"]

    @property
    def sound(self) -> list[Reviewed]:
        """What is new and nothing speaks against."""
        return [one for one in self.new if not one.unusable and not one.doubts]

    def chosen(self, ids: Iterable[str]) -> list[Reviewed]:
        """Those whose ids begin so; raises `NotFoundError` where none or several do."""
        return list({one.claim.id: one for one in map(self._chosen, ids)}.values())

    def _chosen(self, start: str) -> Reviewed:
        found = [one for one in self.reviewed if start and one.claim.id.startswith(start)]
        if len(found) != 1:
            several = ", ".join(one.claim.id for one in found[:5])
            known = f"accepted: the id of one, such as {several}" if found else "see relearn feedback review"
            raise NotFoundError(f"id: got {start!r}, which {len(found) or 'no'} answers begin with; {known}")
        return found[0]


def review(home: Home, name: str) -> Review:
    """Everything that was told about `name` and is still recorded, or was decided about.

    Raises `NotFoundError` where nothing is live as `name`.
    """
    now = Truth.read(Releases(home.releases(name)))
    if now.live is None:
        raise NotFoundError(f"nothing is live as {name!r}: nobody was answered")
    card = read_card(Releases(home.releases(name)).folder(now.live.version))
    made = Decisions(home, name).until()
    claims = {decision.claim.id: decision.claim for decision in made}
    claims |= {claim.id: claim for claim in told(home, name)}
    known = Known.of(home, name, card, now.reference)
    beside = Beside(made, list(claims.values()))
    reviewed = [
        Reviewed(
            claim,
            beside.state(claim),
            beside.last.get(claim.id),
            known.refusal(claim),
            (*known.doubts(claim), *beside.doubts(claim)),
        )
        for claim in sorted(claims.values(), key=lambda one: one.told_at)
    ]
    return Review(name, tuple(reviewed), known.unknown)


def accept(home: Home, name: str, chosen: Sequence[Reviewed]) -> list[Decision]:
    """Let the claims become data; raises `DataError` where one cannot, and then accepts none."""
    for one in chosen:
        if one.unusable:
            raise DataError(f"{one.claim.id} ({one.claim.label}) cannot be accepted: {one.unusable}")
    labels: dict[int | None, Claim] = {}
    for one in chosen:
        other = labels.setdefault(one.claim.content, one.claim)
        if other.id != one.claim.id:
            raise DataError(f"{other.id} and {one.claim.id} say different things of one image, accepted: one")
    return Decisions(home, name).decide("accept", [one.claim for one in chosen])


def told(home: Home, name: str) -> list[Claim]:
    """The claims in the records of `name`: one for each image and label, with how often it was told.

    Of one image of one request counts what was told last.
    """
    folder = home.records(name)
    frame, kept = recorded.read(folder), recorded.images(folder)
    answers = {
        (str(row["request_id"]), int(row["index"])): row
        for row in frame[frame["truth"].notna()].to_dict("records")
    }
    last: dict[tuple[str, int, bytes], tuple[Feedback, np.ndarray | None]] = {}
    for one in recorded.feedback(folder):
        image = recorded.sent_with(one)
        image = kept.get((one.request_id, one.index)) if image is None else image
        last[one.request_id, one.index, b"" if image is None else image.tobytes()] = one, image
    claims: dict[str, Claim] = {}
    for one, image in last.values():
        answer = answers.get((one.request_id, one.index))
        claim = _claim(one, image, answer)
        before = claims.get(claim.id)
        if before:  # told again, perhaps of an answer that was not recorded
            known = claim if claim.predicted is not None else before
            claim = known.model_copy(update={"times": before.times + 1, "told_at": claim.told_at})
        claims[claim.id] = claim
    return list(claims.values())


def _claim(one: Feedback, image: np.ndarray | None, answer: dict[Any, Any] | None) -> Claim:
    moment = datetime.fromtimestamp(one.time, UTC)
    if answer is None:
        return Claim.of(image, one.label, one.request_id, one.index, told_at=moment)
    predicted = str(answer["label"])
    same = image is None or np.allclose(
        measure(image[None])[0], np.array([answer[trait] for trait in TRAITS], float), atol=1e-5
    )
    return Claim.of(
        image,
        one.label,
        one.request_id,
        one.index,
        told_at=moment,
        predicted=predicted,
        probability=float(answer[f"p_{predicted}"]),
        version=str(answer["version"]),
        same=bool(same),
    )


class Beside:
    """What was decided before, and what others say."""

    def __init__(self, made: Sequence[Decision], claims: Sequence[Claim]) -> None:
        self.last = {decision.claim.id: decision for decision in made}
        self.standing, self.rejected = accepted(made), rejections(made)
        self.told: dict[int | None, list[Claim]] = {}
        for claim in claims:
            self.told.setdefault(claim.content, []).append(claim)

    def state(self, claim: Claim) -> State:
        if claim.id not in self.last:
            return "new"
        if claim.id in self.rejected:
            return "rejected"
        stands = claim.content is not None and self.standing.get(claim.content)
        return "accepted" if stands and stands.id == claim.id else "replaced"

    def doubts(self, claim: Claim) -> Iterator[str]:
        if not claim.same:
            yield "another image came with it than the one that was answered"
        for other in self.told[claim.content] if claim.content is not None else ():
            if other.label != claim.label and self.state(other) in ("new", "accepted"):
                how = "accepted" if self.state(other) == "accepted" else "told"
                yield f"the same image was {how} as {other.label} ({other.id[:8]})"


@dataclass(frozen=True)
class Known:
    """The images that a name has already: the label of each content, by the part where it stands."""

    card: Card
    parts: dict[str, dict[int, str]]
    unknown: str | None = None

    @classmethod
    def of(cls, home: Home, name: str, card: Card, reference: str | None) -> Self:
        """In the live classifier's dataset, as it is now and without what joins it, and in the reference."""
        parts = {}
        if reference:
            frozen = Reference.load(Releases(home.releases(name)), reference)
            parts["reference"] = _labels(frozen.images, frozen.classes)
        try:
            prepared = prepare(card.config, home)
        except RelearnError as error:
            return cls(card, parts, f"the training data could not be looked at: {error}")
        parts |= {part: _labels(getattr(prepared.splits, part), prepared.classes) for part in PARTS}
        return cls(card, parts)

    def refusal(self, claim: Claim) -> str | None:
        """Why the claim can never be data; None where it can."""
        if claim.content is None:
            return NO_IMAGE
        if claim.label not in self.card.classes:
            return f"the classifier knows no class {claim.label!r}"
        if claim.shape != self.card.shape:
            got, accepted = (" × ".join(map(str, one or ())) for one in (claim.shape, self.card.shape))
            return f"its image is {got}, accepted: {accepted}"
        said = self._said(claim)
        if said.keys() & {"reference", "test"}:
            return "its image is one that classifiers are tested with"
        return "the training data has it already" if claim.label in said.values() else None

    def doubts(self, claim: Claim) -> Iterator[str]:
        for label in sorted(set(self._said(claim).values()) - {claim.label}):
            yield f"the training data says that it is {label}"

    def _said(self, claim: Claim) -> dict[str, str]:
        """What each part that has the claim's image says of it."""
        content = claim.content
        return {
            part: labels[content]
            for part, labels in self.parts.items()
            if content is not None and content in labels
        }


def _labels(part: LabelledImages, classes: Sequence[str]) -> dict[int, str]:
    names = [classes[label] for label in part.labels]
    return dict(zip(contents(part.images).tolist(), names, strict=True))
