"""Promises of the reference set: the same photos for every classifier, in its own shape; never changed."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from relearn.flows.releases.reference_set import ReferenceSet
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, DataError, NotFoundError
from relearn.model.evaluation.groups import number_groups
from relearn.model.home import Home
from relearn.model.inference.model_card import ModelCard
from relearn.model.preparation.originals import (
    MAX_STORED_BYTES,
    MAX_STORED_SIDE,
    read_test_files,
    reduce_file,
)
from relearn.model.preparation.prepared import prepare_dataset
from relearn.serving.releases.store import ReleaseStore
from tests.flows.zoo import animals

COUNT = 40
PHOTOS = np.random.default_rng(0).integers(0, 256, (COUNT, 30, 20, 3), np.uint8)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "data")


@pytest.fixture
def photos(tmp_path: Path) -> TrainConfig:
    """The config of a folder of PNG files of two classes."""
    for index, photo in enumerate(PHOTOS):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(folder / f"{index}.png")
    return TrainConfig(dataset=f"folder:{tmp_path / 'photos'}")


def make_card(**changes: object) -> ModelCard:
    return animals(TrainConfig(model_name="zoo", hidden_sizes=(4,))).card.model_copy(update=changes)


def freeze(config: TrainConfig, home: Home) -> ReferenceSet:
    return ReferenceSet.from_prepared(prepare_dataset(config, home), home)


@pytest.mark.parametrize("side", [8, 24, 48])
def test_each_classifier_sees_the_photos_as_it_learned_them(
    photos: TrainConfig, home: Home, side: int
) -> None:
    """A set that was frozen at 16 pixels has, at any size, the test images of that size, byte for byte."""
    reference = freeze(photos.model_copy(update={"image_size": 16}), home)
    prepared = prepare_dataset(photos.model_copy(update={"image_size": side}), home)
    fitted = reference.fit(make_card(shape=prepared.shape, style=prepared.style))
    assert np.array_equal(prepared.splits.test.images, fitted.images)
    assert np.array_equal(prepared.splits.test.labels, fitted.labels)


def test_arrays_and_rows_are_kept_at_their_own_size(home: Home, tmp_path: Path) -> None:
    """Pixels without a file are kept as they are in the source, whatever size was prepared."""
    labels = np.arange(COUNT) % 2
    np.savez(tmp_path / "arrays.npz", images=PHOTOS, labels=labels)
    config = TrainConfig(dataset=f"npz:{tmp_path / 'arrays.npz'}", image_size=8)
    files = freeze(config, home).files
    kept = {np.asarray(Image.open(io.BytesIO(file))).tobytes() for file in files}
    assert kept <= {photo.tobytes() for photo in PHOTOS}
    assert len(files) == len(kept)


def test_builtin_digits_are_kept_pixel_by_pixel(home: Home) -> None:
    """The gate scores the test images of the training."""
    prepared = prepare_dataset(TrainConfig(dataset="digits"), home)
    fitted = ReferenceSet.from_prepared(prepared, home).fit(
        make_card(shape=prepared.shape, style=prepared.style)
    )
    assert np.array_equal(prepared.splits.test.images, fitted.images)


def test_images_that_any_of_them_learned_from_are_left_out_for_all(photos: TrainConfig, home: Home) -> None:
    """Also if the two see them at different sizes, and one knows only the pixels."""
    reference = freeze(photos.model_copy(update={"image_size": 16}), home)
    small, large = (make_card(shape=(3, side, side), style="photo") for side in (8, 24))
    first = reference.sources[:1]  # as a training keeps it: source and pixels
    from relearn.model.data.splits import hash_contents

    second = hash_contents(reference.fit(large).images)[1:2, None]
    of_small, of_large = reference.fit_unseen([(small, first), (large, second)])
    assert [(3, 8, 8), (3, 24, 24)] == [part.images.shape[1:] for part in (of_small, of_large)]
    assert reference.labels[2:].tolist() == of_small.labels.tolist() == of_large.labels.tolist()
    assert np.array_equal(reference.fit(large).images[2:], of_large.images)
    with pytest.raises(NotFoundError, match="every reference image was used for training"):
        reference.fit_unseen([(small, reference.sources)])


def test_saved_set_is_loaded_unchanged_or_not_at_all(photos: TrainConfig, home: Home) -> None:
    """Files, labels and hashes are compared with the fingerprint; an older format names the way on."""
    releases, reference = ReleaseStore(home.releases_dir("zoo")), freeze(photos, home)
    fingerprint = reference.save(releases)
    loaded = ReferenceSet.load(releases, fingerprint)
    assert list(reference.files) == list(loaded.files)
    assert (reference.classes, reference.source) == (loaded.classes, loaded.source)
    folder = releases.reference_folder(fingerprint)
    labels, content = folder / "labels.npy", (folder / "labels.npy").read_bytes()
    labels.write_bytes(content[:-8] + b"\1\0\0\0\0\0\0\0" if content[-8] == 0 else content[:-8] + bytes(8))
    with pytest.raises(CorruptDataError, match="are not those that were frozen"):
        ReferenceSet.load(releases, fingerprint)
    assert fingerprint == reference.save(releases)  # and a damaged one is written again
    with zipfile.ZipFile(folder / "images.zip", "a") as archive:
        archive.writestr("999999.png", b"another")
    with pytest.raises(CorruptDataError, match="are not those that were frozen"):
        ReferenceSet.load(releases, fingerprint)
    (folder / "metadata.json").write_text('{"source": "digits", "classes": ["a", "b"]}')
    with pytest.raises(CorruptDataError, match="has format 1, accepted: 2; freeze the images again"):
        ReferenceSet.load(releases, fingerprint)


def test_changed_source_is_refused(photos: TrainConfig, home: Home, tmp_path: Path) -> None:
    """The reference never holds other photos than those that were prepared."""
    prepared = prepare_dataset(photos, home)
    for file in (tmp_path / "photos").rglob("*.png"):
        Image.fromarray(PHOTOS[0]).save(file)
    with pytest.raises(DataError, match=r"all . test images have changed since the data were prepared"):
        read_test_files(prepared, home)


def test_large_files_are_kept_smaller() -> None:
    """A photo of several MB becomes a JPEG of up to 1,024 pixels a side; a small file stays byte for byte."""
    noise = np.random.default_rng(1).integers(0, 256, (1500, 2000, 3), np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "JPEG", quality=50)
    assert len(buffer.getvalue()) > MAX_STORED_BYTES
    image = Image.open(io.BytesIO(reduce_file(buffer.getvalue())))
    assert ("JPEG", (MAX_STORED_SIDE, 768)) == (image.format, image.size)
    Image.fromarray(PHOTOS[0]).save(small := io.BytesIO(), "PNG")
    assert small.getvalue() == reduce_file(small.getvalue())


def test_files_with_a_white_of_their_own_become_files_that_declare_it() -> None:
    """In a PNG with values 0 and 1, of which 1 is white, 255 is white afterwards."""
    Image.fromarray(PHOTOS[0, :, :, 0] & 1).save(buffer := io.BytesIO(), "PNG")
    pixels = np.asarray(Image.open(io.BytesIO(reduce_file(buffer.getvalue(), white=1))))
    assert np.array_equal(255 * (PHOTOS[0, :, :, 0] & 1), pixels)


def test_groups_of_the_data_are_those_of_the_gate(home: Home, tmp_path: Path) -> None:
    """Rows of one patient in the reference count as one, also after it was stored."""
    table = pd.DataFrame(PHOTOS[:, :12, :12, 0].reshape(COUNT, 144))
    table.columns = [f"pixel{index}" for index in range(144)]
    table.insert(0, "label", np.arange(COUNT) % 2)
    table.insert(1, "patient", np.arange(COUNT) // 4)
    table.to_csv(tmp_path / "scans.csv", index=False)
    releases = ReleaseStore(home.releases_dir("zoo"))
    reference = freeze(TrainConfig(dataset=str(tmp_path / "scans.csv")), home)
    loaded = ReferenceSet.load(releases, reference.save(releases))
    (images,) = loaded.fit_unseen([(make_card(style="photo"), np.empty((0, 2), np.uint64))])
    groups = number_groups(images.groups)
    assert groups is not None
    assert [4] * len(np.unique(groups)) == np.bincount(groups).tolist()
