"""`python -m benchmarks.peers.worker TASK`: train one epoch per input line, and report it.

`TASK` is JSON: peer, packages, data (a folder of .npy), validation_split_name (validation or test), settings.
Replies are lines of JSON: first the package versions, after all imports, then one line per epoch.
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
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to stderr instead
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    train = import_module(f"benchmarks.peers.{task['peer']}").train
    train_split, validation_split = (
        _load_split(Path(task["data"]), name) for name in ("train", task["validation_split_name"])
    )

    start = 0.0

    def reply(**message: object) -> float:
        """Send a reply, wait for the next line, and return the time of its arrival."""
        print(json.dumps(message), file=replies)
        if not sys.stdin.readline():
            os._exit(0)  # end of input; some libraries take seconds to shut down
        return time.perf_counter()

    def on_epoch_end(accuracy: float) -> None:
        nonlocal start
        seconds = time.perf_counter() - start
        start = reply(seconds=seconds, accuracy=float(accuracy), peak_mb=_peak())

    start = reply(versions={name: version(name) for name in task["packages"]})
    train(task["settings"], train_split, validation_split, on_epoch_end)


def _load_split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Load a split as our training does: memory-mapped, private to the process."""
    images, labels = (np.load(folder / f"{name}_{kind}.npy", mmap_mode="c") for kind in ("images", "labels"))
    return images, labels


def _peak() -> float:
    """Return peak resident memory in MB. On Linux, `getrusage` would include the memory of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
