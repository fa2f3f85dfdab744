"""`python -m benchmarks [NAME…] [--rounds N] [--seconds N] [--minutes N]`: measure, and write the tables."""

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
    batch,
    cold_start,
    commands,
    compose,
    drift,
    gate,
    overload,
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
    """What the figures below depend on."""
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
    text = f"# {title}\n\n{note}\n\nConditions: {conditions()}.\n\n{markdown(table)}\n"
    write_bytes_atomically(RESULTS / f"{name}.md", text.encode())
    table.to_csv(RESULTS / f"{name}.csv", index=False)
    print(text)


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


BENCHMARKS: dict[str, Callable[..., tuple[str, str, pd.DataFrame]]] = {
    "throughput": throughput.measure,
    "commands": commands.measure,
    "accuracy": accuracy.measure_ours,
    "best": accuracy.measure_best,
    "tutorial": accuracy.measure_tutorial,
    "train": train.measure,
    "time_to_accuracy": time_to_accuracy.measure,
    "scale": scale.measure,
    "gate": gate.measure,
    "drift": drift.measure,
    "swap": swap.measure,
    "serve": serve.measure,
    "batch": batch.measure,
    "cold_start": cold_start.measure,
    "overload": overload.measure,
    "soak": soak.measure,
    "compose": compose.measure,
}
# Options, each of those benchmarks that have a parameter of its name: what it is, and from where on.
OPTIONS = {
    "rounds": (int, "turns of everyone", 1),
    "seconds": (float, "length of a turn", 1),
    "minutes": (float, "length of a soak", 0.2),
}


def taken(name: str) -> set[str]:
    """The options that a benchmark takes."""
    return set(signature(BENCHMARKS[name]).parameters) & set(OPTIONS)


def chosen_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all by default")
    for option, (kind, help_, _) in OPTIONS.items():
        those = ", ".join(name for name in BENCHMARKS if option in taken(name))
        parser.add_argument(f"--{option}", type=kind, help=f"{help_}, in {those}")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"got {' '.join(unknown)}, accepted: {', '.join(BENCHMARKS)}")
    for option, (_, _, least) in OPTIONS.items():
        if (value := getattr(chosen, option)) is not None and value < least:
            parser.error(f"--{option}: got {value:g}, accepted: from {least:g} on")
    return chosen


if __name__ == "__main__":
    chosen = chosen_options()
    given = {option: value for option in OPTIONS if (value := getattr(chosen, option)) is not None}
    for name in chosen.names or BENCHMARKS:
        options = {option: value for option, value in given.items() if option in taken(name)}
        write(name, *BENCHMARKS[name](**options))
