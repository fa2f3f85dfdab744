"""Public datasets from the net, by torchvision: its mirrors, its checksums."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from relearn.model.errors import MachineError

PATIENCE = 20  # seconds for a mirror to answer


def download(name: str, data: Path, folder: Path, missing: list[str]) -> None:
    """Fetch torchvision's dataset `name` and put its `missing` files into `data / folder`.

    It is fetched and checked in a temporary place beside them: what fails leaves nothing behind. Raises
    MachineError without a network, without an undamaged copy on any mirror, or without room on disk.
    """
    from relearn.model.vision import torchvision

    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data) as temporary, _impatience():
            getattr(torchvision().datasets, name)(temporary, download=True)
            (data / folder).mkdir(parents=True, exist_ok=True)
            for file in missing:
                shutil.move(Path(temporary) / folder / file, data / folder / file)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        raise MachineError(
            f"{name} is not complete in {data / folder} (missing: {', '.join(missing)}) and cannot be "
            f"downloaded: {_last_line(error)}; the dataset digits needs no download"
        ) from None


@contextmanager
def _impatience() -> Iterator[None]:
    """torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
