"""Promises of predicting together: one pass for all who ask at once, and to each what it would get alone."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from relearn.model.inference.classifier import Classifier
from relearn.serving.runtime.batching import MicroBatcher

Make = Callable[[int], Classifier]


def asked_together(*questions: tuple[Classifier, np.ndarray]) -> list[np.ndarray | BaseException]:
    """What each gets, where all ask in the same turn of a loop."""

    async def ask() -> list[np.ndarray | BaseException]:
        together = MicroBatcher()
        return await asyncio.gather(
            *(together.predict(classifier, images) for classifier, images in questions),
            return_exceptions=True,
        )

    return asyncio.run(ask())


def test_who_asks_at_once_is_answered_by_one_pass(classifier: Classifier, images: np.ndarray) -> None:
    """Requests of one, three and two images go through the network as six; each gets its own rows."""
    passes: list[int] = []
    hook = classifier.network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    parts = [images[:1], images[1:4], images[4:6]]
    try:
        answers = asked_together(*((classifier, part) for part in parts))
    finally:
        hook.remove()

    assert [6] == passes
    for part, answer in zip(parts, answers, strict=True):
        np.testing.assert_allclose(answer, classifier.predict(part), rtol=0, atol=1e-6)


def test_a_swap_between_two_who_ask_keeps_them_apart(make_classifier: Make, images: np.ndarray) -> None:
    """Each is answered by the classifier that was live when it asked."""
    before, after = make_classifier(1), make_classifier(2)
    answers = asked_together((before, images[:1]), (after, images[:1]), (before, images[1:2]))

    expected = [before.predict(images[:1]), after.predict(images[:1]), before.predict(images[1:2])]
    for one, answer in zip(expected, answers, strict=True):
        np.testing.assert_allclose(answer, one, rtol=0, atol=1e-6)


def test_what_fails_is_told_to_all_who_asked(make_classifier: Make, images: np.ndarray) -> None:
    """And the next pass is a new one."""
    broken = make_classifier(1)

    def fail(*_: object) -> None:
        raise RuntimeError("the network is broken")

    hook = broken.network.register_forward_pre_hook(fail)
    answers = asked_together((broken, images[:1]), (broken, images[1:2]))
    hook.remove()

    assert ["the network is broken"] * 2 == [str(answer) for answer in answers]
    assert [(1, 10)] == [answer.shape for answer in asked_together((broken, images[:1]))]  # type: ignore[union-attr]


def test_who_leaves_takes_nothing_along(classifier: Classifier, images: np.ndarray) -> None:
    """A request that is given up before the pass changes no answer of the others."""

    async def ask() -> np.ndarray:
        together = MicroBatcher()
        leaves = asyncio.ensure_future(together.predict(classifier, images[:1]))
        stays = asyncio.ensure_future(together.predict(classifier, images[1:2]))
        await asyncio.sleep(0)  # both have asked
        leaves.cancel()
        answer = await stays
        with pytest.raises(asyncio.CancelledError):
            await leaves
        return answer

    np.testing.assert_allclose(asyncio.run(ask()), classifier.predict(images[1:2]), rtol=0, atol=1e-6)


def test_many_clients_each_get_their_own_answer(
    client: httpx.Client, classifier: Classifier, images: np.ndarray
) -> None:
    """Of 320 requests over 16 connections, every one is answered for the image that it sent."""
    expected = classifier.predict(images)

    def ask(number: int) -> tuple[int, list[float]]:
        answer = client.post("/predict", json={"images": [images[number].tolist()]}).json()
        return number, list(answer["predictions"][0]["probabilities"].values())

    with ThreadPoolExecutor(16) as clients:
        for number, answer in clients.map(ask, list(range(64)) * 5):
            np.testing.assert_allclose(answer, expected[number], rtol=0, atol=1e-5)
