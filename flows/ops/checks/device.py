"""The check of the device that networks are trained on."""

from collections.abc import Iterator
from pathlib import Path

import torch

from relearn.flows.ops.checks.check import CheckResult, ok, warning
from relearn.model import devices
from relearn.model.home import Home

NVIDIA_DEVICE_FILE = Path("/dev/nvidiactl")  # exists if the driver of an NVIDIA GPU is loaded


def device(_home: Home) -> Iterator[CheckResult]:
    """Report the best device; warn if this machine has a GPU that torch cannot use."""
    *_, best_device = devices.available_devices()
    if best_device != "cpu":
        name = torch.cuda.get_device_name(best_device) if best_device.startswith("cuda") else "Apple's GPU"
        yield ok(f"{best_device}, {name}")
    elif NVIDIA_DEVICE_FILE.exists():
        yield warning(
            f"this machine has an NVIDIA GPU, and torch {torch.__version__} cannot use it",
            "install a torch built for its CUDA version: python -m torch.utils.collect_env prints it",
        )
    else:
        yield ok(f"cpu, {devices.cpu_count()} cores; torch finds no GPU")
