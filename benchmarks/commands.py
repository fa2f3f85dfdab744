"""What a person waits for: the help, the main job, and the memory that a training takes."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas as pd

RELEARN = str(Path(sys.executable).parent / "relearn")


def measure() -> tuple[str, str, pd.DataFrame]:
    """Seconds and megabytes of whole processes."""
    with tempfile.TemporaryDirectory() as home:
        own = {**os.environ, "RELEARN_HOME": home}
        helps = [_seconds(["--help"], own)[0] for _ in range(10)]
        first, said_first = _seconds(["run", "--dataset", "digits"], own)
        second, said_second = _seconds(["run", "--dataset", "digits"], own)
        peaks = {
            name: _peak(["train", "--dataset", "mnist", "--network", name, "--epochs", "2"], own)
            for name in ("mlp", "cnn")
        }
    rows = [
        {
            "what": "relearn --help",
            "figure": f"{median(helps):.2f} s (median of 10, {min(helps):.2f}–{max(helps):.2f})",
        },
        {"what": "relearn run on digits, in an empty home", "figure": f"{first:.1f} s: {said_first}"},
        {"what": "the same again", "figure": f"{second:.1f} s: {said_second}"},
        *(
            {"what": f"peak memory of training {name} on MNIST", "figure": f"{peak:.0f} MB"}
            for name, peak in peaks.items()
        ),
    ]
    return (
        "Commands",
        "Wall-clock time of whole processes; memory is the largest resident set.",
        pd.DataFrame(rows),
    )


def _seconds(arguments: list[str], environment: dict[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([RELEARN, *arguments], env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    said = re.search(r"s in all: ((?:[a-z ]+ [\d.]+(?:, )?)+)", " ".join(done.stdout.split()))
    return seconds, said[1] if said else ""


def _peak(arguments: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen([RELEARN, *arguments], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"relearn {' '.join(arguments)} ended with {status}")
    return usage.ru_maxrss / 1024
