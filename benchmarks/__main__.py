"""`python -m benchmarks [NAME…] [--rounds N] [--seconds N] [--minutes N]`: run benchmarks, write tables."""

import argparse
import os
import platform
import subprocess
from collections.abc import Callable
from datetime import date
from inspect import signature
from pathlib import Path

import pandas as pd
import torch

from benchmarks import (
    accuracy,
    backbone,
    batch,
    cold_start,
    commands,
    compose,
    data,
    drawings,
    drift,
    gate,
    overload,
    request_steps,
    scale,
    serve,
    soak,
    swap,
    throughput,
    time_to_accuracy,
    train,
)
from relearn.model.files import write_bytes_atomically

RESULTS = Path(__file__).parent / "results"


def conditions() -> str:
    """Describe date, commit, hardware and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{date.today()}, commit {commit or 'unknown'}, {len(os.sched_getaffinity(0))} cores of "
        f"{names[0] if names else platform.processor()}, {device}, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def write(name: str, title: str, note: str, table: pd.DataFrame) -> None:
    text = f"# {title}\n\n{note}\n\nConditions: {conditions()}.\n\n{to_markdown(table)}\n"
    write_bytes_atomically(RESULTS / f"{name}.md", text.encode())
    table.to_csv(RESULTS / f"{name}.csv", index=False)
    print(text)


def to_markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


BENCHMARKS: dict[str, Callable[..., tuple[str, str, pd.DataFrame]]] = {
    "throughput": throughput.measure,
    "commands": commands.measure,
    "data": data.measure,
    "accuracy": accuracy.measure_ours,
    "backbone": backbone.measure,
    "best": accuracy.measure_best,
    "tutorial": accuracy.measure_tutorial,
    "train": train.measure,
    "time_to_accuracy": time_to_accuracy.measure,
    "scale": scale.measure,
    "gate": gate.measure,
    "gate_nights": gate.measure_nights,
    "gate_seeds": gate.measure_seeds,
    "drift": drift.measure,
    "drawings": drawings.measure,
    "swap": swap.measure,
    "serve": serve.measure,
    "request_steps": request_steps.measure,
    "batch": batch.measure,
    "cold_start": cold_start.measure,
    "overload": overload.measure,
    "soak": soak.measure,
    "compose": compose.measure,
}
# Type, help and minimum of each option. A benchmark takes the options that are parameters of its function.
OPTIONS = {
    "rounds": (int, "measured rounds", 1),
    "seconds": (float, "seconds per measurement", 1),
    "minutes": (float, "minutes per soak test", 0.2),
}


def options_of(name: str) -> set[str]:
    """Return the options that a benchmark takes."""
    return set(signature(BENCHMARKS[name]).parameters) & set(OPTIONS)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all by default")
    for option, (kind, help_, _) in OPTIONS.items():
        benchmark_names = ", ".join(name for name in BENCHMARKS if option in options_of(name))
        parser.add_argument(f"--{option}", type=kind, help=f"{help_}, in {benchmark_names}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"got {' '.join(unknown)}, accepted: {', '.join(BENCHMARKS)}")
    for option, (_, _, minimum) in OPTIONS.items():
        if (value := getattr(arguments, option)) is not None and value < minimum:
            parser.error(f"--{option}: got {value:g}, accepted: {minimum:g} or more")
    return arguments


if __name__ == "__main__":
    arguments = parse_arguments()
    overrides = {option: value for option in OPTIONS if (value := getattr(arguments, option)) is not None}
    for name in arguments.names or BENCHMARKS:
        options = {option: value for option, value in overrides.items() if option in options_of(name)}
        write(name, *BENCHMARKS[name](**options))
