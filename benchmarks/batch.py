"""Many images a request, as bytes: how much of what the network can do arrives over HTTP."""

import time

import pandas as pd

from benchmarks import wrk
from benchmarks.server_fixtures import WARM_UP, Question, Released, ours, released, takes_raw
from benchmarks.subprocess_peers import spread
from relearn.model.devices import set_num_threads

IMAGES = 256
CONNECTIONS = (1, 4)
IN_PROCESS = "Classifier.predict, without HTTP"


def measure(rounds: int = 5, seconds: float = 4.0) -> tuple[str, str, pd.DataFrame]:
    """Images a second over HTTP, and without."""
    rates: dict[str, list[float]] = {IN_PROCESS: []}
    tails = {IN_PROCESS: "–"}
    with released() as release, ours(release) as server:
        set_num_threads(1)  # the training before took all
        question = Question.raw(f"{server.url}/predict", release, IMAGES)
        served = takes_raw(server)
        if served:
            question.check()
            _ask(question, 1, WARM_UP)
        for _ in range(rounds):
            rates[IN_PROCESS].append(_in_process(release, seconds))
            for connections in CONNECTIONS if served else ():
                name = f"relearn serve, {connections} at once"
                asked = _ask(question, connections, seconds)
                rates.setdefault(name, []).append(0 if asked.failed else asked.rate * IMAGES)
                tails[name] = f"{asked.p50:.1f}, {asked.p99:.1f}"
                print(f"{name}: {asked.rate * IMAGES:,.0f} images/s, {asked}", flush=True)
    rows = [_row(name, of, rates[IN_PROCESS], tails[name]) for name, of in rates.items()]
    if not served:
        rows.append(dict.fromkeys(rows[0], "–") | {"what": "relearn serve: bytes are not served"})
    note = (
        f"{IMAGES} MNIST images a request as uint8, mlp 784-512-10, one worker and torch on one thread, with "
        f"all that the server does by default; answers are JSON with the probability of every class. wrk on "
        f"the same machine, {seconds:g} s a turn, {rounds} rounds in turn; a ratio is taken within a round. "
        "Aimed at: 30,000 images/s in the process, 60 % of that over HTTP."
    )
    return "Many images a request", note, pd.DataFrame(rows)


def _ask(question: Question, connections: int, seconds: float) -> wrk.Asked:
    return wrk.ask(question.url, question.media_type, question.bodies, connections, seconds)


def _in_process(release: Released, seconds: float) -> float:
    """Images a second of the classifier, asked for `IMAGES` at a time."""
    images = release.images.repeat(IMAGES // len(release.images), axis=0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        release.classifier.predict(images)
        done += IMAGES
    return done / (time.perf_counter() - start)


def _row(name: str, rates: list[float], limit: list[float], tail: str) -> dict[str, str]:
    share = [100 * one / other for one, other in zip(rates, limit, strict=True)]
    return {
        "what": name,
        "thousand images/s": "{} ({})".format(*spread([rate / 1000 for rate in rates])),
        "share, %": "{} ({})".format(*spread(share, 0)),
        "ms a request, 50 % and 99 %": tail,
    }
