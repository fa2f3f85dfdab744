"""Device, CPU threads, memory, numeric precision and torch.compile. Weights stay float32."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from relearn.model.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    from relearn.model.config import TrainConfig

Forward = Callable[[Tensor], Tensor]
Item = TypeVar("Item")
Result = TypeVar("Result")

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def resolve_device(name: str) -> torch.device:
    """Return the device for `name`; `auto` takes the first CUDA GPU, else Apple's MPS, else the CPU.

    Raises `ConfigError` with the available devices if `name` is not one of them.
    """
    devices = available_devices()
    device_name = devices[-1] if name == "auto" else {"cuda": "cuda:0"}.get(name, name)
    if device_name not in devices:
        raise ConfigError([f"device: got {name!r}, accepted on this machine: auto, {', '.join(devices)}"])
    return torch.device(device_name)


def available_devices() -> list[str]:
    """List the devices of this machine; the last one is the choice of `auto`."""
    gpus = [f"cuda:{index}" for index in reversed(range(torch.cuda.device_count()))]
    return ["cpu", *(["mps"] if torch.backends.mps.is_available() else []), *gpus]


def set_num_threads(threads: int | None) -> int:
    """Set the number of torch's CPU threads, by default one per core; return it.

    The number changes the last bits of sums. Each run records it.
    """
    torch.set_num_threads(threads or cpu_count())
    return torch.get_num_threads()


def map_on_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call `function` for each item, in as many threads as torch has, each of which computes alone.

    For large images this is faster than all threads for one image, above all beside a busy neighbor: two
    threads then computed 44 images a second each for itself, and 3 together, since they wait for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)


def cpu_count() -> int:
    """Return the number of cores this process may use; on macOS all cores of the machine."""
    with suppress(AttributeError, OSError):  # of macOS, and of containers that refuse to tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def tune_malloc() -> None:
    """Keep up to 64 MB of freed memory in the process, for the next batch.

    By default glibc returns blocks of more than 128 kB to the system, and each new allocation causes page
    faults: 500,000 per epoch of the cnn on MNIST. With this setting two cores train on 15,000 images per
    second instead of 11,500. Does nothing with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # glibc's maximum
        mallopt(M_TRIM_THRESHOLD, 64 * 2**20)


@contextmanager
def translate_oom_error(batch_size: int) -> Iterator[None]:
    """Turn an out-of-memory error into an `InfrastructureError` that proposes a smaller batch."""
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
    """Return a function from inputs to logits, float32, with the precision and compilation of `config`.

    `float32` is full precision, `tf32` rounds the factors of matrix products to 10 bits, `bfloat16`
    computes products in 8 bits. Raises `ConfigError` as `check_precision` does. If torch cannot compile
    the network, the first call of the function raises `InfrastructureError`.
    """
    check_precision(config, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    compute = _compiled(network) if config.compile else network

    def autocast_forward(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return compute(inputs).float()

    return autocast_forward if config.precision == "bfloat16" else compute


def check_precision(config: "TrainConfig", device: torch.device) -> None:
    """Raise `ConfigError` if `device` does not support the precision of `config`."""
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError([f"precision: got 'tf32', accepted on {device}: float32, bfloat16"])


def _compiled(network: nn.Module) -> Forward:
    from torch._dynamo.exc import BackendCompilerFailed  # takes 1.3 s to import

    compiled: Forward = torch.compile(network)

    def compute(inputs: Tensor) -> Tensor:
        try:
            return compiled(inputs)
        except BackendCompilerFailed as error:
            raise InfrastructureError(
                f"torch cannot compile the network: {str(error).splitlines()[0]}"
            ) from None

    return compute
