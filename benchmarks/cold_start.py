"""Cold start of `relearn serve`, and the memory of its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pandas as pd
import psutil

from benchmarks import wrk
from benchmarks.server_fixtures import HOST, WARM_UP, ReleasedModel, Workload, release_model
from benchmarks.subprocess_peers import median_range
from relearn.model.ports import find_free_port

RELEARN = str(Path(sys.executable).parent / "relearn")
READY_TIMEOUT_SECONDS = 60.0  # seconds


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Measure seconds from the start of the command to the first 200 of `/readyz`, and memory under load."""
    rows = []
    with release_model() as release:
        for workers in (1, 2):
            starts = [_start(release, workers) for _ in range(rounds)]
            seconds = median_range([start[0] for start in starts])
            for name in starts[0][1]:
                memory = [start[1][name] for start in starts]
                rows.append(
                    {
                        "workers": workers,
                        "cold start, s": "{} ({})".format(*seconds),
                        "process": name,
                        "RSS, MB": "{} ({})".format(*median_range([rss for rss, _ in memory], 0)),
                        "PSS, MB": "{} ({})".format(*median_range([pss for _, pss in memory], 0)),
                    }
                )
    note = (
        f"`relearn serve` from its start until `/readyz` returns 200, polled every 20 ms, {rounds} times. "
        f"Then {WARM_UP:g} s of requests of one image from 16 connections, and memory: RSS counts shared "
        "pages for each process, PSS divides them among the processes. Targets: 8 s, 500 MB per worker."
    )
    return "Cold start", note, pd.DataFrame(rows)


def _start(release: ReleasedModel, workers: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Return seconds, and RSS and PSS in MB by process name, for the largest worker only."""
    port = find_free_port()
    command = [RELEARN, "serve", "--port", str(port), "--workers", str(workers)]
    environment = {**os.environ, "RELEARN_HOME": str(release.home.root)}
    start_time = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}"
        _wait_until_ready(f"{url}/readyz", process)
        seconds = time.perf_counter() - start_time
        workload = Workload.json(f"{url}/predict", "images", release)
        wrk.run_wrk(workload.url, workload.media_type, workload.bodies, 16, WARM_UP)
        return seconds, _memory(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    with httpx.Client(trust_env=False, timeout=2) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"relearn serve ended, or is not ready after {READY_TIMEOUT_SECONDS:g} s")


def _memory(process: subprocess.Popen[bytes]) -> dict[str, tuple[float, float]]:
    command = psutil.Process(process.pid)
    descendants = command.children(recursive=True)
    server = command.children()[0]
    workers = [child for child in descendants if child.parent() == server]
    memory = {"relearn": _memory_of(command), "BentoML's server": _memory_of(server)}
    return memory | {"largest worker": max(_memory_of(worker) for worker in workers)}


def _memory_of(process: psutil.Process) -> tuple[float, float]:
    info = process.memory_full_info()
    return info.rss / 2**20, info.pss / 2**20
