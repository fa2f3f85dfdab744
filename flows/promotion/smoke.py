"""Smoke test of a candidate: its Bento on the real server, golden requests over HTTP."""

import statistics
from time import perf_counter

import httpx
import numpy as np

from relearn.flows.results import ServedPrediction, SmokeTestResult
from relearn.model.errors import CorruptDataError
from relearn.model.home import Home
from relearn.model.images.scale import scale_from_uint8
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import StartupError, run_server
from relearn.serving.releases.golden import Golden


def run_smoke_test(bento: str, golden: Golden, scale: int, home: Home) -> SmokeTestResult:
    """Start the Bento's server on a free port and send it the golden images one by one, in `scale`.

    The result has an error if the server does not start or its predictions differ from the offline ones.
    Raises `InfrastructureError` if this machine cannot start a server.
    """
    try:
        config = ServeConfig(port=0)
        with (
            run_server(bento, config, home) as url,
            httpx.Client(base_url=url, timeout=config.timeout_seconds, trust_env=False) as client,
        ):
            images = scale_from_uint8(golden.images, scale)
            responses = [predict_over_http(client, image, scale) for image in images]
    except (CorruptDataError, StartupError, httpx.HTTPError) as error:
        return SmokeTestResult(error=f"as served: {error}")
    try:
        golden.check(np.array([probabilities for _, probabilities, _ in responses], np.float32))
    except CorruptDataError as error:
        return SmokeTestResult(error=f"as served, {error}")
    return SmokeTestResult(
        first_prediction=responses[0][0],
        latency_ms=statistics.median(seconds for *_, seconds in responses) * 1000,
    )


def predict_over_http(
    client: httpx.Client, image: np.ndarray, scale: int
) -> tuple[ServedPrediction, list[float], float]:
    """Send one image, numbers 0 to `scale`, (channels, height, width).

    Returns prediction, probabilities and latency (s).

    Raises `CorruptDataError` if the server rejects it.
    """
    start = perf_counter()
    response = client.post("/predict", json={"images": image.tolist(), "scale": scale})
    seconds = perf_counter() - start
    if response.status_code != httpx.codes.OK:
        raise CorruptDataError(f"the server rejected an image: {response.status_code} {response.text[:200]}")
    body = response.json()
    probabilities: dict[str, float] = body["predictions"][0]["probabilities"]
    label = body["predictions"][0]["label"]
    prediction = ServedPrediction(label=label, probability=probabilities[label], version=body["version"])
    return prediction, list(probabilities.values()), seconds
