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

from relearn.model import atomic
from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError, IntegrityError, MachineError, NotFoundError, RelearnError
from relearn.model.learner import State

FORMAT = 1  # raised whenever an older reader could not make sense of it
NAME = re.compile(r"\d{5}-\d{9}-[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on: its settings, the data it saw, where it stands, and what was noted.

    `notes` is for whoever saves, anything that JSON holds; the training itself does not read it.
    """

    config: TrainConfig
    fingerprint: str
    state: State
    notes: Any = None


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that can be used, and for each newer file one line why it cannot."""

    checkpoint: Checkpoint
    refused: dict[Path, str] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Put `checkpoint` into `folder`, and keep the one before; all else that was kept there goes.

    Raises `MachineError` where it cannot be written; the ones before it are then still there.
    """
    content = _content(checkpoint)
    epochs, batches = len(checkpoint.state.values["history"]), checkpoint.state.values["pass"][1]
    path = folder / f"{epochs:05d}-{batches:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    try:
        for left in filter(Path.is_file, folder.glob(".*.tmp")):  # by a process that was killed
            left.unlink(missing_ok=True)
        atomic.write_bytes(path, content)
        earlier = [file for file in files(folder) if _place(file) < _place(path)]
        for old in set(files(folder)) - {path, *earlier[-1:]}:
            old.unlink()
    except OSError as error:
        raise MachineError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; it takes "
            f"{len(content):,} bytes"
        ) from None
    return path


def load(folder: Path) -> Found:
    """Read the newest checkpoint of `folder`, or an older one where that cannot be used.

    Raises `NotFoundError` where there is none, `IntegrityError` where none can be used: damaged, of a newer
    format, or not to be read.
    """
    newest_first = files(folder)[::-1]
    if not newest_first:
        raise NotFoundError(f"no checkpoint in {folder}")
    refused: dict[Path, str] = {}
    for path in newest_first:
        try:
            return Found(_read(path), refused)
        except IntegrityError as error:
            refused[path] = str(error)
    raise IntegrityError(f"no checkpoint in {folder} can be used: {'; '.join(refused.values())}")


def set_aside(found: Found) -> None:
    """Rename what was refused: it is kept, but no longer as a checkpoint."""
    for path in found.refused:
        path.rename(path.with_suffix(".refused"))


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, of the earliest point of the training first."""
    return sorted(path for path in folder.glob("*") if NAME.fullmatch(path.name) and path.is_file())


def agree(checkpoint: Checkpoint, config: TrainConfig, fingerprint: str) -> None:
    """Raise what stands against going on from `checkpoint` with `config` on the data of `fingerprint`.

    `ConfigError` names every setting that differs, with both values; `IntegrityError` other data.
    """
    then, now = checkpoint.config.model_dump(), config.model_dump()
    differing = [name for name in then if then[name] != now[name]]
    if differing:
        raise ConfigError(
            [f"{name}: got {now[name]!r}, the checkpoint has {then[name]!r}" for name in differing]
        )
    if checkpoint.fingerprint != fingerprint:
        raise IntegrityError(
            f"the data has changed since the checkpoint: got the fingerprint {fingerprint[:12]}, it was "
            f"{checkpoint.fingerprint[:12]}; train anew"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While this lasts no other process saves to `folder`; `MachineError` where one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise MachineError(f"the training of {folder} goes on in another process") from None


def is_held(folder: Path) -> bool:
    """Whether some process saves to `folder`, on this machine or another one that shares the folder."""
    try:
        if folder.is_dir():
            with held(folder):
                pass
    except MachineError:
        return True
    return False


def _content(checkpoint: Checkpoint) -> bytes:
    header = {
        "format": FORMAT,
        "config": checkpoint.config.model_dump(),
        "fingerprint": checkpoint.fingerprint,
        "values": checkpoint.state.values,
        "notes": checkpoint.notes,
    }
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in checkpoint.state.tensors.items()
    }
    return safetensors.torch.save(tensors, {"relearn": json.dumps(header)})


def _place(file: Path) -> str:
    return file.name.rpartition("-")[0]


def _read(path: Path) -> Checkpoint:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() not in path.name:
        raise IntegrityError(f"{path} is not what was written: its SHA-256 differs from its name")
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
        config, state = TrainConfig.read(header["config"]), State(tensors, header["values"])
        return Checkpoint(config, header["fingerprint"], state, header["notes"])
    except (SafetensorError, LookupError, TypeError, ValueError, RelearnError) as error:
        raise IntegrityError(f"{path} is no checkpoint: {error}") from None
