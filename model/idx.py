"""IDX, the file format of MNIST and its kin: two zero bytes, element type, rank, sizes, elements."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from relearn.model.errors import DataError, MachineError

UINT8 = 0x08
LARGEST = 2**30  # bytes; the largest file of the family (EMNIST) holds 0.55e9


def read(path: Path, rank: int) -> np.ndarray:
    """Read uint8 elements in `rank` dimensions from `path`, or from `path` with ".gz" where that is there.

    Every length is checked before memory is taken; DataError says what is wrong with which file.
    """
    path = found(path) or path
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            sizes = _sizes(file.read(4), file.read(4 * rank), rank, path)
            length = math.prod(sizes)
            if not 0 < length <= LARGEST:
                raise DataError(f"{path} declares {_by(sizes)} elements, accepted: 1 to {LARGEST}")
            content = file.read(length + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from None
    if len(content) != length:
        got = f"{len(content):,}" if len(content) < length else "more"
        raise DataError(f"{path} declares {_by(sizes)} = {length:,} bytes of elements, got {got}")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def found(path: Path) -> Path | None:
    """The file itself, else its gzip, else None."""
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.exists()), None)


def _sizes(magic: bytes, sizes: bytes, rank: int, path: Path) -> tuple[int, ...]:
    if len(magic) < 4:
        raise DataError(f"{path} is too small for an IDX file: {len(magic)} bytes")
    if magic[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file: it starts with {magic.hex()}, accepted: 0000080{rank}")
    if magic[3] != rank:
        raise DataError(
            f"{path} holds idx{magic[3]}, accepted: idx{rank} ({'images' if rank == 3 else 'labels'})"
        )
    if magic[2] != UINT8:
        raise DataError(f"{path} holds elements of type 0x{magic[2]:02X}, accepted: 0x08 (uint8)")
    if len(sizes) < 4 * rank:
        raise DataError(f"{path} is too small for an IDX file: it ends within its sizes")
    return tuple(np.frombuffer(sizes, ">u4").tolist())


def _by(sizes: tuple[int, ...]) -> str:
    return " × ".join(map(str, sizes))
