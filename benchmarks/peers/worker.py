"""`python -m benchmarks.peers.worker TASK`: train one epoch for each line that comes in, and say how it went.

`TASK` is JSON: peer, packages, data (a folder of .npy), look_at (validation or test), settings. Answers are
lines of JSON: first the packages' versions, once all is imported, then one an epoch.
"""

import json
import os
import re
import resource
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CORES = 2


def main(task: dict[str, Any]) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    train = import_module(f"benchmarks.peers.{task['peer']}").train
    learn, look = (_part(Path(task["data"]), name) for name in ("train", task["look_at"]))

    start = 0.0

    def answer(**said: object) -> float:
        """Say it, and wait for the next line; the time at which it came."""
        print(json.dumps(said), file=answers)
        if not sys.stdin.readline():
            os._exit(0)  # nobody asks any more; some libraries take seconds to say goodbye
        return time.perf_counter()

    def epoch_done(accuracy: float) -> None:
        nonlocal start
        seconds = time.perf_counter() - start
        start = answer(seconds=seconds, accuracy=float(accuracy), peak_mb=_peak())

    start = answer(versions={name: version(name) for name in task["packages"]})
    train(task["settings"], learn, look, epoch_done)


def _part(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """As our own training reads it: mapped into memory, private to the process."""
    images, labels = (np.load(folder / f"{name}_{kind}.npy", mmap_mode="c") for kind in ("images", "labels"))
    return images, labels


def _peak() -> float:
    """Most megabytes resident so far. What `getrusage` says starts with the memory of the parent on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
