"""Micro-batching: one forward pass for the images of concurrent requests."""

import asyncio
from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np

from relearn.serving.runtime.hot_reload import ServedModel


class MicroBatcher:
    """Predicts the images of concurrent requests of one event loop in one batch, in their order.

    No request waits for others: all requests parsed in one iteration of the loop are predicted at its end.
    With 16 connections that send one image each, a request costs 236 µs of a core instead of 414. A pass
    over 16 images takes little longer than a pass over one, because most of the time is reading the weights.
    A pass has at most `inline_images`; what remains is predicted in the next iteration.
    """

    def __init__(self) -> None:
        self._pending: dict[ServedModel, list[tuple[np.ndarray, asyncio.Future[np.ndarray]]]] = {}

    async def predict(self, served_model: ServedModel, images: np.ndarray) -> np.ndarray:
        """Predict as `served_model` does: uint8 images to probabilities, float32 (n, classes)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[np.ndarray] = loop.create_future()
        if served_model not in self._pending:
            self._pending[served_model] = []
            loop.call_soon(self._predict_pending, served_model)
        self._pending[served_model].append((images, future))
        return await future

    def _predict_pending(self, served_model: ServedModel) -> None:
        pending = self._pending.pop(served_model)
        offsets = list(accumulate((len(images) for images, _ in pending), initial=0))
        count = max(bisect_right(offsets, served_model.inline_images) - 1, 1)
        if count < len(pending):
            self._pending[served_model] = pending[count:]
            asyncio.get_running_loop().call_soon(self._predict_pending, served_model)
        image_batches, futures = zip(*pending[:count], strict=True)
        try:
            probabilities = served_model.predict(np.concatenate(image_batches))
        except Exception as error:
            for future in futures:
                if not future.done():  # its client disconnected, or it timed out
                    future.set_exception(error)
            return
        for future, (start, end) in zip(futures, pairwise(offsets[: count + 1]), strict=True):
            if not future.done():
                future.set_result(probabilities[start:end])
