"""Where the time of one prediction request goes: each step alone, in one thread of this process."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pandas as pd
import uvloop
from starlette.types import Message

from benchmarks import wrk
from benchmarks.server_fixtures import (
    VERSION,
    WARM_UP,
    ReleasedModel,
    Workload,
    release_model,
    start_relearn,
)
from relearn.model.devices import set_num_threads
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.guard import RequestGuard
from relearn.serving.api.responses import Predictions, build_predictions
from relearn.serving.config import ServeConfig
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_json import parse_json
from relearn.serving.inputs.predict_options import PredictOptions
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

CALLS = 2_000  # of a step in a round
OTHER, NETWORK, SERVER = (
    "access rules, deadline, body, micro-batch, headers",
    "network",
    "uvicorn, HTTP, sockets, wrk",
)


def measure(rounds: int = 5, seconds: float = 4.0) -> tuple[str, str, pd.DataFrame]:
    """Measure each step of a JSON request with one image, the whole in the process, and over HTTP."""
    times: dict[str, list[float]] = {}
    with release_model() as release, tempfile.TemporaryDirectory() as folder:
        set_num_threads(1)
        body = Workload.json("", "images", release).bodies[0]
        api = create_app(release, Path(folder))
        steps = list_steps(api, release.images[:1], body)
        with start_relearn(release) as server:
            workload = Workload.json(f"{server.url}/predict", "images", release)
            for number in range(rounds + 1):
                load_seconds = WARM_UP if number == 0 else seconds
                load = wrk.run_wrk(workload.url, workload.media_type, workload.bodies, 1, load_seconds)
                whole = run_in_loop(lambda: send_request(RequestGuard(api), body))
                alone = {name: time_calls(step) for name, step in steps.items()}
                round_times = alone | {
                    OTHER: whole - sum(alone.values()),
                    SERVER: 1e6 * load.seconds / load.requests - whole,
                }
                if number > 0:
                    for name, value in round_times.items():
                        times.setdefault(name, []).append(value)
        api.prediction_log.close() if api.prediction_log else None
    total = sum(median(values) for values in times.values())
    rows = [
        {"step": name, "µs": f"{median(values):.0f} ({min(values):.0f}–{max(values):.0f})",
         "share": f"{median(values) / total:.0%}"}
        for name, values in times.items()
    ]  # fmt: skip
    rows.append({"step": "one request", "µs": f"{total:.0f}", "share": "100%"})
    note = (
        "One MNIST image as JSON, mlp 784-512-10, torch on one thread, one worker, one connection, default "
        f"settings. Each step alone, {CALLS} calls in a loop; what they leave of the whole request in the "
        "process is the row of access rules; what that leaves of the time between two answers to wrk is the "
        f"last one. {rounds} rounds, medians with their range."
    )
    return "Steps of a prediction request", note, pd.DataFrame(rows)


def create_app(release: ReleasedModel, folder: Path) -> PredictionApp:
    """Create the app of a worker with default settings that logs to `folder`."""
    config = ServeConfig()
    return PredictionApp(
        config,
        WorkerStatusDir(folder / "status"),
        ApiKeys.from_config(config, {}),
        bundled_model=ServedModel.from_classifier(VERSION, release.classifier),
        prediction_log_folder=folder / "log",
    )


def list_steps(api: PredictionApp, images: np.ndarray, body: bytes) -> dict[str, Callable[[], object]]:
    """Return a call of each step with the same request."""
    model = api.served_model
    assert model
    classifier, options = model.classifier, PredictOptions()
    input_spec = InputSpec.from_card(classifier.card, api.config.max_images)
    probabilities = classifier.predict(images)
    labels, is_blank = classifier.to_labels(probabilities), classifier.find_blank(images)

    def record() -> None:
        classifier.find_blank(images)
        api._record(model, images, probabilities, is_blank, "0" * 32, options)

    def encode() -> bytes:
        predictions = build_predictions(
            images, labels, probabilities, is_blank, classifier.card.classes, options
        )
        return msgspec.json.encode(Predictions(VERSION, 1, "0" * 32, predictions))

    return {
        "parse and check the JSON": lambda: parse_json(body, input_spec),
        NETWORK: lambda: classifier.predict(images),
        "log, metrics, blank": record,
        "build and encode the answer": encode,
        "metrics of the request": lambda: api.metrics.observe_request("/predict", 200, 0.001),
    }


def time_calls(step: Callable[[], object]) -> float:
    """Return the µs that a call of `step` takes."""
    start = time.perf_counter()
    for _ in range(CALLS):
        step()
    return 1e6 * (time.perf_counter() - start) / CALLS


def run_in_loop(send: Callable[[], Awaitable[None]]) -> float:
    """Return the µs that a request takes in an event loop."""

    async def repeat() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            await send()
        return 1e6 * (time.perf_counter() - start) / CALLS

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(repeat())


async def send_request(app: RequestGuard, body: bytes) -> None:
    """Send `body` to `app` as a server would; raise `AssertionError` for an error response."""
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message

    await app(scope, receive, send)
