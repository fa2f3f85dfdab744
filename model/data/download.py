"""Download of public datasets by torchvision (its mirrors, its checksums), and the import of torchvision."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from relearn.model.errors import InfrastructureError

SOCKET_TIMEOUT_SECONDS = 20  # for each response of a mirror

_stubs: list[torch.library.Library] = []


def download_dataset(name: str, data_folder: Path, folder: Path, missing_files: list[str]) -> None:
    """Download torchvision's dataset `name` and move its `missing_files` into `data_folder / folder`.

    The files are downloaded and checked in a temporary folder beside them, so a failure leaves no file
    behind. Raises InfrastructureError without a network, without an undamaged copy on any mirror, or
    without room on disk.
    """
    try:
        data_folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=data_folder) as temp_folder,
            _socket_timeout(),
        ):
            getattr(torchvision().datasets, name)(temp_folder, download=True)
            (data_folder / folder).mkdir(parents=True, exist_ok=True)
            for file in missing_files:
                shutil.move(Path(temp_folder) / folder / file, data_folder / folder / file)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        raise InfrastructureError(
            f"{name} is incomplete in {data_folder / folder} (missing: {', '.join(missing_files)}) and"
            f" cannot be downloaded: {_last_line(error)}; the dataset digits needs no download"
        ) from None


def torchvision() -> Any:
    """Import and return torchvision.

    Its wheel on PyPI is built for the CUDA build of torch. With the CPU build its compiled part does not
    load, and its import fails at two missing operators. We need neither (they are for object detection),
    so they are then declared without a kernel: calling them raises RuntimeError.
    The compiled part is loaded first, since declaring operators that it brings aborts the process.
    """
    spec = find_spec("torchvision")
    if "torchvision" not in sys.modules and not _stubs and spec and spec.origin:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            try:
                torch.ops.load_library(library)
            except OSError:
                _stubs.append(torch.library.Library("torchvision", "FRAGMENT"))  # keeps the operators alive
                for name in ("nms", "qnms"):
                    _stubs[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    return torchvision


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """Set a default timeout for sockets; torchvision sets none."""
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous_timeout)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
