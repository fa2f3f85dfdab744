"""Paired test of two classifiers on the same images."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.flows.evaluation.run_resolver import RunRef, resolve_run
from relearn.flows.promotion.reference_images import check_classes, load_compatible, load_default_reference
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect_existing
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard, read_training_hashes
from relearn.serving.releases.store import ReleaseStore, list_released_names

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Result of a paired test.

    `images` describes the images. `excluded` is the number of images left out because one of the classifiers
    was trained on them. In `comparison` the second classifier is called candidate, the first champion.
    """

    labels: tuple[str, str]
    images: str
    excluded: int
    evaluations: tuple[Evaluation, Evaluation]
    comparison: PairedComparison

    @property
    def conclusion(self) -> str:
        """The result in a sentence."""
        first, second = self.labels
        if self.comparison.p_value >= SIGNIFICANCE_LEVEL:
            return f"{second} and {first} do not differ significantly"
        return f"{second} is {'better' if self.comparison.difference > 0 else 'worse'} than {first}"


def run_paired_test(
    home: Home, runs: Sequence[str], name: str | None = None, dataset: str | None = None
) -> PairedTest:
    """Compare two runs or versions on the same images, on which neither was trained.

    The images are the test images of `dataset`; by default the reference set of the first run's model or,
    before a release, the test images of the first run. Raises `UserInputError` unless `runs` has two
    elements, and `DataError` if classes differ.
    """
    if len(runs) != 2:
        raise UserInputError(f"--paired: got {len(runs)} runs, accepted: two runs or versions")
    first, second = (resolve_run(home, run, name) for run in runs)
    if first.run_id == second.run_id:
        raise UserInputError(f"--paired: got {first.label} and {second.label}, which are the same run")
    with tempfile.TemporaryDirectory() as temp_dir:
        (first_classifier, second_classifier), hashes = zip(
            *(_load_classifier(home, ref, Path(temp_dir) / ref.run_id) for ref in (first, second)),
            strict=True,
        )
    reference, description = _load_images(home, first_classifier.card, dataset)
    cards = first_classifier.card, second_classifier.card
    for ref, card in zip((first, second), cards, strict=True):
        check_classes(ref.label, card.classes, reference.classes)
    try:
        images = reference.fit_unseen(list(zip(cards, hashes, strict=True)))
    except NotFoundError:
        raise NotFoundError(
            f"one of the two was trained on all {description}: choose others with --dataset"
        ) from None
    evaluations = evaluate(first_classifier, images[0]), evaluate(second_classifier, images[1])
    return PairedTest(
        labels=(first.label, second.label),
        images=description,
        excluded=len(reference) - len(images[0]),
        evaluations=evaluations,
        comparison=PairedComparison.from_evaluations(evaluations[1], evaluations[0]),
    )


def _load_classifier(home: Home, ref: RunRef, target: Path) -> tuple[Classifier, np.ndarray]:
    """Load a classifier and its training hashes: a version's stored release, else a download in `target`."""
    if ref.model_name and ref.version:
        releases = ReleaseStore(home.releases_dir(ref.model_name))
        if ref.version in releases.list_versions():
            classifier, folder = releases.load(ref.version), releases.version_folder(ref.version)
            return classifier, read_training_hashes(folder, classifier.card)
    folder = registry.download_classifier(connect_existing(home), ref.run_id, target)
    return Classifier.load(folder), read_training_hashes(folder)


def _load_images(home: Home, card: ModelCard, dataset: str | None) -> tuple[ReferenceSet, str]:
    if dataset is not None:
        reference = ReferenceSet.from_prepared(load_compatible("--dataset", dataset, card, home), home)
        return reference, f"test images of {reference.source}"
    if card.name in list_released_names(home):
        releases = ReleaseStore(home.releases_dir(card.name))
        fingerprint = ReleaseState.from_store(releases).reference_fingerprint
        if fingerprint:
            return ReferenceSet.load(releases, fingerprint), f"reference images of {card.name}"
    reference = load_default_reference(card, home)
    return reference, f"test images of {reference.source}"
