"""LitServe: `python -m benchmarks.servers.litserve PORT`. One process handles HTTP, another predicts."""

import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.servers.network import Digits, Prediction


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.digits = Digits()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return np.array(request["images"], np.uint8)

    def predict(self, images: np.ndarray) -> list[Prediction]:
        return self.digits.predict(images)

    def encode_response(self, predictions: list[Prediction]) -> dict[str, list[Prediction]]:
        return {"predictions": predictions}


if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
