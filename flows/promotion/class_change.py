"""Classes that come, go or get another name between champion and candidate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from relearn.flows.config import PromotionConfig
from relearn.flows.results import GuardrailResult
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import take
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.metrics import evaluate
from relearn.model.inference.classifier import Classifier


@dataclass(frozen=True)
class ClassChange:
    """Classes of candidate and champion; `original` are the champion's before they are renamed.

    The two are compared on the images of the classes that both have.
    """

    candidate: tuple[str, ...]
    champion: tuple[str, ...]
    original: tuple[str, ...]

    @classmethod
    def between(cls, candidate: tuple[str, ...], champion: tuple[str, ...], config: PromotionConfig) -> Self:
        """Return the change; `config.renamed_classes` gives the champion's classes their new names."""
        renamed = dict(name.split("=", 1) for name in config.renamed_classes)
        return cls(candidate, tuple(renamed.get(name, name) for name in champion), champion)

    @property
    def new(self) -> tuple[str, ...]:
        return tuple(name for name in self.candidate if name not in self.champion)

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(name for name in self.champion if name not in self.candidate)

    @property
    def is_reordered(self) -> bool:
        """True for the same classes in another order, which is a fault of the data."""
        return self.candidate != self.original and set(self.candidate) == set(self.original)

    @property
    def needs_reference(self) -> bool:
        """True if the reference set of the champion has other classes than the candidate."""
        return self.candidate != self.original and not self.is_reordered

    def is_rejected(self, config: PromotionConfig) -> bool:
        """Return True if no candidate of these classes is promoted."""
        return self.is_reordered or bool(self.removed and not config.allow_removed_classes)

    def find_shared(self, images: LabelledImages) -> np.ndarray:
        """Find the images of classes that both have, bool (n,); labels are numbers of the candidate's."""
        shared = [index for index, name in enumerate(self.candidate) if name in self.champion]
        return np.isin(images.labels, shared)

    def check(self, recalls: Mapping[str, Accuracy], config: PromotionConfig) -> Iterator[GuardrailResult]:
        """Yield the guardrails of new and removed classes; `recalls` are those of the new ones."""
        if self.removed:
            yield GuardrailResult(
                name="removed classes",
                passed=config.allow_removed_classes,
                candidate=f"without {', '.join(self.removed)[:60]}",
                accepted="all classes of the champion, --renamed-classes OLD=NEW or --allow-removed-classes",
            )
        for name in self.new:
            recall = recalls.get(name)
            yield GuardrailResult(
                name=f"recall of the new class {name}",
                passed=recall is not None and recall.low >= config.new_class_recall,
                candidate=str(recall) if recall else "no test image",
                accepted=f"{config.new_class_recall:.0%} or more at the lower end of the interval",
            )


def measure_new_classes(
    change: ClassChange, candidate: Classifier, images: LabelledImages
) -> dict[str, Accuracy]:
    """Return the recall of each new class that has any of the `images`."""
    recalls = {}
    for name in change.new:
        own = take(images, images.labels == change.candidate.index(name))
        if len(own):
            recalls[name] = evaluate(candidate, own).accuracy_with_interval
    return recalls


class RelabeledClassifier(Classifier):
    """A classifier whose probabilities are those of other classes, matched by name.

    A class that it does not know has the probability 0, the probability of a class that is gone is dropped.
    """

    def __init__(self, classifier: Classifier, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
        super().__init__(classifier.network, classifier.card.model_copy(update={"classes": classes}))
        self._classifier = classifier
        self._columns = {classes.index(name): index for index, name in enumerate(names) if name in classes}

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Predict probabilities, float32 (n, classes); a row sums to at most 1."""
        own = self._classifier.predict(images)
        probabilities = np.zeros((len(own), len(self.card.classes)), np.float32)
        probabilities[:, list(self._columns)] = own[:, list(self._columns.values())]
        return probabilities
