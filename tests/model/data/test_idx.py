"""Promises of the reader of IDX files: a file is read completely or rejected in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from relearn.model.data.idx import find_idx_or_gz, read_idx
from relearn.model.errors import DataError, InfrastructureError


def encode_idx(array: np.ndarray) -> bytes:
    """Encode a uint8 array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


LABELS = encode_idx(np.arange(4, dtype=np.uint8))
IMAGES = encode_idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
GZIP = gzip.compress(IMAGES, mtime=0)


def test_elements_are_read_in_their_shape(tmp_path: Path) -> None:
    """Elements and shape are those that were written."""
    (tmp_path / "images").write_bytes(IMAGES)
    assert (2, 3, 4) == read_idx(tmp_path / "images", rank=3).shape
    assert list(range(24)) == read_idx(tmp_path / "images", rank=3).ravel().tolist()


def test_gzip_is_read_if_the_file_is_missing(tmp_path: Path) -> None:
    """Downloaded .gz files need no unpacking."""
    (tmp_path / "images.gz").write_bytes(GZIP)
    assert tmp_path / "images.gz" == find_idx_or_gz(tmp_path / "images")
    assert 23 == read_idx(tmp_path / "images", rank=3)[1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it starts with nothing, accepted: 00000803"),
        (b"\0\0\x08", "it starts with 000008, accepted: 00000803"),
        (IMAGES[:9], "ends within its header"),
        (IMAGES[:16], "declares 2 × 3 × 4 = 24 bytes of elements, got 0"),
        (LABELS, "it starts with 00000801, accepted: 00000803"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "it starts with 00000d03, accepted: 00000803"),
        (b"\0\0\x99\x03" + IMAGES[4:], "it starts with 00009903, accepted: 00000803"),
        (b"\0\0\x08\x00" + IMAGES[4:], "it starts with 00000800"),
        (b"\0\0\x08\x04" + IMAGES[4:], "it starts with 00000804"),
        (b"\0\0\x08\xff" + IMAGES[4:], "it starts with 000008ff"),
        (b"<html>not found</html>", "is not an idx3 file of uint8 (images): it starts with 3c68746d"),
        (IMAGES[:-1], "declares 2 × 3 × 4 = 24 bytes of elements, got 23"),
        (IMAGES + b"\0", "declares 2 × 3 × 4 = 24 bytes of elements, got more"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), "declares 0 × 28 × 28 elements"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "elements, accepted: 1 to"),
    ],
)
def test_invalid_file_is_reported_with_its_fault(tmp_path: Path, content: bytes, message: str) -> None:
    """Header, type, rank and lengths are checked before any memory is allocated."""
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "images", rank=3)
    assert message in str(caught.value)
    assert str(tmp_path / "images") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip at all", "is not a complete gzip file"),
        (GZIP[:-12], "is not a complete gzip file"),
        (GZIP[:12] + b"\xff\xff" + GZIP[14:], "is not a complete gzip file"),
        (GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:], "is not a complete gzip file"),
        (GZIP + gzip.compress(b"more", mtime=0), "got more"),
    ],
)
def test_invalid_gzip_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    """No gzip, a truncated one, flipped bits, a wrong checksum or a second member."""
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "images", rank=3)


def test_unreadable_file_is_an_infrastructure_error(tmp_path: Path) -> None:
    """The message has the reason of the operating system."""
    (tmp_path / "images").mkdir()
    with pytest.raises(InfrastructureError, match=r"cannot read .*images: Is a directory"):
        read_idx(tmp_path / "images", rank=3)
