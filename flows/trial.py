"""A candidate, tried as it would be served: its Bento, the real server, golden requests over HTTP."""

import statistics
from time import perf_counter

import httpx
import numpy as np

from relearn.flows.results import Answer, Trial
from relearn.model.errors import IntegrityError
from relearn.model.home import Home
from relearn.serving.golden import Golden
from relearn.serving.server import StartupError, running
from relearn.serving.settings import ServeConfig


def attempt(bento: str, golden: Golden, home: Home) -> Trial:
    """Start the Bento's server on a free port and ask it the golden images, one by one.

    Not ready, or an answer other than the offline one, is a refusal. `MachineError` where this machine lets
    no server start.
    """
    try:
        config = ServeConfig(port=0)
        with (
            running(bento, config, home) as url,
            httpx.Client(base_url=url, timeout=config.timeout, trust_env=False) as client,
        ):
            answered = [ask(client, image) for image in golden.images]
    except (IntegrityError, StartupError, httpx.HTTPError) as error:
        return Trial(refused=f"as served: {error}")
    try:
        golden.check(np.array([probabilities for _, probabilities, _ in answered], np.float32))
    except IntegrityError as error:
        return Trial(refused=f"as served, {error}")
    return Trial(
        first=answered[0][0], milliseconds=statistics.median(seconds for *_, seconds in answered) * 1000
    )


def ask(client: httpx.Client, image: np.ndarray) -> tuple[Answer, list[float], float]:
    """Send one image, uint8 (channels, height, width): its answer, its probabilities, the time in seconds.

    Raises `IntegrityError` where the server refuses it.
    """
    start = perf_counter()
    answered = client.post("/predict", json={"images": image.tolist()})
    seconds = perf_counter() - start
    if answered.status_code != httpx.codes.OK:
        raise IntegrityError(f"the server refused an image: {answered.status_code} {answered.text[:200]}")
    said = answered.json()
    probabilities: dict[str, float] = said["predictions"][0]["probabilities"]
    label = said["predictions"][0]["label"]
    answer = Answer(label=label, probability=probabilities[label], version=said["version"])
    return answer, list(probabilities.values()), seconds
