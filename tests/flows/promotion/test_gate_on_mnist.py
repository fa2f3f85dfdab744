"""The gate on real MNIST: as good is held, better is promoted, sabotaged is rejected by its cause."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, score_classifier
from relearn.flows.promotion.gate import evaluate_gate
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.data.splits import Splits
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit

pytestmark = pytest.mark.slow

CONFIG = PromotionConfig()


@pytest.fixture(scope="module")
def prepared(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare_dataset(TrainConfig(dataset="mnist"), Home(tmp_path_factory.mktemp("mnist"), real_data))


Train = Callable[..., Classifier]


@pytest.fixture(scope="module")
def train(prepared: PreparedDataset) -> Train:
    """Trains on MNIST by a preset; `spoil` changes the labels of the training images first."""

    def done(preset: str, seed: int, spoil: Callable[[np.ndarray], np.ndarray] | None = None) -> Classifier:
        config = TrainConfig.from_preset(preset, dataset="mnist", seed=seed)
        splits = prepared.splits
        if spoil:
            spoilt = LabelledImages(splits.train.images, spoil(np.asarray(splits.train.labels)))
            splits = Splits(spoilt, splits.validation, splits.test)
        torch.manual_seed(seed)
        network = build_network(config, prepared.shape, 10)
        fit(config, network, splits, 10)
        return Classifier(network, ModelCard.from_network(config, prepared, network))

    return done


@pytest.fixture(scope="module")
def champion(train: Train) -> Classifier:
    """An mlp, 98 % right."""
    return train("fast", 0)


@pytest.fixture(scope="module")
def score(prepared: PreparedDataset) -> Callable[[Classifier], ClassifierScores]:
    return lambda classifier: score_classifier(
        classifier, {"reference": prepared.splits.test}, prepared.classes
    )


@pytest.mark.parametrize("seed", range(1, 6))
def test_another_seed_is_held(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores], seed: int
) -> None:
    """The same settings and other first weights: no guardrail breaks, and the interval has zero in it."""
    verdict = evaluate_gate(score(train("fast", seed)), score(champion), CONFIG)
    assert "hold" == verdict.action, verdict.reasons
    comparison = verdict.comparisons["reference"]
    assert comparison.ci_low <= 0 <= comparison.ci_high


def test_a_better_network_is_promoted(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """A cnn that is a point better takes the mlp's place: it is neither too slow nor too large."""
    verdict = evaluate_gate(score(train("fast-cnn", 0)), score(champion), CONFIG)
    assert "promote" == verdict.action, verdict.reasons
    assert verdict.comparisons["reference"].ci_low > 0


def test_a_poisoned_class_is_rejected_by_its_name(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """Three of five sevens were labelled as ones; the reason names the 7."""

    def poison(labels: np.ndarray) -> np.ndarray:
        sevens = np.flatnonzero(labels == 7)
        spoilt = labels.copy()
        spoilt[sevens[: 3 * len(sevens) // 5]] = 1
        return spoilt

    verdict = evaluate_gate(score(train("fast", 0, poison)), score(champion), CONFIG)
    assert "reject" == verdict.action
    assert any(reason.startswith("recall of 7: got ") for reason in verdict.reasons)


def test_permuted_classes_are_rejected(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """Learned with the labels one further: every class is lost, and the accuracy says so."""
    verdict = evaluate_gate(
        score(train("fast", 0, lambda labels: (labels + 1) % 10)), score(champion), CONFIG
    )
    assert "reject" == verdict.action
    assert any(reason.startswith("worse on reference: -9") for reason in verdict.reasons)


def test_weights_that_are_nan_are_rejected(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """One of 407,050 is enough."""
    broken = train("fast", 0)
    with torch.no_grad():
        next(broken.network.parameters())[0, 0] = float("nan")
    verdict = evaluate_gate(score(broken), score(champion), CONFIG)
    assert ("reject", True) == (verdict.action, verdict.reasons[0].startswith("weights: got NaN"))
