"""Evaluation of a run's classifier on any dataset with the same classes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from relearn.flows.evaluation.run_resolver import resolve_run
from relearn.flows.terminal.console import image_bar
from relearn.flows.terminal.rendering import escape_markdown
from relearn.flows.tracking import registry
from relearn.flows.tracking.run_names import build_evaluate_run_name
from relearn.flows.tracking.runs import CANDIDATE_TAG, Experiment
from relearn.flows.tracking.store import connect_existing
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import find_learned, get_groups, take
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.home import Home
from relearn.model.images.allocate import Allocate, allocate_in
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import read_training_hashes
from relearn.model.plots import evaluation as plots
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset


@dataclass(frozen=True)
class EvaluationResult:
    """Evaluation of the training `run_id` on `split`, images of `prepared`.

    `query_run_id` is the run that was asked for: the training, or the retraining that chose it. `images` is a
    sentence about the images.
    """

    query_run_id: str
    run_id: str
    run_name: str
    images: str
    classifier: Classifier
    prepared: PreparedDataset
    split: LabelledImages
    evaluation: Evaluation


def evaluate_run(home: Home, run: str, dataset: str | None = None) -> EvaluationResult:
    """Evaluate the classifier of `run` on all images of `dataset`; log the result as a new run.

    `run` is a query for `resolve_run`; of a retraining, the training that it chose is evaluated.

    The default is the test split of the dataset of the training. Images that the run learned from, in its
    training or validation, are left out, by source and pixels. Images are resized to the shape of the
    classifier.

    Raises `DataError` if the dataset has other classes, another scale, or no image that is left.
    """
    client = connect_existing(home)
    query_run_id = resolve_run(home, run).run_id
    run_id = client.get_run(query_run_id).data.tags.get(CANDIDATE_TAG, query_run_id)
    with tempfile.TemporaryDirectory() as temp_dir:
        folder = registry.download_classifier(client, run_id, Path(temp_dir))
        classifier, training_hashes = Classifier.load(folder), read_training_hashes(folder)
    card = classifier.card
    config = card.config
    if dataset is not None:
        channels, height, width = card.shape
        # The size of square images only can be set; others need the shape already.
        size = {"image_size": height} if height == width else {}
        config = TrainConfig.parse({"dataset": dataset, "channels": channels} | size)
    with image_bar() as show_progress:
        prepared = prepare_dataset(config, home, on_progress=show_progress)
    card.check_scale(prepared.uri, prepared.scale)
    splits = prepared.splits
    scored_splits = [splits.test] if dataset is None else [splits.train, splits.validation, splits.test]
    unseen_images = select_unseen(scored_splits, training_hashes, allocate_in(home.dataset_cache))
    excluded = sum(map(len, scored_splits)) - len(unseen_images)
    if not len(unseen_images):
        raise DataError(
            f"{prepared.uri}: the run learned from all {excluded:,} images, accepted: images that it has not "
            "seen, with --dataset"
        )
    scored = reorder_labels(unseen_images, prepared.classes, card.classes)
    evaluation = evaluate(classifier, scored)
    images = (
        f"{len(scored):,} {'test images' if dataset is None else 'images'} of {prepared.uri}, {excluded:,} "
        "left out because the run learned from them"
    )
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
            plots.plot_worst_errors(scored.images, evaluation.misclassified), "test/worst_mistakes.png"
        )
        evaluation_run.log_table(evaluation.misclassified, "test/mistakes.csv")
        evaluation_run.set_description(escape_markdown(images))
        return EvaluationResult(
            query_run_id, run_id, run_name, images, classifier, prepared, scored, evaluation
        )


def select_unseen(
    scored_splits: Sequence[LabelledImages], training_hashes: np.ndarray, allocate: Allocate
) -> LabelledImages:
    """Join the images of all `scored_splits` that are not in `training_hashes`, uint64 (n, 2)."""
    unseen = [take(split, ~find_learned(split, training_hashes), allocate) for split in scored_splits]
    images = allocate((sum(map(len, unseen)), *unseen[0].images.shape[1:]))
    np.concatenate([split.images for split in unseen], out=images)
    labels, groups = (
        np.concatenate(parts)
        for parts in ([split.labels for split in unseen], [get_groups(split) for split in unseen])
    )
    return LabelledImages(images, labels, groups=groups)


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
    return replace(split, labels=order[split.labels])
