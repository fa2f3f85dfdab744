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
from torch import Tensor

from model import atomic
from model.config import TrainConfig
from model.errors import ConfigError, IntegrityError, MachineError, NotFoundError, RelearnError
from model.learner import State

FORMAT = 1  # raised whenever an older reader could not make sense of it
KEPT = 2
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
    """The newest checkpoint that is what was written, and one line for each newer one that is not."""

    checkpoint: Checkpoint
    refused: tuple[str, ...] = field(default=())


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Put `checkpoint` into `folder`, and keep the one before; what a killed process left there goes.

    Raises `MachineError` where it cannot be written; the ones before it are then still there.
    """
    content = _content(checkpoint)
    epochs, batches = len(checkpoint.state.values["history"]), checkpoint.state.values["pass"][1]
    path = folder / f"{epochs:05d}-{batches:09d}-{hashlib.sha256(content).hexdigest()}.safetensors"
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        atomic.write_bytes(path, content)
        for old in _oldest_first(folder)[:-KEPT]:
            old.unlink()
    except OSError as error:
        raise MachineError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}; it takes "
            f"{len(content):,} bytes"
        ) from None
    return path


def load(folder: Path) -> Found:
    """Read the newest checkpoint of `folder`, or the one before where that is damaged.

    Raises `NotFoundError` where there is none, `IntegrityError` where all are damaged, and for one of a
    newer format, whatever stands beside it.
    """
    names = _oldest_first(folder)[::-1]
    if not names:
        raise NotFoundError(f"no checkpoint in {folder}")
    refused: list[str] = []
    for path in names:
        try:
            return Found(_read(path), tuple(refused))
        except IntegrityError as error:
            if error.code == "newer_format":
                raise
            refused.append(str(error))
    raise IntegrityError(f"no checkpoint in {folder} can be used: {'; '.join(refused)}")


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


def _content(checkpoint: Checkpoint) -> bytes:
    told = {
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
    return safetensors.torch.save(tensors, {"relearn": json.dumps(told)})


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if NAME.fullmatch(path.name))


def _read(path: Path) -> Checkpoint:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() not in path.name:
        raise IntegrityError(f"{path} is not what was written: its SHA-256 differs from its name")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["relearn"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is no checkpoint: {error}") from None
    return _checked(path, told, tensors)


def _checked(path: Path, told: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    if told.get("format") != FORMAT:
        newer = isinstance(told.get("format"), int) and told["format"] > FORMAT
        raise IntegrityError(
            f"{path}: got format {told.get('format')!r}, accepted: {FORMAT}"
            + ("; a newer Relearn wrote it" if newer else ""),
            "newer_format" if newer else None,
        )
    try:
        return Checkpoint(
            config=TrainConfig.read(told["config"]),
            fingerprint=told["fingerprint"],
            state=State(tensors, told["values"]),
            notes=told["notes"],
        )
    except (KeyError, RelearnError) as error:
        raise IntegrityError(f"{path} is no checkpoint: {error}") from None
