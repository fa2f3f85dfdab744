"""Promises of the reader of MNIST's file format: every file is read whole or refused in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from relearn.model.data import idx
from relearn.model.errors import DataError, InfrastructureError


def content(array: np.ndarray) -> bytes:
    """An IDX file of uint8 elements."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


LABELS = content(np.arange(4, dtype=np.uint8))
IMAGES = content(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
GZIP = gzip.compress(IMAGES, mtime=0)


def test_elements_come_back_in_their_shape(tmp_path: Path) -> None:
    """What was written is read, shape included."""
    (tmp_path / "images").write_bytes(IMAGES)
    assert (2, 3, 4) == idx.read(tmp_path / "images", rank=3).shape
    assert list(range(24)) == idx.read(tmp_path / "images", rank=3).ravel().tolist()


def test_a_gzip_stands_for_its_file(tmp_path: Path) -> None:
    """Files as they are downloaded, with .gz, need no unpacking."""
    (tmp_path / "images.gz").write_bytes(GZIP)
    assert tmp_path / "images.gz" == idx.found(tmp_path / "images")
    assert 23 == idx.read(tmp_path / "images", rank=3)[1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"", "it starts with nothing, accepted: 00000803"),
        (b"\0\0\x08", "it starts with 000008, accepted: 00000803"),
        (IMAGES[:9], "ends within its sizes"),
        (IMAGES[:16], "declares 2 × 3 × 4 = 24 bytes of elements, got 0"),
        (LABELS, "it starts with 00000801, accepted: 00000803"),
        (b"\0\0\x0d\x03" + IMAGES[4:], "it starts with 00000d03, accepted: 00000803"),
        (b"\0\0\x99\x03" + IMAGES[4:], "it starts with 00009903, accepted: 00000803"),
        (b"\0\0\x08\x00" + IMAGES[4:], "it starts with 00000800"),
        (b"\0\0\x08\x04" + IMAGES[4:], "it starts with 00000804"),
        (b"\0\0\x08\xff" + IMAGES[4:], "it starts with 000008ff"),
        (b"<html>not found</html>", "is no idx3 file of uint8 (images): it starts with 3c68746d"),
        (IMAGES[:-1], "declares 2 × 3 × 4 = 24 bytes of elements, got 23"),
        (IMAGES + b"\0", "declares 2 × 3 × 4 = 24 bytes of elements, got more"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), "declares 0 × 28 × 28 elements"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "elements, accepted: 1 to"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, given: bytes, message: str) -> None:
    """Header, type, rank and lengths are checked before any memory is taken."""
    (tmp_path / "images").write_bytes(given)
    with pytest.raises(DataError) as caught:
        idx.read(tmp_path / "images", rank=3)
    assert message in str(caught.value)
    assert str(tmp_path / "images") in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"no gzip at all", "is not a whole gzip file"),
        (GZIP[:-12], "is not a whole gzip file"),
        (GZIP[:12] + b"\xff\xff" + GZIP[14:], "is not a whole gzip file"),
        (GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:], "is not a whole gzip file"),
        (GZIP + gzip.compress(b"more", mtime=0), "got more"),
    ],
)
def test_a_wrong_gzip_is_refused(tmp_path: Path, given: bytes, message: str) -> None:
    """No gzip, a torn one, flipped bits, a wrong checksum, a second member: all refused."""
    (tmp_path / "images.gz").write_bytes(given)
    with pytest.raises(DataError, match=message):
        idx.read(tmp_path / "images", rank=3)


def test_an_unreadable_file_is_the_machines_fault(tmp_path: Path) -> None:
    """What the operating system refuses is told with its reason."""
    (tmp_path / "images").mkdir()
    with pytest.raises(InfrastructureError, match=r"cannot read .*images: Is a directory"):
        idx.read(tmp_path / "images", rank=3)
