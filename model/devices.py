"""Where a training runs, in which precision it computes, and whether it is compiled. Weights stay float32."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from relearn.model.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    from relearn.model.config import TrainConfig

Forward = Callable[[Tensor], Tensor]

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one, else the CPU.

    Raises `ConfigError` with the devices of this machine when `name` is none of them.
    """
    devices = available_devices()
    device_name = devices[-1] if name == "auto" else {"cuda": "cuda:0"}.get(name, name)
    if device_name not in devices:
        raise ConfigError([f"device: got {name!r}, on this machine: auto, {', '.join(devices)}"])
    return torch.device(device_name)


def available_devices() -> list[str]:
    """The devices of this machine, the one that `auto` takes last."""
    gpus = [f"cuda:{index}" for index in reversed(range(torch.cuda.device_count()))]
    return ["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *gpus]


def set_num_threads(threads: int | None) -> int:
    """Let torch compute on `wanted` CPU threads, by default one a core; returns how many it took.

    Sums over other thread counts differ in their last bits, so the number belongs to a run's record.
    """
    torch.set_num_threads(threads or cpu_count())
    return torch.get_num_threads()


def cpu_count() -> int:
    """How many cores this process may use; macOS tells only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tune_malloc() -> None:
    """Have this process keep the memory that torch frees, up to 64 MB, for the next batch to use.

    Left alone, glibc hands pieces of more than 128 kB back to the system, which then clears them anew page
    by page: 500,000 times an epoch of the cnn on MNIST. Kept, two cores learn from 15,000 images a second
    instead of 11,500. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
        mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """What does not fit into memory inside is one line that proposes a smaller batch."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        smaller_batch_size = max(1, batch_size // 2)
        raise InfrastructureError(
            f"batches of {batch_size} images do not fit into memory, try --batch-size {smaller_batch_size}"
        ) from None


def build_forward(config: "TrainConfig", network: nn.Module, device: torch.device) -> Forward:
    """Return `network` as a function from inputs to logits, float32, in the precision that `config` asks for.

    `float32` is the arithmetic of the plain loop, `tf32` rounds the factors of matrix products to 10 bits,
    `bfloat16` computes products in 8 bits. What is compiled raises `MachineError` at its first call where
    torch cannot compile it; for `ConfigError` see `check_precision`.
    """
    check_precision(config, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    compute = _compiled(network) if config.compile else network

    def autocast_forward(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return compute(inputs).float()

    return autocast_forward if config.precision == "bfloat16" else compute


def check_precision(config: "TrainConfig", device: torch.device) -> None:
    """Raise `ConfigError` for a precision that `device` does not have."""
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError([f"precision: got 'tf32', accepted on {device}: float32, bfloat16"])


def _compiled(network: nn.Module) -> Forward:
    from torch._dynamo.exc import BackendCompilerFailed  # 1.3 s

    compiled: Forward = torch.compile(network)

    def compute(inputs: Tensor) -> Tensor:
        try:
            return compiled(inputs)
        except BackendCompilerFailed as error:
            raise InfrastructureError(
                f"torch cannot compile the network: {str(error).splitlines()[0]}"
            ) from None

    return compute
