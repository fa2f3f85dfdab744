"""Trainings that take turns: each in a process of its own that lives on, waits, and trains when asked."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any, Self, cast

from benchmarks.peers.worker import CORES

REPOSITORY = Path(__file__).parents[1]
OURS = Path(sys.executable)
THEIRS = REPOSITORY / ".venv-peers/bin/python"

# Seconds until an answer: ten times the slowest epoch on a quiet machine, that of Keras on JAX with the cnn.
PATIENCE = 300


# Rounds that do not count: the first epoch compiles and lays out its memory, and with the start of all
# others in between the next one still took up to twenty times as long as those that follow.
WARM_UP = 1

# Epochs of a turn that do not count. After waiting for all others, the first epoch takes up to 0.1 s longer,
# of an mlp's 0.5 s, than those that follow, and a training is many epochs without a wait.
RUN_UP = 1


class WorkerError(Exception):
    """A worker could not start or ended early; carries the last line it wrote."""


@dataclass(frozen=True)
class Peer:
    """A file in `benchmarks/peers/`, the Python it runs with, and the packages whose versions matter."""

    file: str
    packages: tuple[str, ...]
    python: Path = THEIRS
    backend: str = ""
    networks: tuple[str, ...] = ("mlp", "cnn")


@dataclass(frozen=True)
class Task:
    """What a worker is to do: `data` is a folder as `relearn.model.data.prepared` makes it."""

    peer: Peer
    settings: Mapping[str, Any]
    data: Path
    look_at: str = "validation"


@dataclass(frozen=True)
class Epoch:
    """Seconds with the look included, accuracy of that look in 0–1, and the most memory held so far."""

    seconds: float
    accuracy: float
    peak_mb: float


@dataclass
class Result:
    """What came of a worker: its epochs in the rounds that count, or the line with which it failed."""

    warm_up: list[Epoch] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    error: str = ""


class Worker:
    """One process; `epoch` has it train on, leaving the context ends it. Raises `WorkerError`.

    `start_seconds` is how long it took to start and import.
    """

    def __init__(self, task: Task) -> None:
        said = {
            "peer": task.peer.file,
            "packages": task.peer.packages,
            "data": str(task.data),
            "look_at": task.look_at,
            "settings": dict(task.settings),
        }
        start = time.perf_counter()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed on leaving
        try:
            self.process = subprocess.Popen(
                [task.peer.python, "-m", "benchmarks.peers.worker", json.dumps(said)],
                cwd=REPOSITORY,
                env=_environment(task.peer),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
            )
        except OSError:
            raise WorkerError(f"{task.peer.python} is missing, make bench-train makes it") from None
        self.asks, self.answers = cast(IO[bytes], self.process.stdin), cast(IO[bytes], self.process.stdout)
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except WorkerError:
            self.__exit__()
            raise
        self.start_seconds = time.perf_counter() - start

    def epoch(self) -> Epoch:
        try:
            self.asks.write(b"\n")
            self.asks.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_line()) from None
        return Epoch(**self._answer())

    def _answer(self) -> dict[str, Any]:
        if not select.select([self.answers], [], [], PATIENCE)[0]:
            raise WorkerError(f"no answer in {PATIENCE} s")
        line = self.answers.readline()
        if not line:
            raise WorkerError(self._last_line())
        return cast(dict[str, Any], json.loads(line))

    def _last_line(self) -> str:
        self.process.wait(PATIENCE)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        return next(filter(str.strip, reversed(lines)), f"ended with {self.process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.asks, self.answers, self.errors):
            file.close()


def _environment(peer: Peer) -> dict[str, str]:
    """Two cores and no GPU for everyone."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(CORES),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": peer.backend,
    }


def take_turns(tasks: Mapping[str, Task], rounds: int) -> dict[str, Result]:
    """`WARM_UP` rounds, then `rounds` that count; in each, every task has its turn, one after the other.

    A turn is `RUN_UP` epochs that do not count, and one that does. A worker that fails is out of the
    rounds that follow.
    """
    results = {name: Result() for name in tasks}
    workers: dict[str, Worker] = {}
    with ExitStack() as stack:
        for turn in range(1 - WARM_UP, 1 + rounds):
            for name, task in tasks.items():
                result = results[name]
                if result.error:
                    continue
                try:
                    if name not in workers:
                        workers[name] = stack.enter_context(Worker(task))
                        result.versions = workers[name].versions
                    *run_up, epoch = (workers[name].epoch() for _ in range(RUN_UP + 1))
                except WorkerError as error:
                    result.error = str(error)
                    print(f"{name}: {error}", flush=True)
                else:
                    result.warm_up += run_up
                    (result.epochs if turn > 0 else result.warm_up).append(epoch)
                    print(f"round {turn} of {rounds}, {name}: {epoch}", flush=True)
    return results


def told(rounds: int) -> str:
    """A sentence on `take_turns`, for the notes below the tables."""
    return (
        f"{rounds} rounds after {WARM_UP} to warm up, everyone in turn on the same two cores; a turn is "
        f"{RUN_UP + 1} epochs, of which the last counts."
    )


def spread(values: list[float], digits: int = 1) -> tuple[str, str]:
    """Median and range, as a table shows them."""
    return f"{median(values):.{digits}f}", f"{min(values):.{digits}f}–{max(values):.{digits}f}"


PEERS: dict[str, Peer] = {
    "ours": Peer("ours", ("torch",), OURS),
    "matrix products alone": Peer("matmul_limit", ("torch",), OURS),
    "torch with DataLoader": Peer("torch_dataloader", ("torch",), OURS),
    "Lightning": Peer("lightning", ("lightning", "torch")),
    "skorch": Peer("skorch", ("skorch", "torch")),
    "Keras on TensorFlow": Peer("keras", ("keras", "tensorflow-cpu"), backend="tensorflow"),
    "Keras on JAX": Peer("keras", ("keras", "jax"), backend="jax"),
    "Keras on torch": Peer("keras", ("keras", "torch"), backend="torch"),
    "scikit-learn": Peer("sklearn", ("scikit-learn",), networks=("mlp",)),
}
