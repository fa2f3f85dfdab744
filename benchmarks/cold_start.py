"""How long `relearn serve` takes until it answers, and what memory its processes hold."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pandas as pd
import psutil

from benchmarks import wrk
from benchmarks.server_fixtures import HOST, WARM_UP, Question, Released, released
from benchmarks.subprocess_peers import spread

RELEARN = str(Path(sys.executable).parent / "relearn")
PATIENCE = 60.0  # seconds


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Seconds from the start of the command to the first 200 of `/readyz`, and megabytes after requests."""
    rows = []
    with released() as release:
        for workers in (1, 2):
            starts = [_start(release, workers) for _ in range(rounds)]
            seconds = spread([start[0] for start in starts])
            for name in starts[0][1]:
                memory = [start[1][name] for start in starts]
                rows.append(
                    {
                        "workers": workers,
                        "ready after, s": "{} ({})".format(*seconds),
                        "process": name,
                        "RSS, MB": "{} ({})".format(*spread([rss for rss, _ in memory], 0)),
                        "PSS, MB": "{} ({})".format(*spread([pss for _, pss in memory], 0)),
                    }
                )
    note = (
        f"`relearn serve` from its start until `/readyz` answers 200, asked every 20 ms, {rounds} times. "
        f"Then {WARM_UP:g} s of requests of one image from 16 connections, and memory: RSS counts what "
        "processes share for each of them, PSS divides it among them. Aimed at: 8 s, 500 MB a worker."
    )
    return "Until it answers", note, pd.DataFrame(rows)


def _start(release: Released, workers: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Seconds, and RSS and PSS of each process by its name, the largest worker for all."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [RELEARN, "serve", "--port", str(port), "--workers", str(workers)]
    environment = {**os.environ, "RELEARN_HOME": str(release.home.root)}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{HOST}:{port}"
        _until_ready(f"{url}/readyz", process)
        seconds = time.perf_counter() - began
        question = Question.json(f"{url}/predict", "images", release)
        wrk.ask(question.url, question.media_type, question.bodies, 16, WARM_UP)
        return seconds, _memory(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    with httpx.Client(trust_env=False, timeout=2) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"relearn serve is not ready after {PATIENCE:g} s, or ended")


def _memory(process: subprocess.Popen[bytes]) -> dict[str, tuple[float, float]]:
    command = psutil.Process(process.pid)
    family = command.children(recursive=True)
    server = command.children()[0]
    workers = [one for one in family if one.parent() == server]
    held = {"relearn": _held(command), "BentoML's server": _held(server)}
    return held | {"a worker, the largest": max(_held(worker) for worker in workers)}


def _held(process: psutil.Process) -> tuple[float, float]:
    told = process.memory_full_info()
    return told.rss / 2**20, told.pss / 2**20
