"""BentoML's own methods with its defaults, as a plain function (`Sync`) and as a coroutine (`Async`)."""

import bentoml
import numpy as np

from benchmarks.servers.network import Digits, Prediction


@bentoml.service
class Sync:
    def __init__(self) -> None:
        self.digits = Digits()

    @bentoml.api
    def predict(self, images: np.ndarray) -> list[Prediction]:
        return self.digits.predict(images.astype(np.uint8))


@bentoml.service
class Async:
    def __init__(self) -> None:
        self.digits = Digits()

    @bentoml.api
    async def predict(self, images: np.ndarray) -> list[Prediction]:
        return self.digits.predict(images.astype(np.uint8))
