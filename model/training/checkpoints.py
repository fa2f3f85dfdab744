"""Checkpoints of a training: from any of them it goes on to the same weights, bit for bit on a CPU.

A checkpoint is one safetensors file, `EPOCHS-BATCHES-SHA256.safetensors`: tensors, and in its header one
JSON text with all the rest. Nothing in it can be executed, and its name tells whether it is what was written.
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
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from relearn.model.config import TrainConfig
from relearn.model.errors import (
    ConfigError,
    CorruptDataError,
    InfrastructureError,
    NotFoundError,
    RelearnError,
)
from relearn.model.files import write_bytes_atomically
from relearn.model.training.state import TrainingSnapshot

FORMAT = 2  # raised whenever an older reader could not make sense of it
FILENAME_PATTERN = re.compile(r"\d{5}-\d{9}-[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on: its settings, the data it saw, where it stands, and what was noted.

    `notes` is for whoever saves, anything that JSON holds; the training itself does not read it.
    """

    config: TrainConfig
    fingerprint: str
    snapshot: TrainingSnapshot
    metadata: Any = None


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The newest checkpoint that can be used, and for each newer file one line why it cannot."""

    checkpoint: Checkpoint
    skipped: dict[Path, str] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Put `checkpoint` into `folder`, and keep the one before; all else that was kept there goes.

    Raises `MachineError` where it cannot be written; the ones before it are then still there.
    """
    content = _serialize(checkpoint)
    epochs, batches = len(checkpoint.snapshot.scalars["history"]), checkpoint.snapshot.scalars["metrics"][1]
    path = folder / f"{epochs:05d}-{batches:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    try:
        for stale_file in filter(Path.is_file, folder.glob(".*.tmp")):  # by a process that was killed
            stale_file.unlink(missing_ok=True)
        write_bytes_atomically(path, content)
        earlier_files = [
            file for file in list_checkpoints(folder) if _training_position(file) < _training_position(path)
        ]
        for old_file in set(list_checkpoints(folder)) - {path, *earlier_files[-1:]}:
            old_file.unlink()
    except OSError as error:
        raise InfrastructureError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; it takes "
            f"{len(content):,} bytes"
        ) from None
    return path


def load_checkpoint(folder: Path) -> LoadedCheckpoint:
    """Read the newest checkpoint of `folder`, or an older one where that cannot be used.

    Raises `NotFoundError` where there is none, `IntegrityError` where none can be used: damaged, of a newer
    format, or not to be read.
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
    """Rename what was refused: it is kept, but no longer as a checkpoint."""
    for path in loaded.skipped:
        path.rename(path.with_suffix(".quarantined"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, of the earliest point of the training first."""
    return sorted(
        path for path in folder.glob("*") if FILENAME_PATTERN.fullmatch(path.name) and path.is_file()
    )


def check_compatible(checkpoint: Checkpoint, config: TrainConfig, fingerprint: str) -> None:
    """Raise what stands against going on from `checkpoint` with `config` on the data of `fingerprint`.

    `ConfigError` names every setting that differs, with both values; `IntegrityError` other data.
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
            f"{checkpoint.fingerprint[:12]}; train anew"
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """While this lasts no other process saves to `folder`; `MachineError` where one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InfrastructureError(f"the training of {folder} goes on in another process") from None


def is_locked(folder: Path) -> bool:
    """Whether some process saves to `folder`, on this machine or another one that shares the folder."""
    try:
        if folder.is_dir():
            with lock_folder(folder):
                pass
    except InfrastructureError:
        return True
    return False


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if (found := header["format"]) != FORMAT:
            newer = "; a newer Relearn wrote it" if found > FORMAT else ""
            raise ValueError(f"got format {found!r}, accepted: {FORMAT}{newer}")
        if (
            threads := header["values"]["threads"]
        ) < 1:  # torch takes it before the learner looks at the rest
            raise ValueError(f"got {threads} threads")
        config, state = TrainConfig.parse(header["config"]), TrainingSnapshot(tensors, header["values"])
        return Checkpoint(config, header["fingerprint"], state, header["notes"])
    except (SafetensorError, LookupError, TypeError, ValueError, RelearnError) as error:
        raise CorruptDataError(f"{path} is no checkpoint: {error}") from None
