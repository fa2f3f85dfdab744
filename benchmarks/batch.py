"""Batch requests: throughput over HTTP as a fraction of the throughput of the classifier."""

import time

import pandas as pd

from benchmarks import wrk
from benchmarks.server_fixtures import (
    WARM_UP,
    ReleasedModel,
    Workload,
    accepts_raw,
    release_model,
    start_relearn,
)
from benchmarks.subprocess_peers import median_range
from relearn.model.devices import set_num_threads

IMAGES = 256
CONNECTIONS = (1, 4)
IN_PROCESS = "Classifier.predict, without HTTP"


def measure(rounds: int = 5, seconds: float = 4.0) -> tuple[str, str, pd.DataFrame]:
    """Measure images per second over HTTP and in the process."""
    rates: dict[str, list[float]] = {IN_PROCESS: []}
    tails = {IN_PROCESS: "–"}
    with release_model() as release, start_relearn(release) as server:
        set_num_threads(1)  # the training used all threads
        workload = Workload.raw(f"{server.url}/predict", release, IMAGES)
        served = accepts_raw(server)
        if served:
            workload.check()
            _run_load(workload, 1, WARM_UP)
        for _ in range(rounds):
            rates[IN_PROCESS].append(_in_process(release, seconds))
            for connections in CONNECTIONS if served else ():
                name = f"relearn serve, {connections} connections"
                result = _run_load(workload, connections, seconds)
                rates.setdefault(name, []).append(0 if result.failed else result.rate * IMAGES)
                tails[name] = f"{result.p50:.1f}, {result.p99:.1f}"
                print(f"{name}: {result.rate * IMAGES:,.0f} images/s, {result}", flush=True)
    rows = [_row(name, values, rates[IN_PROCESS], tails[name]) for name, values in rates.items()]
    if not served:
        rows.append(dict.fromkeys(rows[0], "–") | {"what": "relearn serve: raw bytes are not accepted"})
    note = (
        f"{IMAGES} MNIST images a request as uint8, mlp 784-512-10, one worker and torch on one thread, with "
        f"all that the server does by default; answers are JSON with the probability of every class. wrk on "
        f"the same machine, {seconds:g} s per measurement, {rounds} interleaved rounds; ratios are within a "
        "round. Targets: 30,000 images/s in the process, 60 % of that over HTTP."
    )
    return "Batch requests", note, pd.DataFrame(rows)


def _run_load(workload: Workload, connections: int, seconds: float) -> wrk.LoadResult:
    return wrk.run_wrk(workload.url, workload.media_type, workload.bodies, connections, seconds)


def _in_process(release: ReleasedModel, seconds: float) -> float:
    """Return images per second of the classifier, result for `IMAGES` at a time."""
    images = release.images.repeat(IMAGES // len(release.images), axis=0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        release.classifier.predict(images)
        done += IMAGES
    return done / (time.perf_counter() - start)


def _row(name: str, rates: list[float], limit: list[float], tail: str) -> dict[str, str]:
    percentages = [100 * rate / maximum for rate, maximum in zip(rates, limit, strict=True)]
    return {
        "what": name,
        "thousand images/s": "{} ({})".format(*median_range([rate / 1000 for rate in rates])),
        "of the classifier, %": "{} ({})".format(*median_range(percentages, 0)),
        "latency p50, p99 (ms)": tail,
    }
