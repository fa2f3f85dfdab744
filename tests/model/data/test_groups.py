"""Promises of groups: images that belong together are in one split, and none is in two."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.groups import assign_groups
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import Splits, hash_sources, split_dataset
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images.resize import resize_batch
from relearn.model.preparation.prepared import prepare_dataset

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 1, 8, 8), np.uint8)


def make_photos(count: int, side: int = 48) -> np.ndarray:
    """Make different images with the details of photos, uint8 (count, 3, side, side)."""
    return resize_batch(RNG.integers(0, 256, (count, 3, 12, 12), np.uint8), (3, side, side))


def places_by_split(splits: Splits) -> dict[str, set[str]]:
    return {name: set(split.places.tolist()) for name, split in vars(splits).items()}


@given(st.lists(st.integers(0, 12), min_size=30, max_size=300), st.integers(2, 4))
@settings(max_examples=50, deadline=None)
def test_named_groups_never_cross_a_split(numbers: list[int], classes: int) -> None:
    """Groups of any sizes and classes stay together; an image without a name stands alone."""
    names = np.array([f"patient {number}" if number else "" for number in numbers])
    images = LabelledImages(IMAGES[: len(names)], np.arange(len(names)) % classes, places=names)
    parts = assign_groups({"train": images}, "photo", [names])
    dataset = Dataset("some", "some", tuple("abcd"[:classes]), "photo", parts["train"], None)
    train, validation, test = (
        names - {""} for names in places_by_split(split_dataset(dataset, 0.2, 0.2)).values()
    )
    assert not train & validation | train & test | validation & test


def test_groups_that_share_an_image_are_one() -> None:
    """A duplicate under two names joins them, also over a third."""
    images = IMAGES[[0, 1, 1, 2, 2, 3]]
    names = np.array(["a", "a", "b", "b", "c", "d"])
    parts = assign_groups({"train": LabelledImages(images, np.zeros(6, int))}, "photo", [names])
    groups = parts["train"].groups[:, 0].tolist()
    assert 1 == len(set(groups[:5]))
    assert groups[5] != groups[0]


def test_group_column_of_a_table_keeps_rows_together(tmp_path: Path) -> None:
    """A column named patient is found, and its rows share a split; the first lines say so."""
    table = pd.DataFrame(IMAGES[:, 0].reshape(300, 64), columns=[f"pixel{index}" for index in range(64)])
    table.insert(0, "label", np.arange(300) % 2)
    table.insert(1, "patient", np.arange(300) // 6)
    table.to_csv(tmp_path / "scans.csv", index=False)
    dataset = load_dataset(TrainConfig(dataset=str(tmp_path / "scans.csv")), Home(tmp_path, tmp_path))
    assert "Groups: column patient; the images of a group share a split" in dataset.description.summarize()
    splits = split_dataset(dataset, 0.2, 0.2)
    rows = [
        [int(place.rpartition(" ")[2]) - 1 for place in places] for places in places_by_split(splits).values()
    ]
    train, validation, test = ({row // 6 for row in part} for part in rows)
    assert 50 == len(train) + len(validation) + len(test) == len(train | validation | test)


def test_group_column_of_a_file_list_keeps_files_together(tmp_path: Path) -> None:
    """Rows of image files are grouped as rows of pixels are."""
    (tmp_path / "scans").mkdir()
    for index, image in enumerate(IMAGES[:60]):
        Image.fromarray(image[0]).save(tmp_path / "scans" / f"{index}.png")
    rows = {
        "file": [f"{index}.png" for index in range(60)],
        "label": ["ab"[index % 2] for index in range(60)],
    }
    pd.DataFrame(rows | {"subject": [f"s{index // 4}" for index in range(60)]}).to_csv(
        tmp_path / "scans" / "labels.csv", index=False
    )
    dataset = load_dataset(TrainConfig(dataset=str(tmp_path / "scans")), Home(tmp_path, tmp_path))
    assert 15 == len(np.unique(dataset.train.groups[:, 0]))


def test_folders_are_groups_if_the_description_says_so(tmp_path: Path) -> None:
    """`group_level = 1` makes a group of each folder that holds images."""
    for index, image in enumerate(IMAGES[:80]):
        folder = tmp_path / "scans" / "ab"[index % 2] / f"patient{index // 8}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{index}.png")
    (tmp_path / "dataset.toml").write_text('source = "scans"\nlayout = "folder"\ngroup_level = 1\n')
    home = Home(tmp_path / "home", tmp_path)
    dataset = load_dataset(TrainConfig(dataset=str(tmp_path / "dataset.toml")), home)
    assert 10 == len(np.unique(dataset.train.groups[:, 0]))


@pytest.mark.parametrize(
    ("settings_text", "message"),
    [
        ("group_level = 5", "group_level: got 5, but no image lies in so many folders, accepted: 1 to 3"),
        (
            'groups_column = "patient"',
            "groups_column: got 'patient' for data of layout folder",
        ),
    ],
)
def test_setting_without_a_group_is_an_error(settings_text: str, message: str, tmp_path: Path) -> None:
    """Else images that belong together would be in several splits, and nobody would notice."""
    for index, image in enumerate(IMAGES[:20]):
        folder = tmp_path / "scans" / "ab"[index % 2] / f"patient{index // 4}" / "day1"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{index}.png")
    text = f'source = "scans"\nlayout = "folder"\nclass_level = 3\n{settings_text}\n'
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(TrainConfig(dataset=str(tmp_path / "dataset.toml")), Home(tmp_path, tmp_path))


def test_unknown_group_column_is_an_error(tmp_path: Path) -> None:
    """The message has the columns of the table."""
    table = pd.DataFrame(IMAGES[:, 0].reshape(300, 64), columns=[f"pixel{index}" for index in range(64)])
    table.insert(0, "label", np.arange(300) % 2)
    table.to_csv(tmp_path / "scans.csv", index=False)
    (tmp_path / "dataset.toml").write_text('source = "scans.csv"\ngroups_column = "patiant"\n')
    with pytest.raises(DataError, match=r"groups_column: got 'patiant', accepted: a column of .*: 'label'"):
        load_dataset(TrainConfig(dataset=str(tmp_path / "dataset.toml")), Home(tmp_path, tmp_path))


def encode(image: np.ndarray, **options: object) -> bytes:
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("side", [16, 40, 64])
def test_copies_of_a_photo_share_a_split_at_any_size(tmp_path: Path, side: int) -> None:
    """Three files of a photo, one compressed more, one with another pixel, are in one split."""
    photos = make_photos(60, 100)
    changed = photos.copy()
    changed[:, :, 50, 50] ^= 1
    for index in range(60):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        versions = (
            encode(photos[index], quality=95),
            encode(photos[index], quality=70),
            encode(changed[index], quality=95),
        )
        for number, content in enumerate(versions):
            (folder / f"{index}-{number}.jpg").write_bytes(content)
    config = TrainConfig(dataset=str(tmp_path / "photos"), image_size=side)
    dataset = load_dataset(config, Home(tmp_path / "home", tmp_path))
    photos_by_split = [
        {Path(place).name.partition("-")[0] for place in places}
        for places in places_by_split(split_dataset(dataset, 0.2, 0.2)).values()
    ]
    assert 60 == sum(map(len, photos_by_split))


def test_training_images_that_are_nearly_test_images_are_left_out(home: Home, tmp_path: Path) -> None:
    """In data with an own test split the twin leaves training, counted; the test images stay."""
    photos = make_photos(100)
    train = np.concatenate([photos[:80], photos[80:85] ^ (np.arange(48) == 20).astype(np.uint8)])
    np.savez(
        tmp_path / "own.npz",
        x_train=train,
        y_train=np.arange(85) % 2,
        x_test=photos[80:],
        y_test=np.arange(20) % 2,
    )
    prepared = prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'own.npz'}"), home)
    assert (20, 80) == (
        sum(prepared.counts["test"]),
        sum(sum(prepared.counts[name]) for name in ("train", "validation")),
    )
    (finding,) = [finding for finding in prepared.findings if finding.check == "shared group"]
    assert 5 == finding.count
    assert np.array_equal(photos[80:], prepared.splits.test.images)


def test_images_that_are_all_alike_are_not_grouped() -> None:
    """Where a tenth of the data would be one group, as X-rays in one pose, each image stands alone."""
    photo = make_photos(1)[0].astype(int)
    alike = np.clip(photo + RNG.integers(-3, 4, (200, *photo.shape)), 0, 255).astype(np.uint8)
    parts = assign_groups({"train": LabelledImages(alike, np.arange(200) % 2)}, "photo")
    assert 200 == len(np.unique(parts["train"].groups[:, 0]))


def test_drawings_are_never_grouped(home: Home) -> None:
    """Digits stand alone, each with the hash of its source."""
    digits = load_dataset(TrainConfig(dataset="digits"), home)
    assert np.array_equal(hash_sources(digits.train), digits.train.groups)


def test_mnist_is_never_grouped(home: Home, real_data: Path) -> None:
    """So its splits are those of its pixels."""
    mnist = load_dataset(TrainConfig(dataset="mnist"), Home(home.root, real_data))
    for split in mnist.splits.values():
        assert np.array_equal(split.sources, split.groups)
