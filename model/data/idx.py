"""Reader of IDX, MNIST's file format: two zero bytes, element type, rank, sizes, elements.

torchvision's reader opens no gzip, allocates 4 GB for a 2 GB file before it checks the header, and rejects a
damaged file with an `AssertionError` without a message.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from relearn.model.errors import DataError, InfrastructureError

UINT8 = 0x08
MAX_BYTES = 2**30  # the largest file of the family (EMNIST) holds 0.55e9


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Read uint8 elements in `rank` dimensions from `path`, or from `path` with ".gz" if only that exists.

    Every length is checked before memory is allocated. Raises DataError for a damaged file.
    """
    path = find_idx_or_gz(path) or path
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(cast(BinaryIO, file), path, rank)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}") from None
    except OSError as error:
        raise InfrastructureError(f"cannot read {path}: {error.strerror}") from None


def find_idx_or_gz(path: Path) -> Path | None:
    """Return the file if it exists, else its gzip, else None."""
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.exists()), None)


def _parse_idx(file: BinaryIO, path: Path, rank: int) -> np.ndarray:
    header, accepted = file.read(4 + 4 * rank), bytes((0, 0, UINT8, rank))
    if header[:4] != accepted:
        kind = f"idx{rank} file of uint8 ({'images' if rank == 3 else 'labels'})"
        got = header[:4].hex() or "nothing"
        raise DataError(f"{path} is not an {kind}: it starts with {got}, accepted: {accepted.hex()}")
    if len(header) < 4 + 4 * rank:
        raise DataError(f"{path} is too small for an IDX file: it ends within its header")
    sizes = np.frombuffer(header, ">u4", offset=4).tolist()
    length, declared = math.prod(sizes), " × ".join(map(str, sizes))
    if not 0 < length <= MAX_BYTES:
        raise DataError(f"{path} declares {declared} elements, accepted: 1 to {MAX_BYTES}")
    content = file.read(length + 1)
    if len(content) != length:
        got = f"{len(content):,}" if len(content) < length else "more"
        raise DataError(f"{path} declares {declared} = {length:,} bytes of elements, got {got}")
    return np.frombuffer(content, np.uint8).reshape(sizes)
