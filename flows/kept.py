"""What is kept of a training under way: checkpoints, and with each the metrics of all epochs before it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Self, TypedDict

import pandas as pd

from relearn.flows.stopping import Stopped
from relearn.model import checkpoints
from relearn.model.checkpoints import Checkpoint
from relearn.model.config import TrainConfig
from relearn.model.errors import InputError, MachineError, NotFoundError
from relearn.model.home import Home
from relearn.model.learner import State


class Note(TypedDict):
    """What one epoch is remembered by: number, end (Unix time in ms), metrics, rows of gradient health."""

    step: int
    milliseconds: int
    values: dict[str, float]
    health: list[dict[str, Any]]


@dataclass
class Kept:
    """The training of one run; `state` is where it goes on, None where it begins.

    `refused` has a line for each checkpoint that was damaged, so that an older one is gone on from.
    """

    folder: Path
    config: TrainConfig
    fingerprint: str
    state: State | None = None
    notes: list[Note] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    saved: int = 0

    @classmethod
    def open(cls, folder: Path, config: TrainConfig, fingerprint: str) -> Self:
        """What `folder` keeps; raises what stands against going on from it with this config and data."""
        try:
            found = checkpoints.load(folder)
        except NotFoundError:
            return cls(folder, config, fingerprint)
        checkpoint = found.checkpoint
        checkpoints.agree(checkpoint, config, fingerprint)
        checkpoints.set_aside(found)
        notes = checkpoint.notes
        refused = tuple(found.refused.values())
        return cls(folder, config, fingerprint, checkpoint.state, notes, refused, len(notes))

    def note(self, values: Mapping[str, float], health: pd.DataFrame) -> None:
        """Remember the epoch that has just ended; the next `save` keeps it."""
        rows: list[dict[str, Any]] = health.to_dict("records")  # type: ignore[assignment]
        step = len(self.notes) + 1
        self.notes.append(Note(step=step, milliseconds=int(1000 * time()), values=dict(values), health=rows))

    def save(self, state: State) -> list[Note]:
        """Keep where the training stands; returns the notes that are kept for the first time."""
        checkpoints.save(self.folder, Checkpoint(self.config, self.fingerprint, state, self.notes))
        new, self.saved = self.notes[self.saved :], len(self.notes)
        return new

    @property
    def ended(self) -> int:
        """When the last epoch ended (Unix time in ms)."""
        return self.notes[-1]["milliseconds"]

    @property
    def health(self) -> pd.DataFrame:
        """Gradient health, one row a layer and epoch."""
        return pd.DataFrame([row for note in self.notes for row in note["health"]])


@contextmanager
def keeping(folder: Path, config: TrainConfig, fingerprint: str) -> Iterator[Kept]:
    """What is kept in `folder`, which is called after its run, for this process alone.

    Where the training ends early, but for a reason that would come again, it says how to go on.
    """
    with checkpoints.held(folder):
        try:
            yield Kept.open(folder, config, fingerprint)
        except BaseException as error:
            if not checkpoints.files(folder):
                remove(folder)
                raise
            advice = f"relearn train --resume {folder.name[:8]} goes on"
            if isinstance(error, MachineError):
                raise MachineError(f"{error}; then {advice}", error.code) from None
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise Stopped(getattr(error, "code", 130), advice) from None
            raise


def remove(folder: Path) -> None:
    """Nothing has to be kept of a finished training: MLflow has it all."""
    shutil.rmtree(folder, ignore_errors=True)


def newest(home: Home) -> str:
    """The id of the run whose unfinished training was last saved; `NotFoundError` where there is none."""
    files = [file for folder in home.checkpoints.glob("*") for file in checkpoints.files(folder)]
    if not files:
        raise NotFoundError(f"no unfinished training in {home.checkpoints}")
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent.name


def unfinished(home: Home, run: str) -> str | None:
    """The id of the run whose id begins with `run`, at least four characters, where something is kept of it.

    Raises `InputError` where there are several.
    """
    found = sorted(folder.name for folder in home.checkpoints.glob("*") if folder.name.startswith(run))
    if len(run) < 4 or not found:
        return None
    if len(found) > 1:
        raise InputError(f"--resume: got {run!r}, which begins {', '.join(name[:12] for name in found)}")
    return found[0]


def settings(home: Home, run_id: str, asked: Mapping[str, Any]) -> TrainConfig:
    """The config with which the training of a run goes on.

    Raises `NotFoundError` where nothing is kept of it, `ConfigError` where `asked` sets something else.
    """
    folder = home.checkpoints / run_id
    if not folder.is_dir():
        raise NotFoundError(f"run {run_id[:8]} has no unfinished training in {home.checkpoints}")
    checkpoint = checkpoints.load(folder).checkpoint
    checkpoints.agree(checkpoint, checkpoint.config.model_copy(update=asked), checkpoint.fingerprint)
    return checkpoint.config
