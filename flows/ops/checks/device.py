"""What networks learn on."""

from collections.abc import Iterator
from pathlib import Path

import torch

from relearn.flows.ops.checks.check import CheckResult, ok, warning
from relearn.model import devices
from relearn.model.home import Home

NVIDIA_DEVICE_FILE = Path("/dev/nvidiactl")  # is there where the driver of an NVIDIA GPU is


def device(_home: Home) -> Iterator[CheckResult]:
    """A GPU where there is one, else the CPU; and whether torch can use the one that is there."""
    *_, best_device = devices.available_devices()
    if best_device != "cpu":
        name = torch.cuda.get_device_name(best_device) if best_device.startswith("cuda") else "Apple's GPU"
        yield ok(f"{best_device}, {name}")
    elif NVIDIA_DEVICE_FILE.exists():
        yield warning(
            f"this machine has an NVIDIA GPU, and torch {torch.__version__} cannot use it",
            "install the torch that is built for its CUDA: python -m torch.utils.collect_env tells which",
        )
    else:
        yield ok(f"cpu, {devices.cpu_count()} cores; torch finds no GPU")
