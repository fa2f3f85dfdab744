"""IDX, the file format of MNIST and its kin: two zero bytes, element type, rank, sizes, elements.

Not torchvision's reader: it opens no gzip, takes 4 GB for a 2 GB file before it looks at the header, and
refuses a damaged file with an `AssertionError` that has no message.
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


def read(path: Path, rank: int) -> np.ndarray:
    """Read uint8 elements in `rank` dimensions from `path`, or from `path` with ".gz" where that is there.

    Every length is checked before memory is taken; DataError says what is wrong with which file.
    """
    path = found(path) or path
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(cast(BinaryIO, file), path, rank)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise InfrastructureError(f"cannot read {path}: {error.strerror}") from None


def found(path: Path) -> Path | None:
    """The file itself, else its gzip, else None."""
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.exists()), None)


def _read(file: BinaryIO, path: Path, rank: int) -> np.ndarray:
    header, accepted = file.read(4 + 4 * rank), bytes((0, 0, UINT8, rank))
    if header[:4] != accepted:
        kind = f"idx{rank} file of uint8 ({'images' if rank == 3 else 'labels'})"
        got = header[:4].hex() or "nothing"
        raise DataError(f"{path} is no {kind}: it starts with {got}, accepted: {accepted.hex()}")
    if len(header) < 4 + 4 * rank:
        raise DataError(f"{path} is too small for an IDX file: it ends within its sizes")
    sizes = np.frombuffer(header, ">u4", offset=4).tolist()
    length, declared = math.prod(sizes), " × ".join(map(str, sizes))
    if not 0 < length <= MAX_BYTES:
        raise DataError(f"{path} declares {declared} elements, accepted: 1 to {MAX_BYTES}")
    content = file.read(length + 1)
    if len(content) != length:
        got = f"{len(content):,}" if len(content) < length else "more"
        raise DataError(f"{path} declares {declared} = {length:,} bytes of elements, got {got}")
    return np.frombuffer(content, np.uint8).reshape(sizes)
