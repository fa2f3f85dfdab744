"""Evaluation of a run's classifier on any dataset with the same classes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.flows.console import image_bar
from relearn.flows.tracking import registry
from relearn.flows.tracking.run_names import build_evaluate_run_name
from relearn.flows.tracking.runs import Experiment, resolve_run_id
from relearn.flows.tracking.store import connect_existing
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.plots import evaluation as plots


@dataclass(frozen=True)
class EvaluationResult:
    """Evaluation with the names of run and dataset."""

    run_name: str
    dataset: str
    evaluation: Evaluation


def evaluate_run(home: Home, run: str, dataset: str | None = None) -> EvaluationResult:
    """Evaluate the classifier of `run` on the test split of `dataset`; log the result as a new run.

    The default is the dataset of the training.

    Images are resized to the shape of the classifier. Raises `DataError` if the dataset has other classes
    or another scale.
    """
    client = connect_existing(home)
    run_id = resolve_run_id(home, run)
    with tempfile.TemporaryDirectory() as temp_dir:
        classifier = Classifier.load(registry.download_classifier(client, run_id, Path(temp_dir)))
    card = classifier.card
    channels, height, _ = card.shape
    config = card.config
    if dataset is not None:
        config = TrainConfig.parse({"dataset": dataset, "image_size": height, "channels": channels})
    with image_bar() as show_progress:
        prepared = prepare_dataset(config, home, on_progress=show_progress)
    card.check_scale(prepared.uri, prepared.scale)
    split = reorder_labels(prepared.splits.test, prepared.classes, card.classes)
    evaluation = evaluate(classifier, split)
    run_name = str(client.get_run(run_id).info.run_name)
    tags = {"relearn.job_type": "evaluate", "dataset": prepared.name, "relearn.evaluated_run": run_id}
    with Experiment.open_or_create(home, card.name).start_run(
        build_evaluate_run_name(run_name, prepared.name), tags
    ) as evaluation_run:
        evaluation_run.log_metrics({f"test/{key}": value for key, value in evaluation.metrics.items()})
        evaluation_run.log_figure(
            plots.plot_confusion_matrix(evaluation.confusion_matrix, card.classes), "test/confusion.png"
        )
        evaluation_run.log_figure(
            plots.plot_worst_errors(split.images, evaluation.misclassified), "test/worst_mistakes.png"
        )
        evaluation_run.log_table(evaluation.misclassified, "test/mistakes.csv")
        return EvaluationResult(run_name, prepared.name, evaluation)


def reorder_labels(
    split: LabelledImages, data_classes: tuple[str, ...], classifier_classes: tuple[str, ...]
) -> LabelledImages:
    """Return the same images with labels in the class order of the classifier."""
    if set(data_classes) != set(classifier_classes):
        raise DataError(
            f"the classes of the data are {', '.join(data_classes)[:200]}; "
            f"the classifier knows {', '.join(classifier_classes)[:200]}"
        )
    order = np.array([classifier_classes.index(name) for name in data_classes])
    return LabelledImages(split.images, order[split.labels])
