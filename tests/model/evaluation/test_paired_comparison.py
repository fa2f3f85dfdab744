"""Tests of the comparison of two evaluations, by each metric."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.model.config import PromotionMetric
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.paired_comparison import PairedComparison

PROMOTION_METRICS: tuple[PromotionMetric, ...] = get_args(PromotionMetric)


def make_evaluation(seed: int, images: int, classes: int = 3) -> Evaluation:
    """Return an evaluation with random probabilities; the labels depend on the number of images alone."""
    labels = np.arange(images) % classes
    probabilities = np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), images).astype(np.float32)
    return Evaluation(probabilities, labels, tuple(map(str, range(classes))))


@given(st.sampled_from(PROMOTION_METRICS), st.integers(1, 200), st.integers(0, 1_000))
def test_comparison_is_symmetric(metric: PromotionMetric, images: int, seed: int):
    """With the two exchanged, the difference changes its sign and the p-values change places."""
    first, second = make_evaluation(seed, images), make_evaluation(seed + 1, images)

    forward = PairedComparison.from_evaluations(first, second, metric)
    backward = PairedComparison.from_evaluations(second, first, metric)

    assert forward.difference == pytest.approx(-backward.difference)
    assert (forward.ci_low, forward.ci_high) == pytest.approx((-backward.ci_high, -backward.ci_low))
    assert (forward.p_better, forward.p_worse) == pytest.approx((backward.p_worse, backward.p_better))
    assert forward.ci_low <= forward.difference + 1e-9
    assert forward.difference - 1e-9 <= forward.ci_high


def test_differences_are_those_of_the_metrics():
    """Accuracy, the mean of the recalls, and the loss, each computed as in an evaluation."""
    candidate, champion = make_evaluation(1, 500), make_evaluation(2, 500)
    differences = {
        metric: PairedComparison.from_evaluations(candidate, champion, metric).difference
        for metric in PROMOTION_METRICS
    }

    recalls = [evaluation.metrics["recall_macro"] for evaluation in (candidate, champion)]
    assert candidate.accuracy - champion.accuracy == pytest.approx(differences["accuracy"])
    assert recalls[0] - recalls[1] == pytest.approx(differences["balanced_accuracy"])
    assert champion.loss - candidate.loss == pytest.approx(differences["log_loss"])


def test_equal_predictions_have_p_value_1_and_an_interval():
    """Without discordant images the difference is 0, and 20 images may hide 16 points (rule of three)."""
    evaluation = make_evaluation(1, 20)
    equal = PairedComparison.from_evaluations(evaluation, evaluation)

    assert (0.0, 1.0) == (equal.difference, equal.p_value)
    assert (-0.16, 0.16) == pytest.approx((equal.ci_low, equal.ci_high), abs=0.005)


@pytest.mark.parametrize("metric", PROMOTION_METRICS)
def test_lower_bound_is_that_of_the_interval(metric: PromotionMetric):
    """At half of 5 % it is the end of the 95 % interval, at a smaller level it lies lower."""
    comparison = PairedComparison.from_evaluations(make_evaluation(1, 200), make_evaluation(2, 200), metric)
    levels = (0.025, 0.01, 0.001)
    bounds = [comparison.compute_lower_bound(level) for level in levels]
    assert comparison.ci_low == pytest.approx(bounds[0], abs=0.005)
    assert bounds == sorted(bounds, reverse=True)


def test_text_has_number_and_interval():
    """The unit follows the metric."""
    texts = [
        str(PairedComparison.from_evaluations(make_evaluation(1, 90), make_evaluation(2, 90), metric))
        for metric in PROMOTION_METRICS
    ]
    assert " points on 90 images (95 % interval " in texts[0]
    assert " points of balanced accuracy on 90 images" in texts[1]
    assert " nats of log loss on 90 images" in texts[2]
