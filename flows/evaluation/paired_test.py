"""Two classifiers on the same images: which is better, and by more than chance?"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.flows.evaluation.lookup import RunRef, resolve_run
from relearn.flows.promotion.reference import check_same, load_compatible, load_default_reference
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect_existing
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.evaluation.significance import PairedComparison
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard, read_training_hashes
from relearn.serving.releases.store import ReleaseStore, list_released_names

LEVEL = 0.05  # p-value below which a difference is none of chance


@dataclass(frozen=True)
class Paired:
    """What came of it, the second beside the first.

    `images` tells which they are, `left_out` how many were not used, since one of the two has learned from
    them. `comparison` has the second as the candidate, the first as the champion.
    """

    labels: tuple[str, str]
    images: str
    left_out: int
    evaluations: tuple[Evaluation, Evaluation]
    comparison: PairedComparison

    @property
    def verdict(self) -> str:
        first, second = self.labels
        if self.comparison.p_value >= LEVEL:
            return f"{second} and {first} differ by no more than chance"
        return f"{second} is {'better' if self.comparison.difference > 0 else 'worse'} than {first}"


def paired(home: Home, runs: Sequence[str], name: str | None = None, on: str | None = None) -> Paired:
    """Let two runs or versions answer the same images, which neither has learned from.

    Those are the test images of the dataset `on`; without one the reference images of the first one's name,
    or, where nothing is released under it, the first one's own test images. Raises `InputError` for other
    than two, `DataError` where they know other classes or read images of another shape.
    """
    if len(runs) != 2:
        raise UserInputError(f"--paired: got {len(runs)} runs, accepted: two runs or versions")
    one, other = (resolve_run(home, run, name) for run in runs)
    if one.run_id == other.run_id:
        raise UserInputError(f"--paired: got {one.label} and {other.label}, which are the same run")
    with tempfile.TemporaryDirectory() as temporary:
        folders = [_folder(home, side, Path(temporary) / side.run_id) for side in (one, other)]
        first, second = (Classifier.load(folder) for folder in folders)
        seen = np.union1d(*(read_training_hashes(folder) for folder in folders))
    reference, images = _images(home, first.card, on)
    shape = reference.test_images.images.shape[1:]
    for side, card in ((one, first.card), (other, second.card)):
        check_same(side.label, card.shape, card.classes, shape, reference.classes)
    try:
        usable = reference.excluding(seen)
    except NotFoundError:
        raise NotFoundError(
            f"one of the two has learned from all {images}: choose others with --dataset"
        ) from None
    evaluations = evaluate(first, usable), evaluate(second, usable)
    return Paired(
        labels=(one.label, other.label),
        images=images,
        left_out=len(reference.test_images) - len(usable),
        evaluations=evaluations,
        comparison=PairedComparison.from_correct(evaluations[1].correct, evaluations[0].correct),
    )


def _folder(home: Home, side: RunRef, temporary: Path) -> Path:
    """Where the classifier lies: what is served of a version, else what MLflow keeps of its run."""
    if side.model_name and side.version:
        releases = ReleaseStore(home.releases_dir(side.model_name))
        if side.version in releases.list_versions():
            return releases.version_folder(side.version)
    return registry.download_classifier(connect_existing(home), side.run_id, temporary)


def _images(home: Home, card: ModelCard, on: str | None) -> tuple[ReferenceSet, str]:
    if on is not None:
        reference = ReferenceSet.from_prepared(load_compatible("--dataset", on, card, home))
        return reference, f"test images of {reference.source}"
    if card.name in list_released_names(home):
        releases = ReleaseStore(home.releases_dir(card.name))
        frozen = ReleaseState.from_store(releases).reference_fingerprint
        if frozen:
            return ReferenceSet.load(releases, frozen), f"reference images of {card.name}"
    reference = load_default_reference(card, home)
    return reference, f"test images of {reference.source}"
