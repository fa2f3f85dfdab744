"""Two classifiers on the same images: which is better, and by more than chance?"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.flows import registry
from relearn.flows.named import Named, meant
from relearn.flows.reference import Reference, check_same, fitting, own
from relearn.flows.store import look_into
from relearn.flows.truth import Truth
from relearn.model.classifier import Card, Classifier, read_seen
from relearn.model.errors import InputError, NotFoundError
from relearn.model.home import Home
from relearn.model.metrics import Evaluation, evaluate
from relearn.model.significance import Comparison
from relearn.serving.releases import Releases, names

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
    comparison: Comparison

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
        raise InputError(f"--paired: got {len(runs)} runs, accepted: two runs or versions")
    one, other = (meant(home, run, name) for run in runs)
    if one.run_id == other.run_id:
        raise InputError(f"--paired: got {one.label} and {other.label}, which are the same run")
    with tempfile.TemporaryDirectory() as temporary:
        folders = [_folder(home, side, Path(temporary) / side.run_id) for side in (one, other)]
        first, second = (Classifier.load(folder) for folder in folders)
        seen = np.union1d(*(read_seen(folder) for folder in folders))
    reference, images = _images(home, first.card, on)
    shape = reference.images.images.shape[1:]
    for side, card in ((one, first.card), (other, second.card)):
        check_same(side.label, card.shape, card.classes, shape, reference.classes)
    try:
        usable = reference.without(seen)
    except NotFoundError:
        raise NotFoundError(
            f"one of the two has learned from all {images}: choose others with --on"
        ) from None
    evaluations = evaluate(first, usable), evaluate(second, usable)
    return Paired(
        labels=(one.label, other.label),
        images=images,
        left_out=len(reference.images) - len(usable),
        evaluations=evaluations,
        comparison=Comparison.of(evaluations[1].correct, evaluations[0].correct),
    )


def _folder(home: Home, side: Named, temporary: Path) -> Path:
    """Where the classifier lies: what is served of a version, else what MLflow keeps of its run."""
    if side.name and side.version:
        releases = Releases(home.releases(side.name))
        if side.version in releases.versions():
            return releases.folder(side.version)
    return registry.fetch(look_into(home), side.run_id, temporary)


def _images(home: Home, card: Card, on: str | None) -> tuple[Reference, str]:
    if on is not None:
        reference = Reference.of(fitting("--on", on, card, home))
        return reference, f"test images of {reference.source}"
    if card.name in names(home):
        releases = Releases(home.releases(card.name))
        frozen = Truth.read(releases).reference
        if frozen:
            return Reference.load(releases, frozen), f"reference images of {card.name}"
    reference = own(card, home)
    return reference, f"test images of {reference.source}"
