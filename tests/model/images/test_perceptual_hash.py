"""Promises of perceptual hashes: true copies of photos are found, drawings are left alone."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from relearn.model.data.idx import read_idx
from relearn.model.images.decode import open_image
from relearn.model.images.perceptual_hash import (
    MAX_DISTANCE,
    THUMBNAIL_SHAPE,
    compute_perceptual_hashes,
    find_clusters,
)
from relearn.model.images.resize import decode_fitted, resize_batch

LIMIT = 2**26


def hash_files(files: list[bytes]) -> np.ndarray:
    thumbnails = [decode_fitted(open_image(file, LIMIT, LIMIT), THUMBNAIL_SHAPE, "photo") for file in files]
    return compute_perceptual_hashes(np.stack(thumbnails))


def make_copies(file: bytes) -> list[bytes]:
    """Return a photo compressed more, at half the size, brighter, and as PNG."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    variants = [
        (image, "JPEG", {"quality": 50}),
        (image.resize((image.width // 2, image.height // 2)), "JPEG", {"quality": 90}),
        (ImageEnhance.Brightness(image).enhance(1.1), "JPEG", {"quality": 90}),
        (image, "PNG", {}),
    ]
    copies = []
    for variant, file_format, options in variants:
        variant.save(buffer := io.BytesIO(), file_format, **options)
        copies.append(buffer.getvalue())
    return copies


@given(st.lists(st.integers(1, 2**63 - 1), min_size=1, max_size=40), st.data())
@settings(max_examples=80, deadline=None)
def test_clusters_are_those_of_all_pairs(values: list[int], data: st.DataObject) -> None:
    """The bands find every pair of near hashes, and what is near something near is in one cluster."""
    near = data.draw(st.lists(st.tuples(st.sampled_from(values), st.sets(st.integers(0, 62), max_size=5))))
    values += [value ^ sum(1 << bit for bit in bits) for value, bits in near]
    hashes = np.array(values, np.uint64)
    clusters = find_clusters(hashes)
    is_near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= MAX_DISTANCE
    is_near &= (hashes != 0)[:, None] & (hashes != 0)[None] | np.eye(len(hashes), dtype=bool)
    smallest = hashes.copy()
    for _ in hashes:
        smallest = np.where(is_near, smallest[None], np.uint64(2**64 - 1)).min(axis=1)
    assert smallest.tolist() == clusters.tolist()


def test_photos_are_found_in_every_copy(real_data: Path) -> None:
    """No two different ones of 398 photos are near; 98 % of their copies are."""
    paths = sorted((real_data / "ants-bees").rglob("*.jpg"))
    if not paths:
        pytest.skip("RELEARN_DATA has no folder ants-bees")
    files = [path.read_bytes() for path in paths]
    hashes = hash_files(files)
    detailed = hashes[hashes != 0]
    assert len(detailed) == len(np.unique(find_clusters(detailed))) > 0.97 * len(files)
    sample = [index for index in range(0, len(files), 8) if hashes[index]]
    copies = [hash_files(make_copies(files[index])) for index in sample]
    distances = np.bitwise_count(np.stack(copies) ^ hashes[sample][:, None])
    assert (distances <= MAX_DISTANCE).mean() >= 0.98


def test_few_different_photos_of_cifar_collide(real_data: Path) -> None:
    """At most three pairs of 4,000 images of 32 pixels are near; some are true duplicates."""
    archive = real_data / "cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip("RELEARN_DATA has no cifar10-jpeg.tar.gz")
    files = []
    with tarfile.open(archive) as members:
        for number, member in enumerate(members):
            if member.isfile() and number % 10 == 0:
                files.append(members.extractfile(member).read())
            if len(files) == 4000:
                break
    hashes = hash_files(files)
    hashes = hashes[hashes != 0]
    assert len(hashes) - len(np.unique(find_clusters(hashes))) <= 3


def test_drawings_have_no_hash(real_data: Path) -> None:
    """No image of MNIST has enough details, bright on dark or dark on bright."""
    images = read_idx(real_data / "MNIST" / "raw" / "t10k-images-idx3-ubyte", rank=3)[:, None]
    for drawings in (images, 255 - images):
        assert not compute_perceptual_hashes(resize_batch(drawings, THUMBNAIL_SHAPE)).any()
