"""`python -m benchmarks [NAME…] [--rounds N]`: run the measurements and write their tables."""

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

from benchmarks import accuracy, commands, gate, reach, scale, swap, throughput, train
from model import atomic

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
    atomic.write_bytes(RESULTS / f"{name}.md", text.encode())
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
    "reach": reach.measure,
    "scale": scale.measure,
    "gate": gate.measure,
    "swap": swap.measure,
}
IN_ROUNDS = [name for name, measure in BENCHMARKS.items() if signature(measure).parameters]

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help=f"of {', '.join(IN_ROUNDS)}; 5 by default")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown or chosen.rounds < 1:
        parser.error(
            f"got {' '.join(unknown) or f'--rounds {chosen.rounds}'}, "
            f"accepted: {', '.join(BENCHMARKS)} and rounds from 1 on"
        )
    for name in chosen.names or BENCHMARKS:
        write(name, *BENCHMARKS[name](*([chosen.rounds] if name in IN_ROUNDS else [])))
