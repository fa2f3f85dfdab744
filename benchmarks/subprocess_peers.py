"""Interleaved training benchmarks: each library in its own process, which trains one epoch per request."""

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
OWN_PYTHON = Path(sys.executable)
PEER_PYTHON = REPOSITORY / ".venv-peers/bin/python"

# Ten times the slowest epoch on an idle machine, the cnn of Keras on JAX.
EPOCH_TIMEOUT_SECONDS = 300


# Rounds that are not measured: the first epoch compiles and allocates memory. Because other processes start
# in between, the second one still took up to twenty times as long as later ones.
WARM_UP_ROUNDS = 1

# Epochs per round that are not measured. After a wait, the first epoch of an mlp takes up to 0.1 s longer
# than later ones (0.5 s), and a training has no waits between its epochs.
WARM_UP_EPOCHS = 1


class WorkerError(Exception):
    """Worker could not start or ended early; carries the last line of its log."""


@dataclass(frozen=True)
class Peer:
    """Module in `benchmarks/peers/`, its Python interpreter, and the packages to report."""

    file: str
    packages: tuple[str, ...]
    python: Path = PEER_PYTHON
    backend: str = ""
    networks: tuple[str, ...] = ("mlp", "cnn")


@dataclass(frozen=True)
class Task:
    """Task of a worker; `data` is a folder written by `relearn.model.preparation.prepared`."""

    peer: Peer
    settings: Mapping[str, Any]
    data: Path
    validation_split_name: str = "validation"


@dataclass(frozen=True)
class Epoch:
    """Seconds with evaluation, validation accuracy in 0–1, and peak memory so far in MB."""

    seconds: float
    accuracy: float
    peak_mb: float


@dataclass
class Result:
    """Result of a worker: warm-up epochs, measured epochs, or the error."""

    warm_up: list[Epoch] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    error: str = ""


class Worker:
    """A training process; `epoch` trains one epoch, leaving the context kills it. Raises `WorkerError`.

    `start_seconds` is how long it took to start and import.
    """

    def __init__(self, task: Task) -> None:
        request = {
            "peer": task.peer.file,
            "packages": task.peer.packages,
            "data": str(task.data),
            "validation_split_name": task.validation_split_name,
            "settings": dict(task.settings),
        }
        start = time.perf_counter()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed on leaving
        try:
            self.process = subprocess.Popen(
                [task.peer.python, "-m", "benchmarks.peers.worker", json.dumps(request)],
                cwd=REPOSITORY,
                env=_environment(task.peer),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
            )
        except OSError:
            raise WorkerError(f"{task.peer.python} is missing; run make bench-train") from None
        self.requests, self.replies = (
            cast(IO[bytes], self.process.stdin),
            cast(IO[bytes], self.process.stdout),
        )
        try:
            self.versions: dict[str, str] = self._read_reply()["versions"]
        except WorkerError:
            self.__exit__()
            raise
        self.start_seconds = time.perf_counter() - start

    def epoch(self) -> Epoch:
        try:
            self.requests.write(b"\n")
            self.requests.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_line()) from None
        return Epoch(**self._read_reply())

    def _read_reply(self) -> dict[str, Any]:
        if not select.select([self.replies], [], [], EPOCH_TIMEOUT_SECONDS)[0]:
            raise WorkerError(f"no answer in {EPOCH_TIMEOUT_SECONDS} s")
        line = self.replies.readline()
        if not line:
            raise WorkerError(self._last_line())
        return cast(dict[str, Any], json.loads(line))

    def _last_line(self) -> str:
        self.process.wait(EPOCH_TIMEOUT_SECONDS)
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        return next(filter(str.strip, reversed(lines)), f"ended with {self.process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.requests, self.replies, self.errors):
            file.close()


def _environment(peer: Peer) -> dict[str, str]:
    """Give every worker two cores and no GPU."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(CORES),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": peer.backend,
    }


def run_interleaved(tasks: Mapping[str, Task], rounds: int) -> dict[str, Result]:
    """Run all tasks one after the other in each of `WARM_UP_ROUNDS` + `rounds` rounds.

    A task trains `WARM_UP_EPOCHS` epochs and one measured epoch per round. A failed worker is not run again.
    """
    results = {name: Result() for name in tasks}
    workers: dict[str, Worker] = {}
    with ExitStack() as stack:
        for turn in range(1 - WARM_UP_ROUNDS, 1 + rounds):
            for name, task in tasks.items():
                result = results[name]
                if result.error:
                    continue
                try:
                    if name not in workers:
                        workers[name] = stack.enter_context(Worker(task))
                        result.versions = workers[name].versions
                    *warm_up_epochs, epoch = (workers[name].epoch() for _ in range(WARM_UP_EPOCHS + 1))
                except WorkerError as error:
                    result.error = str(error)
                    print(f"{name}: {error}", flush=True)
                else:
                    result.warm_up += warm_up_epochs
                    (result.epochs if turn > 0 else result.warm_up).append(epoch)
                    print(f"round {turn} of {rounds}, {name}: {epoch}", flush=True)
    return results


def interleaving_note(rounds: int) -> str:
    """Describe `run_interleaved` in the note of a table."""
    return (
        f"{rounds} interleaved rounds after {WARM_UP_ROUNDS} warm-up round on the same two cores; each round "
        f"is {WARM_UP_EPOCHS + 1} epochs per library, of which the last is measured."
    )


def median_range(values: list[float], digits: int = 1) -> tuple[str, str]:
    """Format median and range for a table."""
    return f"{median(values):.{digits}f}", f"{min(values):.{digits}f}–{max(values):.{digits}f}"


PEERS: dict[str, Peer] = {
    "ours": Peer("ours", ("torch",), OWN_PYTHON),
    "matrix products alone": Peer("matmul_limit", ("torch",), OWN_PYTHON),
    "torch with DataLoader": Peer("torch_dataloader", ("torch",), OWN_PYTHON),
    "Lightning": Peer("lightning", ("lightning", "torch")),
    "skorch": Peer("skorch", ("skorch", "torch")),
    "Keras on TensorFlow": Peer("keras", ("keras", "tensorflow-cpu"), backend="tensorflow"),
    "Keras on JAX": Peer("keras", ("keras", "jax"), backend="jax"),
    "Keras on torch": Peer("keras", ("keras", "torch"), backend="torch"),
    "scikit-learn": Peer("sklearn", ("scikit-learn",), networks=("mlp",)),
}
