"""Resumable trainings: checkpoints that also contain the metrics of all epochs before them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Self, TypedDict

import pandas as pd

from relearn.flows.process.shutdown import InterruptedTraining
from relearn.model.config import TrainConfig
from relearn.model.errors import InfrastructureError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.training import checkpoints
from relearn.model.training.checkpoints import Checkpoint
from relearn.model.training.state import TrainingSnapshot


class EpochLog(TypedDict):
    """Log of one epoch: number, end (Unix time in ms), metrics, rows of gradient health."""

    step: int
    milliseconds: int
    values: dict[str, float]
    health: list[dict[str, Any]]


@dataclass
class ResumableRun:
    """Training of one run with its checkpoints; `state` is the last snapshot, None before the first.

    `skipped_checkpoints` has a message for each damaged checkpoint that was skipped for an older one.
    """

    folder: Path
    config: TrainConfig
    fingerprint: str
    state: TrainingSnapshot | None = None
    epoch_logs: list[EpochLog] = field(default_factory=list)
    skipped_checkpoints: tuple[str, ...] = ()
    saved_epochs: int = 0

    @classmethod
    def from_folder(cls, folder: Path, config: TrainConfig, fingerprint: str) -> Self:
        """Load the last checkpoint in `folder`, or none.

        Raises the errors of `check_compatible` if the checkpoint has another config or other data.
        """
        try:
            loaded = checkpoints.load_checkpoint(folder)
        except NotFoundError:
            return cls(folder, config, fingerprint)
        checkpoint = loaded.checkpoint
        checkpoints.check_compatible(checkpoint, config, fingerprint)
        checkpoints.quarantine(loaded)
        epoch_logs = checkpoint.metadata
        skipped_checkpoints = tuple(loaded.skipped.values())
        return cls(
            folder, config, fingerprint, checkpoint.snapshot, epoch_logs, skipped_checkpoints, len(epoch_logs)
        )

    def add_epoch(self, metrics: Mapping[str, float], gradient_health: pd.DataFrame) -> None:
        """Add the epoch that has just ended; the next `save` writes it."""
        rows: list[dict[str, Any]] = gradient_health.to_dict("records")  # type: ignore[assignment]
        step = len(self.epoch_logs) + 1
        self.epoch_logs.append(
            EpochLog(step=step, milliseconds=int(1000 * time()), values=dict(metrics), health=rows)
        )

    def save(self, state: TrainingSnapshot) -> list[EpochLog]:
        """Write a checkpoint; return the epoch logs that are saved for the first time."""
        checkpoints.save_checkpoint(
            self.folder, Checkpoint(self.config, self.fingerprint, state, self.epoch_logs)
        )
        new_logs, self.saved_epochs = self.epoch_logs[self.saved_epochs :], len(self.epoch_logs)
        return new_logs

    @property
    def last_epoch_end_ms(self) -> int:
        """End of the last epoch (Unix time in ms)."""
        return self.epoch_logs[-1]["milliseconds"]

    @property
    def gradient_health(self) -> pd.DataFrame:
        """Gradient health with one row per layer and epoch."""
        return pd.DataFrame([row for epoch_log in self.epoch_logs for row in epoch_log["health"]])


@contextmanager
def open_resumable(folder: Path, config: TrainConfig, fingerprint: str) -> Iterator[ResumableRun]:
    """Lock `folder`, whose name is the run id, and yield its training, resumed from the last checkpoint.

    If the training is interrupted by a signal or by the infrastructure, the error says how to resume it.
    """
    with checkpoints.lock_folder(folder):
        try:
            yield ResumableRun.from_folder(folder, config, fingerprint)
        except BaseException as error:
            if not checkpoints.list_checkpoints(folder):
                delete_checkpoints(folder)
                raise
            hint = f"relearn train --resume {folder.name[:8]} resumes it"
            if isinstance(error, InfrastructureError):
                raise InfrastructureError(f"{error}; then {hint}", error.code) from None
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise InterruptedTraining(getattr(error, "code", 130), hint) from None
            raise


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished training; MLflow has its results."""
    shutil.rmtree(folder, ignore_errors=True)


def find_latest_unfinished(home: Home) -> str:
    """Return the id of the run with the newest checkpoint; raise `NotFoundError` without one."""
    files = [file for folder in home.checkpoints.glob("*") for file in checkpoints.list_checkpoints(folder)]
    if not files:
        raise NotFoundError(f"no unfinished training in {home.checkpoints}")
    return max(files, key=lambda file: file.stat().st_mtime_ns).parent.name


def find_unfinished(home: Home, id_prefix: str) -> str | None:
    """Return the id of the run with checkpoints whose id starts with `id_prefix` (4 or more characters).

    Returns None without a match. Raises `UserInputError` if several match.
    """
    matches = sorted(
        folder.name for folder in home.checkpoints.glob("*") if folder.name.startswith(id_prefix)
    )
    if len(id_prefix) < 4 or not matches:
        return None
    if len(matches) > 1:
        raise UserInputError(
            f"--resume: got {id_prefix!r}, which matches {', '.join(name[:12] for name in matches)}"
        )
    return matches[0]


def load_resume_config(home: Home, run_id: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a run's last checkpoint.

    Raises `NotFoundError` without a checkpoint, `ConfigError` if `overrides` differ from its config.
    """
    folder = home.checkpoints / run_id
    if not folder.is_dir():
        raise NotFoundError(f"run {run_id[:8]} has no unfinished training in {home.checkpoints}")
    checkpoint = checkpoints.load_checkpoint(folder).checkpoint
    checkpoints.check_compatible(
        checkpoint, checkpoint.config.model_copy(update=overrides), checkpoint.fingerprint
    )
    return checkpoint.config
