"""The gate on MNIST: an equal candidate is held, a better one promoted, a sabotaged one rejected."""

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
from relearn.model.data.splits import Splits
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.model.training.fit import fit

pytestmark = pytest.mark.slow

CONFIG = PromotionConfig()


@pytest.fixture(scope="module")
def prepared(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare_dataset(TrainConfig(dataset="mnist"), Home(tmp_path_factory.mktemp("mnist"), real_data))


Train = Callable[..., Classifier]


@pytest.fixture(scope="module")
def train(prepared: PreparedDataset) -> Train:
    """Return a function that trains on MNIST by a preset; `corrupt` changes the training labels first."""

    def train(
        preset: str, seed: int, corrupt: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Classifier:
        config = TrainConfig.from_preset(preset, dataset="mnist", seed=seed)
        splits = prepared.splits
        if corrupt:
            train_split = LabelledImages(splits.train.images, corrupt(np.asarray(splits.train.labels)))
            splits = Splits(train_split, splits.validation, splits.test)
        torch.manual_seed(seed)
        network = build_network(config, prepared.shape, 10)
        fit(config, network, splits, 10)
        return Classifier(network, ModelCard.from_network(config, prepared, network))

    return train


@pytest.fixture(scope="module")
def champion(train: Train) -> Classifier:
    """An mlp with 98 % accuracy."""
    return train("fast", 0)


@pytest.fixture(scope="module")
def score(prepared: PreparedDataset) -> Callable[[Classifier], ClassifierScores]:
    return lambda classifier: score_classifier(classifier, prepared.splits.test, prepared.classes)


@pytest.mark.timeout(900)
def test_networks_with_other_seeds_are_held(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """None of five is rejected, at most one is promoted: each gain is tested at 5 %, two would be 1 in 40."""
    decisions = [evaluate_gate(score(train("fast", seed)), score(champion), CONFIG) for seed in range(1, 6)]
    actions = [decision.action for decision in decisions]
    assert {"hold", "promote"} >= set(actions), decisions
    assert actions.count("promote") <= 1, decisions


def test_better_network_is_promoted(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """A cnn that is a point better than the mlp is neither too slow nor too large."""
    decision = evaluate_gate(score(train("fast-cnn", 0)), score(champion), CONFIG)
    assert "promote" == decision.action, decision.reasons
    assert decision.comparison.ci_low > 0


def test_poisoned_class_is_rejected_by_name(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """With three of five sevens labeled as ones, the reason names the 7."""

    def poison(labels: np.ndarray) -> np.ndarray:
        sevens = np.flatnonzero(labels == 7)
        poisoned = labels.copy()
        poisoned[sevens[: 3 * len(sevens) // 5]] = 1
        return poisoned

    decision = evaluate_gate(score(train("fast", 0, poison)), score(champion), CONFIG)
    assert "reject" == decision.action
    assert any(reason.startswith("recall of 7: got ") for reason in decision.reasons)


def test_permuted_classes_are_rejected(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """With every label shifted by one, the accuracy is lost."""
    decision = evaluate_gate(
        score(train("fast", 0, lambda labels: (labels + 1) % 10)), score(champion), CONFIG
    )
    assert "reject" == decision.action
    assert any(reason.startswith("accuracy: got ") for reason in decision.reasons)


def test_nan_weights_are_rejected(
    train: Train, champion: Classifier, score: Callable[[Classifier], ClassifierScores]
) -> None:
    """One NaN among 407,050 weights is enough."""
    broken = train("fast", 0)
    with torch.no_grad():
        next(broken.network.parameters())[0, 0] = float("nan")
    decision = evaluate_gate(score(broken), score(champion), CONFIG)
    assert ("reject", True) == (decision.action, decision.reasons[0].startswith("weights: got NaN"))
