"""Micro-batching: one forward pass for concurrent requests, with the predictions of separate ones."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier
from relearn.serving.runtime.batching import MicroBatcher
from relearn.serving.runtime.hot_reload import ServedModel

MakeClassifier = Callable[[int], Classifier]


def predict_concurrently(
    *requests: tuple[Classifier, np.ndarray], inline_images: int = 64
) -> list[np.ndarray | BaseException]:
    """Return the result of each request; all are made in the same iteration of an event loop."""
    classifiers = {classifier for classifier, _ in requests}
    served = {classifier: ServedModel("1", classifier, inline_images) for classifier in classifiers}

    async def run() -> list[np.ndarray | BaseException]:
        batcher = MicroBatcher()
        return await asyncio.gather(
            *(batcher.predict(served[classifier], images) for classifier, images in requests),
            return_exceptions=True,
        )

    return asyncio.run(run())


def test_concurrent_requests_share_one_forward_pass(classifier: Classifier, images: np.ndarray) -> None:
    """Requests of one, three and two images make one pass over six; each gets its own rows."""
    pass_sizes: list[int] = []
    hook = classifier.network.register_forward_hook(lambda _, inputs, __: pass_sizes.append(len(inputs[0])))
    batches = [images[:1], images[1:4], images[4:6]]
    try:
        results = predict_concurrently(*((classifier, batch) for batch in batches))
    finally:
        hook.remove()

    assert [6] == pass_sizes
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_allclose(result, classifier.predict(batch), rtol=0, atol=1e-6)


def test_pass_is_no_longer_than_the_event_loop_may_be_blocked(
    classifier: Classifier, images: np.ndarray
) -> None:
    """Requests of one to three images make passes of at most four, in their order."""
    pass_sizes: list[int] = []
    hook = classifier.network.register_forward_hook(lambda _, inputs, __: pass_sizes.append(len(inputs[0])))
    batches = [images[:1], images[1:4], images[4:6], images[6:9], images[9:10]]
    try:
        results = predict_concurrently(*((classifier, batch) for batch in batches), inline_images=4)
    finally:
        hook.remove()

    assert [4, 2, 4] == pass_sizes
    for batch, result in zip(batches, results, strict=True):
        np.testing.assert_allclose(result, classifier.predict(batch), rtol=0, atol=1e-6)


def test_model_change_between_requests_separates_them(
    make_classifier: MakeClassifier, images: np.ndarray
) -> None:
    """Each request is predicted by the classifier that was live when it arrived."""
    old_model, new_model = make_classifier(1), make_classifier(2)
    results = predict_concurrently((old_model, images[:1]), (new_model, images[:1]), (old_model, images[1:2]))

    expected = [old_model.predict(images[:1]), new_model.predict(images[:1]), old_model.predict(images[1:2])]
    for expected_result, result in zip(expected, results, strict=True):
        np.testing.assert_allclose(result, expected_result, rtol=0, atol=1e-6)


def test_error_reaches_all_requests_of_the_pass(make_classifier: MakeClassifier, images: np.ndarray) -> None:
    """Each request of a failed pass gets its error; the next pass works."""
    broken = make_classifier(1)

    def fail(*_: object) -> None:
        raise RuntimeError("the network is broken")

    hook = broken.network.register_forward_pre_hook(fail)
    results = predict_concurrently((broken, images[:1]), (broken, images[1:2]))
    hook.remove()

    assert ["network mlp raised RuntimeError: the network is broken"] * 2 == [
        str(result) for result in results
    ]
    assert [(1, 10)] == [result.shape for result in predict_concurrently((broken, images[:1]))]  # type: ignore[union-attr]


def test_cancelled_request_changes_no_other(classifier: Classifier, images: np.ndarray) -> None:
    """A request cancelled before the pass does not change the results of the others."""

    async def run() -> np.ndarray:
        batcher, served_model = MicroBatcher(), ServedModel("1", classifier, 64)
        cancelled = asyncio.ensure_future(batcher.predict(served_model, images[:1]))
        kept = asyncio.ensure_future(batcher.predict(served_model, images[1:2]))
        await asyncio.sleep(0)  # both requests are pending
        cancelled.cancel()
        result = await kept
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return result

    np.testing.assert_allclose(asyncio.run(run()), classifier.predict(images[1:2]), rtol=0, atol=1e-6)


def test_each_of_many_clients_gets_its_own_prediction(
    client: httpx.Client, classifier: Classifier, images: np.ndarray
) -> None:
    """Each of 320 requests over 16 connections gets the prediction of its own image."""
    expected = classifier.predict(images)

    def run(index: int) -> tuple[int, list[float]]:
        result = client.post("/predict", json={"images": [images[index].tolist()]}).json()
        return index, list(result["predictions"][0]["probabilities"].values())

    with ThreadPoolExecutor(16) as threads:
        for index, result in threads.map(run, list(range(64)) * 5):
            np.testing.assert_allclose(result, expected[index], rtol=0, atol=1e-5)
