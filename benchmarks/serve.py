"""Prediction servers compared: single-image requests with the same network and the same images."""

import json
import subprocess
from contextlib import ExitStack
from typing import NamedTuple

import pandas as pd

from benchmarks import wrk
from benchmarks.server_fixtures import (
    FASTAPI,
    IMAGES,
    PEERS,
    STARLETTE,
    WARM_UP,
    ReleasedModel,
    ServerError,
    Workload,
    accepts_raw,
    release_model,
    start_peer,
    start_relearn,
)
from benchmarks.subprocess_peers import PEER_PYTHON, median_range

OURS = "ours"
PACKAGES = ("bentoml", "fastapi", "litserve", "mlflow", "starlette", "uvicorn", "uvloop")
NOT_SERVED = "not served"


class Row(NamedTuple):
    """A measured case: server, request format, workers, concurrent connections."""

    server: str
    request: str
    workers: int
    connections: int


ROWS = (
    *(
        Row(server, request, 1, connections)
        for server, request in (
            (OURS, "JSON"),
            (OURS, "raw"),
            *((peer, "JSON") for peer in PEERS),
            (STARLETTE, "raw"),
        )
        for connections in (1, 16)
    ),
    Row(OURS, "JSON", 2, 16),
    Row(OURS, "raw", 2, 16),
    Row(FASTAPI, "JSON", 2, 16),
)
Targets = dict[tuple[str, str, int], Workload | str]


def measure(rounds: int = 5, seconds: float = 4.0) -> tuple[str, str, pd.DataFrame]:
    """Measure throughput and latency of each row, and compare with FastAPI."""
    results: dict[Row, list[wrk.LoadResult]] = {row: [] for row in ROWS}
    with release_model() as release, ExitStack() as stack:
        targets = _start(release, stack)
        for number in range(1, rounds + 1):
            for row in ROWS:
                workload = targets[row[:3]]
                if isinstance(workload, Workload):
                    results[row].append(result := _run_load(workload, row.connections, seconds))
                    print(f"round {number} of {rounds}, {row}: {result.rate:.0f}/s, {result}", flush=True)
    rows = [_row(row, targets[row[:3]], results) for row in ROWS]
    return "Prediction servers side by side", _note(rounds, seconds), pd.DataFrame(rows)


def _start(release: ReleasedModel, stack: ExitStack) -> Targets:
    """Start every server, check its labels, and warm it up; unavailable servers map to the reason."""
    targets: Targets = {}
    for workers in (1, 2):
        server = stack.enter_context(start_relearn(release, workers))
        url = f"{server.url}/predict"
        targets[OURS, "JSON", workers] = Workload.json(url, "images", release)
        raw = Workload.raw(url, release) if accepts_raw(server) else NOT_SERVED
        targets[OURS, "raw", workers] = raw
    for name, workers in (*((name, 1) for name in PEERS), (FASTAPI, 2)):
        peer = PEERS[name]
        try:
            url = stack.enter_context(start_peer(peer, release, workers))
        except ServerError as error:
            print(f"{name}: {error}", flush=True)
            targets |= {(name, request, workers): str(error) for request in ("JSON", "raw")}
            continue
        targets[name, "JSON", workers] = Workload.json(url + peer.path, peer.images_key, release)
        if peer.raw:
            targets[name, "raw", workers] = Workload.raw(url + peer.raw, release)
    for workload in targets.values():
        if isinstance(workload, Workload):
            workload.check()
            _run_load(workload, 16, WARM_UP)
    return targets


def _run_load(workload: Workload, connections: int, seconds: float) -> wrk.LoadResult:
    return wrk.run_wrk(workload.url, workload.media_type, workload.bodies, connections, seconds)


def _row(row: Row, workload: Workload | str, results: dict[Row, list[wrk.LoadResult]]) -> dict[str, object]:
    own_results, columns = results[row], row._asdict()
    if isinstance(workload, str):
        return columns | dict.fromkeys(COLUMNS, "–") | {COLUMNS[0]: workload}
    against_fastapi = _ratios(own_results, results[row._replace(server=FASTAPI, request="JSON")])
    ours_against = _ratios(results[row._replace(server=OURS, request="JSON")], own_results)
    p50, p99 = (
        median_range([getattr(result, percentile) for result in own_results], 2)[0]
        for percentile in ("p50", "p99")
    )
    tail = median_range([result.p99 / result.p50 for result in own_results], 1)[0]
    failed = sum(result.failed for result in own_results)
    figures = (
        _format_range([result.rate for result in own_results], 0),
        against_fastapi,
        ours_against,
        p50,
        p99,
        tail,
        failed,
    )
    return columns | dict(zip(COLUMNS, figures, strict=True))


def _ratios(upper: list[wrk.LoadResult], lower: list[wrk.LoadResult]) -> str:
    ratios = [
        upper_result.rate / lower_result.rate
        for upper_result, lower_result in zip(upper, lower, strict=False)
    ]
    return _format_range(ratios, 2) if ratios else "–"


def _format_range(values: list[float], digits: int) -> str:
    return "{} ({})".format(*median_range(values, digits))


COLUMNS = (
    "requests/s",
    "relative to FastAPI async with JSON",
    "speedup of ours with JSON",
    "p50, ms",
    "p99, ms",
    "p99 / p50",
    "failed",
)


def _note(rounds: int, seconds: float) -> str:
    return (
        "One MNIST image per request, the mlp 784-512-10 with the same weights everywhere, torch on one "
        "thread, uvloop and httptools, no access log where the server's own options allow. Ours is what "
        "`relearn serve` starts, with all that it does by default; the others are the files in "
        "`benchmarks/servers/`, LitServe with a second process for the network. BentoML's methods run with "
        f"BentoML's defaults. The labels of {IMAGES} images were the same everywhere. wrk with one thread on "
        f"the same machine, {seconds:g} s per measurement; {rounds} rounds, all servers up, interleaved; "
        f"ratios "
        "are within a round; medians, with their range. Targets with 16 connections: JSON 1.15 times "
        "FastAPI async, raw 1.6 times, 99 % within 2.5 times 50 %, three times BentoML's sync method. "
        f"{_versions()}."
    )


def _versions() -> str:
    code = (
        f"import json\nfrom importlib.metadata import version\nprint({{p: version(p) for p in {PACKAGES}}})"
    )
    done = subprocess.run([str(PEER_PYTHON), "-c", code], capture_output=True, text=True, check=True)
    versions = json.loads(done.stdout.replace("'", '"'))
    return ", ".join(f"{name} {version}" for name, version in versions.items())
