"""Training checkpoints; a resumed training reaches the same weights, bit for bit on a CPU.

A checkpoint is one safetensors file, `EPOCHS-BATCHES-SHA256.safetensors`: tensors, and all other values as
one JSON text in its header. It contains no executable code; the SHA-256 in its name reveals any change.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from relearn.model.config import TrainConfig
from relearn.model.errors import (
    ConfigError,
    CorruptDataError,
    InfrastructureError,
    NotFoundError,
    RelearnError,
)
from relearn.model.file_lock import locked, try_locked
from relearn.model.files import write_bytes_atomically
from relearn.model.training.state import TrainingSnapshot

FORMAT = 5  # incremented when an older version could not read it
FILENAME_PATTERN = re.compile(r"\d{5}-\d{9}-[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to resume a training: settings, data fingerprint and training snapshot.

    `metadata` is any JSON value of the caller; the training does not read it.
    """

    config: TrainConfig
    fingerprint: str
    snapshot: TrainingSnapshot
    metadata: Any = None


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Newest usable checkpoint; `skipped` maps each newer, unusable file to the reason."""

    checkpoint: Checkpoint
    skipped: dict[Path, str] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` to `folder`, and keep only it and the previous one; return its path.

    Raises `InfrastructureError` if it cannot be written; all older checkpoints are then kept.
    """
    content = _serialize(checkpoint)
    epochs, batches = len(checkpoint.snapshot.scalars["history"]), checkpoint.snapshot.scalars["batch_count"]
    path = folder / f"{epochs:05d}-{batches:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    try:
        for stale_file in filter(Path.is_file, folder.glob(".*.tmp")):  # of a killed process
            stale_file.unlink(missing_ok=True)
        write_bytes_atomically(path, content)
        earlier_files = [
            file for file in list_checkpoints(folder) if _training_position(file) < _training_position(path)
        ]
        for old_file in set(list_checkpoints(folder)) - {path, *earlier_files[-1:]}:
            old_file.unlink()
    except OSError as error:
        raise InfrastructureError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; it needs "
            f"{len(content):,} bytes"
        ) from None
    return path


def load_checkpoint(folder: Path) -> LoadedCheckpoint:
    """Read the newest usable checkpoint of `folder`.

    A checkpoint is unusable if it is damaged, unreadable or of a newer format. Raises `NotFoundError` if
    the folder has no checkpoint, `CorruptDataError` if all are unusable.
    """
    newest_first = list_checkpoints(folder)[::-1]
    if not newest_first:
        raise NotFoundError(f"no checkpoint in {folder}")
    skipped: dict[Path, str] = {}
    for path in newest_first:
        try:
            return LoadedCheckpoint(_read_checkpoint(path), skipped)
        except CorruptDataError as error:
            skipped[path] = str(error)
    raise CorruptDataError(f"no checkpoint in {folder} can be used: {'; '.join(skipped.values())}")


def quarantine(loaded: LoadedCheckpoint) -> None:
    """Rename the checkpoints that `loaded` skipped: they are kept and no longer read."""
    for path in loaded.skipped:
        path.rename(path.with_suffix(".quarantined"))


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint files in `folder`, in the order of the training."""
    return sorted(
        path for path in folder.glob("*") if FILENAME_PATTERN.fullmatch(path.name) and path.is_file()
    )


def check_compatible(checkpoint: Checkpoint, config: TrainConfig, fingerprint: str) -> None:
    """Check that a training with `config` on the data of `fingerprint` can resume from `checkpoint`.

    Raises `ConfigError` with every setting that differs and both values, `CorruptDataError` for other data.
    """
    saved, requested = checkpoint.config.model_dump(), config.model_dump()
    differing_names = [name for name in saved if saved[name] != requested[name]]
    if differing_names:
        raise ConfigError(
            [
                f"{name}: got {requested[name]!r}, the checkpoint has {saved[name]!r}"
                for name in differing_names
            ]
        )
    if checkpoint.fingerprint != fingerprint:
        raise CorruptDataError(
            f"the data has changed since the checkpoint: got the fingerprint {fingerprint[:12]}, it was "
            f"{checkpoint.fingerprint[:12]}; start a new training"
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes; raise `InfrastructureError` if it is locked already."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"the training of {folder} runs in another process"):
        yield


def is_locked(folder: Path) -> bool:
    """Return true if a process, on this machine or another one with the same disk, has locked `folder`."""
    if not folder.is_dir():
        return False
    with try_locked(folder / ".lock") as is_free:
        return not is_free


def _serialize(checkpoint: Checkpoint) -> bytes:
    header = {
        "format": FORMAT,
        "config": checkpoint.config.model_dump(),
        "fingerprint": checkpoint.fingerprint,
        "values": checkpoint.snapshot.scalars,
        "notes": checkpoint.metadata,
    }
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in checkpoint.snapshot.tensors.items()
    }
    return safetensors.torch.save(tensors, {"relearn": json.dumps(header)})


def _training_position(file: Path) -> str:
    return file.name.rpartition("-")[0]


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() not in path.name:
        raise CorruptDataError(f"{path} is not what was written: its SHA-256 differs from its name")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["relearn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        if (format_version := header["format"]) != FORMAT:
            hint = "; a newer version of Relearn wrote it" if format_version > FORMAT else ""
            raise ValueError(f"got format {format_version!r}, accepted: {FORMAT}{hint}")
        # `fit` sets the threads before `TrainingState` checks the other values.
        if (threads := header["values"]["threads"]) < 1:
            raise ValueError(f"got {threads} threads, accepted: 1 or more")
        config, snapshot = TrainConfig.parse(header["config"]), TrainingSnapshot(tensors, header["values"])
        return Checkpoint(config, header["fingerprint"], snapshot, header["notes"])
    except (SafetensorError, LookupError, TypeError, ValueError, RelearnError) as error:
        raise CorruptDataError(f"{path} is not a valid checkpoint: {error}") from None
