"""torchvision, importable beside every build of torch."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

_stubs: list[torch.library.Library] = []


def torchvision() -> Any:
    """Import and return torchvision.

    Its wheel on PyPI is built for the CUDA torch; beside the CPU build its compiled part does not load
    and its import fails at two missing operators. We need neither (they are for object detection), so
    they are declared then, without a kernel: calling them raises RuntimeError.
    The compiled part is tried first, since declaring what it brings itself aborts the process.
    """
    if "torchvision" not in sys.modules and not hasattr(torch.ops.torchvision, "nms"):
        _load_compiled_part()
    import torchvision

    return torchvision


def _load_compiled_part() -> None:
    found = importlib.util.find_spec("torchvision")
    folders = found.submodule_search_locations if found and found.submodule_search_locations else []
    for library in [file for folder in folders for file in Path(folder).glob("_C*.so")]:
        try:
            torch.ops.load_library(library)
        except OSError:
            _declare_operators()


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _stubs.append(library)  # the operators vanish with the object
