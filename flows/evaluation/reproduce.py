"""Reproduction of a run or version: retraining from its card alone, and comparison with the original."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from relearn.flows.evaluation.run_resolver import RunRef
from relearn.flows.promotion.reference_images import load_training_data
from relearn.flows.terminal.console import EpochBar, image_bar
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect_existing
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, NotFoundError, RelearnError
from relearn.model.evaluation.metrics import evaluate
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, build_untrained_network
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.pretrained import Pretrained
from relearn.model.preparation.prepared import PreparedDataset
from relearn.model.training.fit import FitResult, fit
from relearn.model.training.head import HeadResult, fit_head
from relearn.serving.releases.store import ReleaseStore

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class ReproductionResult:
    """Result of the reproduction of the run or version `label`, with the test metrics of both classifiers.

    `max_difference` is the largest absolute difference of a weight, `agreement` the fraction of test images
    with the same predicted label (0–1). `environment_differences` lists changes since the first training.
    """

    label: str
    conclusion: Literal["identical", "equivalent", "different"]
    max_difference: float
    agreement: float
    comparison: PairedComparison
    original_metrics: dict[str, float]
    retrained_metrics: dict[str, float]
    environment_differences: tuple[str, ...]


def reproduce_version(home: Home, name: str, version: str) -> ReproductionResult:
    """Reproduce `version` of model `name`, which the release store keeps; raise `NotFoundError` if not."""
    releases = ReleaseStore(home.releases_dir(name))
    if version not in releases.list_versions():
        accepted = ", ".join(releases.list_versions()) or "none"
        raise NotFoundError(f"version: got {version!r}, which is not kept as {name}; accepted: {accepted}")
    return _reproduce(home, releases.load(version), releases.version_folder(version), f"{name}@{version}")


def reproduce_run(home: Home, run: RunRef) -> ReproductionResult:
    """Reproduce the classifier that a run logged; raise `NotFoundError` if it has none."""
    with tempfile.TemporaryDirectory() as temp_dir:
        folder = registry.download_classifier(connect_existing(home), run.run_id, Path(temp_dir))
        return _reproduce(home, Classifier.load(folder), folder, run.label)


def _reproduce(home: Home, original: Classifier, folder: Path, label: str) -> ReproductionResult:
    """Train the classifier in `folder` again on the data that its card names, and compare.

    Feedback that was accepted after the original training is left out. Raises `CorruptDataError` if its data
    has changed.
    """
    card = original.card
    prepared = _load_data(card, home)
    network = build_untrained_network(card, folder)
    hardware = {
        "threads": card.threads or card.config.threads,
        "device": "cpu" if card.device == "cpu" else "auto",
    }
    config = card.config.model_copy(update=hardware)
    fit_result = _fit_again(f"{label} again", config, network, prepared, home)
    card = card.model_copy(update={"temperature": fit_result.temperature})
    differences = _find_environment_differences(card, fit_result.device, fit_result.threads)
    return _compare(label, original, Classifier(network.cpu(), card), prepared, differences)


def _fit_again(
    title: str, config: TrainConfig, network: nn.Module, prepared: PreparedDataset, home: Home
) -> FitResult | HeadResult:
    splits, classes = prepared.splits, len(prepared.classes)
    if isinstance(network, Pretrained):
        with image_bar(title) as show_progress:
            return fit_head(config, network, splits, classes, home.backbones, on_progress=show_progress)
    with EpochBar(title, config.epochs, len(splits.train)) as bar:
        return fit(config, network, splits, classes, on_epoch=bar.advance)


def _load_data(card: ModelCard, home: Home) -> PreparedDataset:
    try:
        return load_training_data(card, home)
    except RelearnError as error:
        raise CorruptDataError(f"it cannot be reproduced: {error}") from None


def _find_environment_differences(card: ModelCard, device: str, threads: int) -> tuple[str, ...]:
    current = {"torch": torch.__version__, "device": device, "threads": threads}
    original = {name: getattr(card, name) for name in current}
    return tuple(
        f"{name} {current[name]}, originally {original[name]}"
        for name in current
        if current[name] != original[name]
    )


def _compare(
    label: str,
    original: Classifier,
    retrained: Classifier,
    prepared: PreparedDataset,
    environment_differences: tuple[str, ...],
) -> ReproductionResult:
    classifiers, test_images = (original, retrained), prepared.splits.test
    original_evaluation, retrained_evaluation = (
        evaluate(classifier, test_images) for classifier in classifiers
    )
    comparison = PairedComparison.from_evaluations(retrained_evaluation, original_evaluation)
    max_difference = _compute_max_difference(original, retrained)
    conclusion: Literal["identical", "equivalent", "different"] = (
        "equivalent" if comparison.p_value >= SIGNIFICANCE_LEVEL else "different"
    )
    labels = [classifier.predict(test_images.images).argmax(1) for classifier in classifiers]
    return ReproductionResult(
        label=label,
        conclusion="identical" if max_difference == 0 else conclusion,
        max_difference=max_difference,
        agreement=float(np.mean(labels[0] == labels[1])),
        comparison=comparison,
        original_metrics=original_evaluation.metrics,
        retrained_metrics=retrained_evaluation.metrics,
        environment_differences=environment_differences,
    )


def _compute_max_difference(original: Classifier, retrained: Classifier) -> float:
    """Return the largest absolute difference of a value in the two networks; 0 if bit-identical."""
    original_state, retrained_state = original.network.state_dict(), retrained.network.state_dict()
    return max(
        float((original_state[name].double() - retrained_state[name].double()).abs().max())
        for name in original_state
    )
