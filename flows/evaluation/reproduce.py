"""Reproduction of a version: retraining from its card alone, and comparison with the original."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from relearn.flows.console import EpochBar
from relearn.flows.feedback.decisions import collect_feedback_images_for_card
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.errors import CorruptDataError, NotFoundError, RelearnError
from relearn.model.evaluation.metrics import evaluate
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, build_untrained_network
from relearn.model.inference.model_card import ModelCard
from relearn.model.training.fit import fit
from relearn.serving.releases.store import ReleaseStore

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class ReproductionResult:
    """Result of a reproduction, with the test metrics of both classifiers.

    `max_difference` is the largest absolute difference of a weight, `agreement` the fraction of test images
    with the same predicted label (0–1). `environment_differences` lists changes since the version was
    trained.
    """

    conclusion: Literal["identical", "equivalent", "different"]
    max_difference: float
    agreement: float
    comparison: PairedComparison
    original_metrics: dict[str, float]
    retrained_metrics: dict[str, float]
    environment_differences: tuple[str, ...]


def reproduce_version(home: Home, name: str, version: str) -> ReproductionResult:
    """Train `version` of model `name` again on the data that its card names, and compare.

    Feedback that was accepted after the original training is left out.

    Raises `NotFoundError` if the version is not in the release store, `CorruptDataError` if its data has
    changed.
    """
    releases = ReleaseStore(home.releases_dir(name))
    folder = releases.version_folder(version)
    if version not in releases.list_versions():
        accepted = ", ".join(releases.list_versions()) or "none"
        raise NotFoundError(f"version: got {version!r}, which is not kept as {name}; accepted: {accepted}")
    original = releases.load(version)
    card = original.card
    prepared = _load_data(card, home)
    network = build_untrained_network(card, folder)
    hardware = {
        "threads": card.threads or card.config.threads,
        "device": "cpu" if card.device == "cpu" else "auto",
    }
    config = card.config.model_copy(update=hardware)
    with EpochBar(f"{name} {version} again", config.epochs, len(prepared.splits.train)) as bar:
        fit_result = fit(config, network, prepared.splits, len(card.classes), on_epoch=bar.advance)
    differences = _find_environment_differences(card, fit_result.device, fit_result.threads)
    return _compare(original, Classifier(network.cpu(), card), prepared, differences)


def _load_data(card: ModelCard, home: Home) -> PreparedDataset:
    try:
        prepared = prepare_dataset(card.config, home, collect_feedback_images_for_card(home, card))
    except RelearnError as error:
        raise CorruptDataError(f"it cannot be reproduced, its data cannot be loaded: {error}") from None
    if prepared.fingerprint != card.fingerprint:
        raise CorruptDataError(
            f"it cannot be reproduced, {prepared.uri} has changed since: got fingerprint "
            f"{prepared.fingerprint[:12]}, accepted: {card.fingerprint[:12]}"
        )
    return prepared


def _find_environment_differences(card: ModelCard, device: str, threads: int) -> tuple[str, ...]:
    current = {"torch": torch.__version__, "device": device, "threads": threads}
    original = {name: getattr(card, name) for name in current}
    return tuple(
        f"{name} {current[name]}, originally {original[name]}"
        for name in current
        if current[name] != original[name]
    )


def _compare(
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
