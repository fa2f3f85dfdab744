"""What networks learn on."""

from collections.abc import Iterator
from pathlib import Path

import torch

from relearn.flows.doctor import Found, warning, well
from relearn.model import devices
from relearn.model.home import Home

DRIVER = Path("/dev/nvidiactl")  # is there where the driver of an NVIDIA GPU is


def device(_home: Home) -> Iterator[Found]:
    """A GPU where there is one, else the CPU; and whether torch can use the one that is there."""
    *_, chosen = devices.available()
    if chosen != "cpu":
        name = torch.cuda.get_device_name(chosen) if chosen.startswith("cuda") else "Apple's GPU"
        yield well(f"{chosen}, {name}")
    elif DRIVER.exists():
        yield warning(
            f"this machine has an NVIDIA GPU, and torch {torch.__version__} cannot use it",
            "install the torch that is built for its CUDA: python -m torch.utils.collect_env tells which",
        )
    else:
        yield well(f"cpu, {devices.cores()} cores; torch finds no GPU")
