"""Score the classifier of a run on any dataset that knows the same classes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.flows import registry
from relearn.flows.store import look_into
from relearn.flows.tracking import Experiment, find
from relearn.model import plots
from relearn.model.classifier import Classifier
from relearn.model.config import TrainConfig
from relearn.model.datasets import LabelledImages
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.metrics import Evaluation
from relearn.model.metrics import evaluate as score
from relearn.model.prepared import prepare


@dataclass(frozen=True)
class Scored:
    """An evaluation with its circumstances."""

    run_name: str
    dataset: str
    evaluation: Evaluation


def evaluate(home: Home, run: str, dataset: str | None = None) -> Scored:
    """Score the classifier of `run` on the test split of `dataset`, its own by default; logged as a run.

    Images are brought to the shape that the classifier knows. Raises `DataError` where the dataset has
    other classes.
    """
    client = look_into(home)
    run_id = find(home, run)
    with tempfile.TemporaryDirectory() as temporary:
        classifier = Classifier.load(registry.fetch(client, run_id, Path(temporary)))
    card = classifier.card
    channels, height, _ = card.shape
    known = card.config
    if dataset is not None:
        known = TrainConfig.read({"dataset": dataset, "size": height, "channels": channels})
    prepared = prepare(known, home)
    split = in_order(prepared.splits.test, prepared.classes, card.classes)
    evaluation = score(classifier, split)
    run_name = str(client.get_run(run_id).info.run_name)
    tags = {"relearn.kind": "evaluate", "dataset": prepared.name, "relearn.evaluated_run": run_id}
    with Experiment.open(home, card.name).run(f"{run_name} on {prepared.name}", tags) as logged:
        logged.metrics({f"test_{key}": value for key, value in evaluation.metrics.items()})
        logged.figure(plots.confusion(evaluation.confusion, card.classes), "test/confusion.png")
        logged.figure(plots.gallery(split.images, evaluation.mistakes), "test/worst_mistakes.png")
        logged.table(evaluation.mistakes, "test/mistakes.csv")
        return Scored(run_name, prepared.name, evaluation)


def in_order(split: LabelledImages, classes: tuple[str, ...], wanted: tuple[str, ...]) -> LabelledImages:
    """The same images, labelled in the class order of the classifier."""
    if set(classes) != set(wanted):
        raise DataError(
            f"the classes of the data are {', '.join(classes)[:200]}; "
            f"the classifier knows {', '.join(wanted)[:200]}"
        )
    order = np.array([wanted.index(name) for name in classes])
    return LabelledImages(split.images, order[split.labels])
