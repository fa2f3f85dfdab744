"""Wall-clock time of the help and of a retraining, and peak memory of a training."""

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
    """Measure seconds and megabytes of whole processes."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "RELEARN_HOME": home}
        helps = [_seconds(["--help"], environment)[0] for _ in range(10)]
        first, first_stages = _seconds(["run", "--dataset", "digits"], environment)
        second, second_stages = _seconds(["run", "--dataset", "digits"], environment)
        peaks = {
            name: _peak(["train", "--dataset", "mnist", "--network", name, "--epochs", "2"], environment)
            for name in ("mlp", "cnn")
        }
    rows = [
        {
            "what": "relearn --help",
            "figure": f"{median(helps):.2f} s (median of 10, {min(helps):.2f}–{max(helps):.2f})",
        },
        {"what": "relearn run on digits, in an empty home", "figure": f"{first:.1f} s: {first_stages}"},
        {"what": "the same command a second time", "figure": f"{second:.1f} s: {second_stages}"},
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
    process = subprocess.run(
        [RELEARN, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - start
    stages = re.search(r"s in all: ((?:[a-z ]+ [\d.]+(?:, )?)+)", " ".join(process.stdout.split()))
    return seconds, stages[1] if stages else ""


def _peak(arguments: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen([RELEARN, *arguments], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"relearn {' '.join(arguments)} ended with {status}")
    return usage.ru_maxrss / 1024
