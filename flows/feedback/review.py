"""Review of label corrections: each with warnings and reasons to reject it, for a person to decide."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np

from relearn.flows.feedback.decisions import (
    Decision,
    DecisionLog,
    LabelCorrection,
    find_rejected_ids,
    resolve_accepted_labels,
)
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import hash_contents
from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.errors import DataError, NotFoundError, RelearnError
from relearn.model.home import Home
from relearn.model.inference.model_card import ModelCard
from relearn.model.preparation.prepared import SPLITS, prepare_dataset
from relearn.serving.predictions import reader
from relearn.serving.predictions.entries import Feedback
from relearn.serving.releases.store import ReleaseStore

ReviewState = Literal["new", "accepted", "rejected", "replaced"]
NO_IMAGE = "no image: cannot become training data"


@dataclass(frozen=True)
class ReviewItem:
    """A label that a user reported for a prediction, under review, with the last decision about it.

    `rejection_reason` says why the label cannot be accepted, `warnings` what to check before accepting it.
    """

    correction: LabelCorrection
    state: ReviewState
    decision: Decision | None
    rejection_reason: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Review:
    """All corrections for one model, oldest first.

    `training_data_error` says why the training data could not be loaded, None if it was.
    """

    name: str
    items: tuple[ReviewItem, ...]
    training_data_error: str | None

    @property
    def new_items(self) -> list[ReviewItem]:
        """Items without a decision."""
        return [item for item in self.items if item.state == "new"]

    @property
    def acceptable_items(self) -> list[ReviewItem]:
        """New items without a rejection reason or warning."""
        return [item for item in self.new_items if not item.rejection_reason and not item.warnings]

    def select(self, ids: Iterable[str]) -> list[ReviewItem]:
        """Return the items with these id prefixes; raise `NotFoundError` unless each matches one."""
        return list({item.correction.id: item for item in map(self._select_single, ids)}.values())

    def _select_single(self, id_prefix: str) -> ReviewItem:
        matches = [item for item in self.items if id_prefix and item.correction.id.startswith(id_prefix)]
        if len(matches) != 1:
            examples = ", ".join(item.correction.id for item in matches[:5])
            hint = (
                f"accepted: the id of one, such as {examples}" if matches else "see relearn feedback review"
            )
            raise NotFoundError(
                f"id: got {id_prefix!r}, which {len(matches) or 'no'} corrections begin with; {hint}"
            )
        return matches[0]


def load_review(home: Home, name: str) -> Review:
    """Load all corrections for model `name`, from its prediction log and its decision log.

    Raises `NotFoundError` if no version of the model is live.
    """
    releases = ReleaseStore(home.releases_dir(name))
    release_state = ReleaseState.from_store(releases)
    if release_state.live is None:
        raise NotFoundError(f"nothing is live as {name!r}: there are no predictions to review")
    card = releases.read_card(release_state.live.version)
    decisions = DecisionLog(home, name).load()
    corrections = {decision.correction.id: decision.correction for decision in decisions}
    corrections |= {correction.id: correction for correction in collect_corrections(home, name)}
    existing_images = ExistingImages.load(home, name, card, release_state.reference_fingerprint)
    context = DecisionContext(decisions, list(corrections.values()))
    items = [
        ReviewItem(
            correction,
            context.get_state(correction),
            context.last_decisions.get(correction.id),
            existing_images.find_rejection_reason(correction),
            (*existing_images.find_warnings(correction), *context.find_warnings(correction)),
        )
        for correction in sorted(corrections.values(), key=lambda correction: correction.reported_at)
    ]
    return Review(name, tuple(items), existing_images.error)


def accept(home: Home, name: str, items: Sequence[ReviewItem]) -> list[Decision]:
    """Accept the corrections as data; if one cannot be accepted, raise `DataError` and accept none."""
    for item in items:
        if item.rejection_reason:
            raise DataError(
                f"{item.correction.id} ({item.correction.label}) cannot be accepted: {item.rejection_reason}"
            )
    correction_by_image: dict[int | None, LabelCorrection] = {}
    for item in items:
        first = correction_by_image.setdefault(item.correction.image_hash, item.correction)
        if first.id != item.correction.id:
            raise DataError(
                f"{first.id} and {item.correction.id} give one image different labels, accepted: one of them"
            )
    return DecisionLog(home, name).record("accept", [item.correction for item in items])


def collect_corrections(home: Home, name: str) -> list[LabelCorrection]:
    """Collect the corrections in the prediction log: one for each image and label, with its report count.

    For one image of one request the last report counts.
    """
    folder = home.prediction_log_dir(name)
    frame, logged_images = reader.load_predictions(folder), reader.load_images(folder)
    predictions = {
        (str(row["request_id"]), int(row["index"])): row
        for row in frame[frame["label"].notna()].to_dict("records")
    }
    latest_reports: dict[tuple[str, int, bytes], tuple[Feedback, np.ndarray | None]] = {}
    for report in reader.load_feedback(folder):
        image = report.decode_image()
        image = logged_images.get((report.request_id, report.index)) if image is None else image
        latest_reports[report.request_id, report.index, b"" if image is None else image.tobytes()] = (
            report,
            image,
        )
    corrections: dict[str, LabelCorrection] = {}
    for report, image in latest_reports.values():
        prediction = predictions.get((report.request_id, report.index))
        correction = _build_correction(report, image, prediction)
        previous = corrections.get(correction.id)
        if previous:  # reported again, maybe for a prediction that was not logged
            base = correction if correction.predicted_label is not None else previous
            correction = base.model_copy(
                update={"reports": previous.reports + 1, "reported_at": correction.reported_at}
            )
        corrections[correction.id] = correction
    return list(corrections.values())


def _build_correction(
    report: Feedback, image: np.ndarray | None, prediction: dict[Any, Any] | None
) -> LabelCorrection:
    reported_at = datetime.fromtimestamp(report.time, UTC)
    if prediction is None:
        return LabelCorrection.from_feedback(
            image, report.label, report.request_id, report.index, reported_at=reported_at
        )
    predicted_label = str(prediction["predicted_label"])
    image_matches = image is None or np.allclose(
        compute_statistics(image[None])[0],
        np.array([prediction[statistic] for statistic in STATISTICS], float),
        atol=1e-5,
    )
    return LabelCorrection.from_feedback(
        image,
        report.label,
        report.request_id,
        report.index,
        reported_at=reported_at,
        predicted_label=predicted_label,
        probability=float(prediction[f"p_{predicted_label}"]),
        version=str(prediction["version"]),
        image_matches=bool(image_matches),
    )


class DecisionContext:
    """Earlier decisions and other corrections of the same images, for state and warnings of a correction."""

    def __init__(self, decisions: Sequence[Decision], corrections: Sequence[LabelCorrection]) -> None:
        self.last_decisions = {decision.correction.id: decision for decision in decisions}
        self.accepted_labels, self.rejected_ids = (
            resolve_accepted_labels(decisions),
            find_rejected_ids(decisions),
        )
        self.corrections_by_image: dict[int | None, list[LabelCorrection]] = {}
        for correction in corrections:
            self.corrections_by_image.setdefault(correction.image_hash, []).append(correction)

    def get_state(self, correction: LabelCorrection) -> ReviewState:
        """Return the state of a correction after all decisions."""
        if correction.id not in self.last_decisions:
            return "new"
        if correction.id in self.rejected_ids:
            return "rejected"
        accepted_correction = correction.image_hash is not None and self.accepted_labels.get(
            correction.image_hash
        )
        return "accepted" if accepted_correction and accepted_correction.id == correction.id else "replaced"

    def find_warnings(self, correction: LabelCorrection) -> Iterator[str]:
        """Yield a warning for each thing to check before accepting the correction."""
        if not correction.image_matches:
            yield "its image is not the one that was predicted"
        for competing in (
            self.corrections_by_image[correction.image_hash] if correction.image_hash is not None else ()
        ):
            if competing.label != correction.label and self.get_state(competing) in ("new", "accepted"):
                status = "accepted" if self.get_state(competing) == "accepted" else "reported"
                yield f"the same image was {status} as {competing.label} ({competing.id[:8]})"


@dataclass(frozen=True)
class ExistingImages:
    """The labels of a model's existing images: for each split, a label by content hash."""

    card: ModelCard
    labels_by_split: dict[str, dict[int, str]]
    error: str | None = None

    @classmethod
    def load(cls, home: Home, name: str, card: ModelCard, reference_fingerprint: str | None) -> Self:
        """Load the live classifier's current dataset, without feedback, and its reference set."""
        labels_by_split = {}
        if reference_fingerprint:
            reference_set = ReferenceSet.load(ReleaseStore(home.releases_dir(name)), reference_fingerprint)
            labels_by_split["reference"] = _labels_by_hash(reference_set.fit(card), reference_set.classes)
        try:
            prepared = prepare_dataset(card.config, home)
        except RelearnError as error:
            return cls(card, labels_by_split, f"the training data could not be loaded: {error}")
        labels_by_split |= {
            split: _labels_by_hash(getattr(prepared.splits, split), prepared.classes) for split in SPLITS
        }
        return cls(card, labels_by_split)

    def find_rejection_reason(self, correction: LabelCorrection) -> str | None:
        """Return why the correction cannot become training data; None if it can."""
        if correction.image_hash is None:
            return NO_IMAGE
        if correction.label not in self.card.classes:
            return f"the classifier has no class {correction.label!r}"
        if correction.shape != self.card.shape:
            got, accepted = (
                " × ".join(map(str, shape or ())) for shape in (correction.shape, self.card.shape)
            )
            return f"its image is {got}, accepted: {accepted}"
        existing_labels = self._find_labels(correction)
        if existing_labels.keys() & {"reference", "test"}:
            return "its image is a test image"
        return "the training data has it already" if correction.label in existing_labels.values() else None

    def find_warnings(self, correction: LabelCorrection) -> Iterator[str]:
        """Yield a warning for each split of the existing data that gives the image another label."""
        for label in sorted(set(self._find_labels(correction).values()) - {correction.label}):
            yield f"the training data has it as {label}"

    def _find_labels(self, correction: LabelCorrection) -> dict[str, str]:
        """Return the existing label of the correction's image, by split; only splits that contain it."""
        image_hash = correction.image_hash
        return {
            split: labels[image_hash]
            for split, labels in self.labels_by_split.items()
            if image_hash is not None and image_hash in labels
        }


def _labels_by_hash(split: LabelledImages, classes: Sequence[str]) -> dict[int, str]:
    label_names = [classes[label] for label in split.labels]
    return dict(zip(hash_contents(split.images).tolist(), label_names, strict=True))
