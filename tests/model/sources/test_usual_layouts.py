"""Promises of data as people have it: read rightly, or refused with the choice, never silently wrong."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import default_model_name, load_dataset
from relearn.model.description.source_description import AmbiguousDataError
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images import decode
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.sources.inspect import inspect_source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 256, (90, 64))
IMAGES = PIXELS.reshape(90, 8, 8).astype(np.uint8)
LETTERS = np.array(list("abc"))[np.arange(90) % 3]
COLOR = RNG.integers(0, 256, (90, 8, 8, 3), np.uint8)
FRAME = pd.DataFrame(PIXELS, columns=[f"pixel{index}" for index in range(64)])

Load = Callable[..., Dataset]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A function that loads a path of the test's folder, with lines of a dataset.toml if there are any."""

    def load_path(name: str, *lines: str, **settings: Any) -> Dataset:
        path = tmp_path / name
        if lines:
            (tmp_path / "dataset.toml").write_text("\n".join([f'source = "{name}"', *lines]))
            path = tmp_path / "dataset.toml"
        return load_dataset(TrainConfig(dataset=str(path), **settings), Home(tmp_path / "home", tmp_path))

    return load_path


def save(file: Path, pixels: np.ndarray, image_format: str = "PNG", **options: Any) -> None:
    """Write an image in a format, whatever the suffix says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, image_format, **options)


def encode(pixels: np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, image_format, **options)
    return content.getvalue()


def multiset(images: np.ndarray, labels: Any) -> list[tuple[str, bytes]]:
    """Class names and pixels without an order."""
    return sorted((str(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


def contents(dataset: Dataset, split: LabelledImages | None = None) -> list[tuple[str, bytes]]:
    """The multiset of a split, by default train."""
    split = split or dataset.train
    return multiset(split.images, np.array(dataset.classes)[split.labels])


ALL = multiset(IMAGES, LETTERS)


def subset(selected: Any) -> list[tuple[str, bytes]]:
    return multiset(IMAGES[selected], LETTERS[selected])


# Tables of pixels


@pytest.mark.parametrize("order", ["lexicographic", "shuffled"])
def test_numbers_in_column_names_give_the_order_of_pixels(tmp_path: Path, load: Load, order: str) -> None:
    """D1: pixel1, pixel10, pixel11, pixel2 … are put in their order."""
    columns = sorted(FRAME) if order == "lexicographic" else list(RNG.permutation(FRAME.columns))
    FRAME[columns].assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    assert ALL == contents(load("a.csv"))


def test_rows_and_columns_in_names_give_the_order_of_pixels(tmp_path: Path, load: Load) -> None:
    """Names such as 1x1, 1x2 … 8x8 are read in their order; in another one, x and y are a choice."""
    frame = FRAME.set_axis([f"{row}x{column}" for row in range(1, 9) for column in range(1, 9)], axis=1)
    frame.assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    assert ALL == contents(load("a.csv"))
    frame[sorted(frame, reverse=True)].assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(AmbiguousDataError, match="the first is the row") as caught:
        load("a.csv")
    (_, rows_first), (_, columns_first) = caught.value.readings
    assert ALL == contents(load("a.csv", rows_first))
    assert multiset(IMAGES.transpose(0, 2, 1), LETTERS) == contents(load("a.csv", columns_first))


def test_interleaved_colours_are_a_choice(tmp_path: Path, load: Load) -> None:
    """D2: r, g, b of each pixel, or planes: refused, then read as dataset.toml says."""
    pd.DataFrame(COLOR.reshape(90, -1)).assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(AmbiguousDataError, match="interleaved = true"):
        load("a.csv")
    expected = multiset(COLOR.transpose(0, 3, 1, 2), LETTERS)
    assert expected == contents(load("a.csv", "interleaved = true"))
    assert expected != contents(load("a.csv", "interleaved = false"))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: pd.DataFrame(PIXELS).assign(character=LETTERS).to_csv(file, index=False),
        lambda file: FRAME.assign(character=LETTERS).to_csv(file),
        lambda file: (
            pd.DataFrame(PIXELS).assign(label=np.arange(90) % 3).to_csv(file, header=False, index=False)
        ),
        lambda file: FRAME.assign(character=np.arange(90) % 3).to_csv(file),
        lambda file: FRAME.assign(character=LETTERS).to_csv(file, header=False, index=False),
    ],
    ids=["other name", "index first", "no header", "index and numbers", "text without header"],
)
def test_label_column_is_found_wherever_it_is(tmp_path: Path, load: Load, write: Any) -> None:
    """D3: last, under another name, behind pandas' index, or without a header."""
    write(tmp_path / "a.csv")
    dataset = load("a.csv")
    letters = [dict(zip("012abc", "abcabc", strict=True))[name] for name in dataset.classes]
    assert ALL == multiset(dataset.train.images, np.array(letters)[dataset.train.labels])


@pytest.mark.parametrize("name", ["label", 64])
def test_header_of_numbers_is_a_header(tmp_path: Path, load: Load, name: Any) -> None:
    """D4: `label,0,1,2 …`, in any order, and `0,1,2 …` with the label in the last column."""
    frame = pd.DataFrame(PIXELS)
    frame.insert(0 if name == "label" else 64, name, LETTERS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert ALL == contents(load("a.csv"))
    if name == "label":
        frame[["label", *sorted(range(64), key=str)]].to_csv(tmp_path / "a.csv", index=False)
        assert ALL == contents(load("a.csv"))


@pytest.mark.parametrize(
    ("values", "choice"),
    [
        ((PIXELS > 128).astype(int), ""),
        (PIXELS // 16, "scale = 15"),
        (PIXELS / 255, ""),
        (PIXELS * 16, "scale = 4095"),
    ],
    ids=["binary", "0 to 15", "fractions", "12 bits"],
)
def test_range_of_values_decides_what_is_white(
    tmp_path: Path, load: Load, values: np.ndarray, choice: str
) -> None:
    """D7: 0 and 1, and fractions, are read; other small or large numbers only with a choice."""
    pd.DataFrame(values).assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    if choice:
        with pytest.raises(AmbiguousDataError, match=choice):
            load("a.csv")
    expected = {"": values * 255, "scale = 15": values * 17, "scale = 4095": values // 16}[choice]
    if not choice and values.max() > 1:
        expected = values
    images = np.round(expected).astype(np.uint8)
    assert multiset(images, LETTERS) == contents(load("a.csv", choice) if choice else load("a.csv"))


def test_negative_numbers_are_refused(tmp_path: Path, load: Load) -> None:
    """D31: values from −1 to 1 have no white."""
    pd.DataFrame(PIXELS / 127.5 - 1).assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="accepted: whole numbers from 0 to 255, or fractions from 0 to 1"):
        load("a.csv")


def test_pixels_in_one_text_with_usage(tmp_path: Path, load: Load) -> None:
    """D22: the form of FER2013; which of PublicTest and PrivateTest is the test split is a choice."""
    usage = np.array(["Training", "Training", "PublicTest", "PrivateTest"])[np.arange(90) % 4]
    texts = [" ".join(map(str, row)) for row in PIXELS]
    pd.DataFrame({"emotion": LETTERS, "pixels": texts, "Usage": usage}).to_csv(
        tmp_path / "a.csv", index=False
    )
    with pytest.raises(AmbiguousDataError, match="PublicTest is the validation split"):
        load("a.csv")
    line = 'splits = {train = ["Training"], validation = ["PublicTest"], test = ["PrivateTest"]}'
    dataset = load("a.csv", line)
    assert subset(np.arange(90) % 4 < 2) == contents(dataset)
    assert subset(np.arange(90) % 4 == 2) == contents(dataset, dataset.validation)
    assert subset(np.arange(90) % 4 == 3) == contents(dataset, dataset.test)


def test_id_and_split_columns(tmp_path: Path, load: Load) -> None:
    """D22: an id is not read, and said; a column of train and test is the split."""
    split = np.where(np.arange(90) % 5, "train", "test")
    FRAME.assign(id=range(90), label=LETTERS, Split=split).to_csv(tmp_path / "a.csv", index=False)
    dataset = load("a.csv")
    assert subset(split == "train") == contents(dataset)
    assert subset(split == "test") == contents(dataset, dataset.test)
    assert ("Column 'id' is not read",) == dataset.description.notes


@pytest.mark.parametrize("kind", ["gzip", "comments", "spaces", "one-hot", "floats"])
def test_other_forms_of_csv(tmp_path: Path, load: Load, kind: str) -> None:
    """D27: compressed, with comment lines, separated by spaces, labels one-hot or as 1.0."""
    file, frame = tmp_path / "a.csv", FRAME.assign(label=LETTERS)
    if kind == "gzip":
        file.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    elif kind == "comments":
        file.write_text(f"# made today\n# by me\n{frame.to_csv(index=False)}")
    elif kind == "spaces":
        frame.to_csv(file, index=False, sep=" ")
    elif kind == "one-hot":
        FRAME.assign(**{name: (LETTERS == name).astype(int) for name in "abc"}).to_csv(file, index=False)
    else:
        FRAME.assign(label=np.arange(90) % 3 + 0.0).to_csv(file, index=False)
    dataset = load("a.csv")
    assert (("0", "1", "2") if kind == "floats" else ("a", "b", "c")) == dataset.classes
    assert ALL == multiset(dataset.train.images, np.array(list("abc"))[dataset.train.labels])


# Parquet


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_parquet_with_path_image_and_labels(tmp_path: Path, load: Load, image_format: str) -> None:
    """D6, D27: the path column is not the label, and the bytes may be of any format."""
    options = {"lossless": True} if image_format == "WEBP" else {}
    images = [{"bytes": encode(image, image_format, **options), "path": None} for image in IMAGES]
    paths = [f"x/{index}.png" for index in range(90)]
    table = pa.table({"image_file_path": paths, "image": images, "labels": LETTERS.tolist()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ALL == contents(load("a.parquet"))


def test_folder_of_parquet_shards(tmp_path: Path, load: Load) -> None:
    """D27: shards are read together, and their names are splits; a column `picture` holds the images."""
    for name, selected in (
        ("train-0-of-2", slice(0, 30)),
        ("train-1-of-2", slice(30, 60)),
        ("test-0", slice(60, 90)),
    ):
        table = {
            "picture": [encode(image) for image in IMAGES[selected]],
            "label": LETTERS[selected].tolist(),
        }
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / "set" / f"{name}.parquet")
    dataset = load("set")
    assert subset(slice(0, 60)) == contents(dataset)
    assert subset(slice(60, 90)) == contents(dataset, dataset.test)


# Folders


def write_folders(root: Path, suffix: str = ".png", name: Callable[[int], str] | None = None) -> None:
    for index, image in enumerate(IMAGES):
        save(root / (name(index) if name else f"{LETTERS[index]}/{index}{suffix}"), image)


def test_flat_split_folders_are_a_choice(tmp_path: Path, load: Load) -> None:
    """D5: train/cat.1.png and test/cat.2.png: two classes, or two splits with the class in the name."""
    for index, image in enumerate(IMAGES):
        save(tmp_path / "set" / ("train" if index < 60 else "test") / f"{LETTERS[index]}.{index}.png", image)
    with pytest.raises(AmbiguousDataError, match='layout = "file_names"'):
        load("set")
    dataset = load("set", 'layout = "file_names"')
    assert subset(slice(0, 60)) == contents(dataset)
    assert subset(slice(60, 90)) == contents(dataset, dataset.test)
    assert ("test", "train") == load("set", "splits = {}").classes


def test_masks_of_0_and_1(tmp_path: Path, load: Load) -> None:
    """D7: gray PNGs of 0 and 1 are black and white."""
    for index, image in enumerate(IMAGES):
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", (image > 128).astype(np.uint8))
    assert multiset((IMAGES > 128).astype(np.uint8) * 255, LETTERS) == contents(load("set"))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_12_of_16_bits_are_a_choice(tmp_path: Path, load: Load, image_format: str) -> None:
    """D8: 16 bits without a value above half are refused; full range is read."""
    for index, image in enumerate(IMAGES):
        save(tmp_path / "dim" / LETTERS[index] / str(index), image.astype(np.uint16) * 16, image_format)
        save(tmp_path / "full" / LETTERS[index] / str(index), image.astype(np.uint16) * 257, image_format)
    with pytest.raises(AmbiguousDataError, match="scale = 4095"):
        load("dim")
    assert ALL == contents(load("dim", "scale = 4095"))
    assert multiset(IMAGES // 16, LETTERS) == contents(load("dim", "scale = 65535"))
    assert ALL == contents(load("full"))


def test_content_decides_the_format(tmp_path: Path, load: Load) -> None:
    """D9: all formats mixed, with wrong suffixes or none."""
    formats: list[tuple[str, str, dict[str, Any]]] = [
        (".png", "PNG", {}),
        (".jfif", "PNG", {}),
        ("", "BMP", {}),
        (".TIFF", "TIFF", {}),
        (".webp", "WEBP", {"lossless": True}),
        (".gif", "GIF", {}),
        (".jpg", "GIF", {}),
    ]
    for index, image in enumerate(IMAGES):
        suffix, image_format, options = formats[index % len(formats)]
        save(tmp_path / "set" / LETTERS[index] / f"{index}{suffix}", image, image_format, **options)
    assert ALL == contents(load("set"))


def test_sub_folders_of_a_class_are_read(tmp_path: Path, load: Load) -> None:
    """D10: as torchvision and Keras do."""
    write_folders(
        tmp_path / "set", name=lambda index: f"{LETTERS[index]}/{'sub/deep/' * (index % 2)}{index}.png"
    )
    assert ALL == contents(load("set"))


def test_unlabelled_test_images_are_a_choice(tmp_path: Path, load: Load) -> None:
    """D11: test/test/*.png: no labels, or a class of its own."""
    write_folders(
        tmp_path / "set",
        name=lambda index: f"train/{LETTERS[index]}/{index}.png" if index < 60 else f"test/test/{index}.png",
    )
    with pytest.raises(AmbiguousDataError, match=r'ignore = \["test"\]'):
        load("set")
    dataset = load("set", 'ignore = ["test"]', "[left_out]", '"ignored, as the description says" = 30')
    assert (subset(slice(0, 60)), None) == (contents(dataset), dataset.test)


def test_test_classes_unknown_to_train_are_refused(tmp_path: Path, load: Load) -> None:
    """D11: an npz whose test labels no training image has."""
    np.savez(
        tmp_path / "a.npz", x_train=IMAGES[:60], y_train=LETTERS[:60], x_test=IMAGES[60:], y_test=["d"] * 30
    )
    with pytest.raises(DataError, match="no training image has the class d of the test images"):
        load("a.npz")


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_valid", "Y_valid", "X_test", "Y_test"),
    ],
)
@pytest.mark.parametrize("form", ["gray", "first", "last", "one-hot"])
def test_arrays_of_three_splits(tmp_path: Path, load: Load, names: tuple[str, ...], form: str) -> None:
    """D12, D21: Keras's and MedMNIST's names, labels (n, 1) or one-hot, channels first or last."""
    images = {"gray": IMAGES, "first": COLOR.transpose(0, 3, 1, 2), "last": COLOR, "one-hot": IMAGES}[form]
    labels = np.eye(3)[np.arange(90) % 3] if form == "one-hot" else (np.arange(90) % 3)[:, None]
    parts = (slice(0, 50), slice(50, 70), slice(70, 90))
    arrays = {}
    for part, (image_key, label_key) in zip(parts, zip(names[::2], names[1::2], strict=True), strict=True):
        arrays |= {image_key: images[part], label_key: labels[part]}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = load("a.npz")
    expected = images if form in ("gray", "one-hot", "first") else images.transpose(0, 3, 1, 2)
    numbers = np.arange(90) % 3
    for part, split in zip(parts, (dataset.train, dataset.validation, dataset.test), strict=True):
        assert multiset(expected[part], numbers[part]) == contents(dataset, split)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), ("train", "validation", "test")),
        (("Training", "Validation", "Testing"), ("train", "validation", "test")),
        (("training_set", "dev", "TEST"), ("train", "validation", "test")),
        (("train", "valid"), ("train", "test")),
        (("Train", "Test"), ("train", "test")),
    ],
)
def test_split_folders(
    tmp_path: Path, load: Load, folders: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """D13, D23: any usual name in any case; with train and val alone, val is the test split."""
    count = len(folders)
    write_folders(
        tmp_path / "set", name=lambda index: f"{folders[index // 3 % count]}/{LETTERS[index]}/{index}.png"
    )
    dataset = load("set")
    assert set(expected) == set(dataset.splits)
    for position, split in enumerate(expected):
        assert subset(np.arange(90) // 3 % count == position) == contents(dataset, dataset.splits[split])


def test_junk_of_systems_is_no_class(tmp_path: Path, load: Load) -> None:
    """D14: a Mac's zip, Windows' thumbnails, notebooks' checkpoints."""
    write_folders(tmp_path / "set")
    for name in (
        "__MACOSX/a/._1.png",
        "a/Thumbs.db",
        "@eaDir/x.png",
        ".ipynb_checkpoints/1.png",
        "a/.DS_Store",
    ):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encode(IMAGES[0]))
    assert (ALL, ("a", "b", "c")) == (contents(load("set")), load("set").classes)


def test_near_equal_class_names_are_pointed_out(tmp_path: Path, load: Load) -> None:
    """D16: two Unicode forms, ligatures, cases, spaces, 1 and 1.0."""
    pairs = [("caf\u00e9", "cafe\u0301"), ("\ufb01t", "fit"), ("Dog", "dog"), ("a b", "a_b"), ("1", "1.0")]
    for number, name in enumerate(name for pair in pairs for name in pair):
        for index in range(3):
            save(tmp_path / "set" / name / f"{index}.png", IMAGES[3 * number + index])
    notes = [note for note in load("set").notes if "nearly equal" in note]
    assert 5 == len(notes)
    assert r"'caf\xe9'" in " ".join(notes)


def test_unknown_home_folder(tmp_path: Path) -> None:
    """D18: ~nobody is one line."""
    with pytest.raises(DataError, match="home folder is unknown"):
        load_dataset(TrainConfig(dataset="folder:~nobodyx/x"), Home(tmp_path, tmp_path))


# File lists


@pytest.mark.parametrize("form", ["beside", "folder", "no suffix", "parquet", "jsonl", "metadata", "one-hot"])
def test_table_of_file_names(tmp_path: Path, load: Load, form: str) -> None:
    """D20, D27: names and labels in a CSV, Parquet or JSON lines, with images beside it or in a folder."""
    folder = "images/" if form in ("folder", "no suffix") else ""
    for index, image in enumerate(IMAGES):
        save(tmp_path / "set" / f"{folder}{index}.png", image)
    suffix = "" if form == "no suffix" else ".png"
    frame = pd.DataFrame({"file_name": [f"{index}{suffix}" for index in range(90)], "label": LETTERS})
    if form == "one-hot":
        frame = frame[["file_name"]].assign(**{name: (LETTERS == name).astype(int) for name in "abc"})
    file = "set/labels.csv"
    if form == "parquet":
        frame.to_parquet(tmp_path / (file := "set/labels.parquet"))
    elif form == "jsonl":
        lines = [json.dumps(row) for row in frame.to_dict("records")]
        (tmp_path / (file := "set/metadata.jsonl")).write_text("\n".join(lines))
    else:
        frame.to_csv(tmp_path / (file := "set/metadata.csv" if form == "metadata" else file), index=False)
    assert ALL == contents(load(file))
    assert ALL == contents(load("set"))


def test_metadata_in_split_folders(tmp_path: Path, load: Load) -> None:
    """D20: the hub's imagefolder with a metadata.csv in each split."""
    for split, selected in (("train", range(60)), ("test", range(60, 90))):
        for index in selected:
            save(tmp_path / "set" / split / f"{index}.png", IMAGES[index])
        frame = pd.DataFrame({"file_name": [f"{i}.png" for i in selected], "label": LETTERS[list(selected)]})
        frame.to_csv(tmp_path / "set" / split / "metadata.csv", index=False)
    dataset = load("set")
    assert subset(slice(0, 60)) == contents(dataset)
    assert subset(slice(60, 90)) == contents(dataset, dataset.test)


def test_table_that_contradicts_the_folders_is_a_choice(tmp_path: Path, load: Load) -> None:
    """Class folders and a table of other labels are refused; equal labels are the folders."""
    write_folders(tmp_path / "set")
    names = [f"{LETTERS[index]}/{index}.png" for index in range(90)]
    pd.DataFrame({"file": names, "label": LETTERS}).to_csv(tmp_path / "set" / "labels.csv", index=False)
    assert "folder" == load("set").description.layout
    pd.DataFrame({"file": names, "label": LETTERS[::-1]}).to_csv(tmp_path / "set" / "labels.csv", index=False)
    with pytest.raises(AmbiguousDataError, match='layout = "file_list"'):
        load("set")
    assert multiset(IMAGES, LETTERS[::-1]) == contents(load("set", 'layout = "file_list"'))


def test_pixels_in_several_groups_of_columns_are_refused(tmp_path: Path, load: Load) -> None:
    """Columns x0, y0, z0, x1 … are not read as the first of them alone."""
    names = [f"{channel}{index}" for index in range(64) for channel in "xyz"]
    frame = pd.DataFrame(COLOR.reshape(90, -1), columns=names).assign(label=LETTERS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="and 125 more columns are neither"):
        load("a.csv")


def test_index_before_a_table_with_tabs(tmp_path: Path, load: Load) -> None:
    """The empty name of pandas' index is a column, whatever the separator is."""
    FRAME.assign(label=LETTERS).to_csv(tmp_path / "a.csv", sep="\t")
    assert ALL == contents(load("a.csv"))


def test_captions_are_no_labels(tmp_path: Path, load: Load) -> None:
    """A column of texts that never repeat is not taken for the label: the class folders are."""
    write_folders(tmp_path / "set")
    names = [f"{LETTERS[index]}/{index}.png" for index in range(90)]
    frame = pd.DataFrame({"file_name": names, "text": [f"photo {index}" for index in range(90)]})
    frame.to_csv(tmp_path / "set" / "metadata.csv", index=False)
    assert ALL == contents(load("set"))


def test_two_label_columns_are_a_choice(tmp_path: Path, load: Load) -> None:
    """Columns `label` and `class` that agree are one; that divide the images differently, a choice."""
    coarse = np.where(LETTERS == "a", "x", "y")
    FRAME.assign(label=LETTERS, category=coarse).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(AmbiguousDataError, match=r'label_columns = \["category"\]'):
        load("a.csv")
    assert multiset(IMAGES, coarse) == contents(load("a.csv", 'label_columns = ["category"]'))
    FRAME.assign(label=LETTERS, category=np.char.upper(LETTERS)).to_csv(tmp_path / "a.csv", index=False)
    assert ALL == contents(load("a.csv"))


def test_splits_inside_of_classes_are_not_merged(tmp_path: Path, load: Load) -> None:
    """a/train/1.png and a/test/2.png are refused until a person wants them merged."""
    write_folders(
        tmp_path / "set", name=lambda index: f"{LETTERS[index]}/{('train', 'test')[index // 60]}/{index}.png"
    )
    with pytest.raises(DataError, match="test, train inside of its class folders"):
        load("set")
    assert ALL == contents(load("set", "splits = {}"))


# What is left out


def test_left_out_images_are_counted(tmp_path: Path, load: Load) -> None:
    """More than 1 % is a warning, more than 20 % is refused until the file says so."""
    write_folders(tmp_path / "set")
    for index in range(3):
        save(tmp_path / "set" / f"{index}.png", IMAGES[index])
    assert ("3 of 93 images are left out: 3 outside a class folder",) == load("set").notes
    for index in range(30):
        save(tmp_path / "set" / f"{index}.png", IMAGES[index])
    with pytest.raises(
        DataError, match=r'30 of 120 images would be left out: .*"outside a class folder" = 30'
    ):
        load("set")
    assert ALL == contents(load("set", 'left_out = {"outside a class folder" = 30}'))


def test_nothing_readable_is_said_in_numbers(tmp_path: Path, load: Load) -> None:
    """D23: 150 files of a kind that is not read."""
    for index in range(150):
        (tmp_path / "set" / "abc"[index % 3]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "abc"[index % 3] / f"{index}.heic").write_bytes(b"....ftypheic")
    with pytest.raises(DataError, match=r"got 150 \.heic files in 3 folders"):
        load("set")
    write_folders(tmp_path / "flat", name=lambda index: f"{index}.png")
    with pytest.raises(DataError, match=r"got 90 \.png files in 0 folders; 90 are images, 90 of them in no"):
        load("flat")


def test_damaged_files_are_all_named_and_may_be_skipped(tmp_path: Path, load: Load) -> None:
    """D24: truncated, empty and mis-named files; skipping is bounded, and recorded with digests."""
    write_folders(tmp_path / "set")
    for name, content in (("a/x.png", encode(IMAGES[0])[:60]), ("b/y.jpg", b""), ("c/z.png", b"<html>")):
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"3 of 93 .*a/x\.png: .*b/y\.jpg: .*c/z\.png: .*skip_damaged = 3"):
        load("set")
    with pytest.raises(DataError, match="3 of 93"):
        load("set", "skip_damaged = 2")
    dataset = load("set", "skip_damaged = 3")
    assert (ALL, 3) == (contents(dataset), len(dataset.description.skipped))
    assert 64 == len(dataset.description.skipped[f"{tmp_path}/set/b/y.jpg"])


def test_many_damaged_files_are_listed_in_a_file(tmp_path: Path, load: Load) -> None:
    """D24: the message names 20, the file all."""
    write_folders(tmp_path / "set")
    for index in range(25):
        (tmp_path / "set" / "a" / f"bad{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"and 5 more.*all names are in ") as caught:
        load("set")
    file = Path(str(caught.value).rpartition("all names are in ")[2])
    assert 25 == len(file.read_text().splitlines())


# Paths and archives


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "wrapped"])
def test_archives_are_read_in_place(tmp_path: Path, load: Load, kind: str) -> None:
    """D28: a zip or tar of class folders, also with one folder around them and a Mac's junk."""
    write_folders(tmp_path / "set")
    prefix = "photos/" if kind == "wrapped" else ""
    files = [file for file in sorted((tmp_path / "set").rglob("*")) if file.is_file()]
    if kind.startswith("tar"):
        name = f"set.{kind}"
        with tarfile.open(tmp_path / name, "w:gz" if kind == "tar.gz" else "w") as tar:
            for file in files:
                tar.add(file, f"./{file.relative_to(tmp_path / 'set')}")
    else:
        name = "set.zip"
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in files:
                archive.write(file, f"{prefix}{file.relative_to(tmp_path / 'set')}")
                archive.writestr(f"__MACOSX/{prefix}._{file.name}", b"junk")
    before = sorted(tmp_path.iterdir())
    assert ALL == contents(load(name))
    assert before == sorted(tmp_path.iterdir())


def test_names_that_are_not_utf8_are_refused(tmp_path: Path, load: Load) -> None:
    """A file name of other bytes is one line."""
    write_folders(tmp_path / "set")
    (tmp_path / "set" / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"a/\\udcff\.png' is not UTF-8"):
        load("set")


def test_archive_bombs_are_bounded(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip or tar.gz that unpacks to more than the limit is refused."""
    monkeypatch.setattr("relearn.model.sources.tree.MAX_UNPACKED_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(20_000))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("a/1.png")
        member.size = 20_000
        tar.addfile(member, io.BytesIO(bytes(20_000)))
    for name in ("a.zip", "a.tar.gz"):
        with pytest.raises(DataError, match=r"unpacks to .* bytes or more, accepted: up to 10,000"):
            load(name)


def test_wrong_prefix_gets_a_hint(tmp_path: Path) -> None:
    """D28: csv: before a folder says folder:."""
    write_folders(tmp_path / "set")
    with pytest.raises(DataError, match=f"did you mean folder:{tmp_path}/set"):
        load_dataset(TrainConfig(dataset=f"csv:{tmp_path}/set"), Home(tmp_path, tmp_path))


def test_first_look_is_stratified(tmp_path: Path, load: Load) -> None:
    """--limit takes evenly from each class, and says so."""
    write_folders(tmp_path / "set")
    dataset = load("set", limit=9)
    assert [3, 3, 3] == np.bincount(dataset.train.labels).tolist()
    assert "a first look at 9 of 90 images, as --limit says" in dataset.notes


# Descriptions


def test_saved_description_reads_the_same(tmp_path: Path, load: Load) -> None:
    """A description that is saved and loaded again is the same, and is never written over a file."""
    FRAME[sorted(FRAME)].assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    description = inspect_source(tmp_path / "a.csv")
    description.save(tmp_path / "saved.toml")
    assert 'pixel_columns = ["pixel0..pixel63"]' in (tmp_path / "saved.toml").read_text()
    assert description == inspect_source(tmp_path / "saved.toml")
    assert ALL == contents(load("saved.toml"))
    with pytest.raises(DataError, match=r"saved\.toml exists"):
        description.save(tmp_path / "saved.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale = 255", "got no source"),
        ('source = "a"\nscales = 3', "unknown setting 'scales', did you mean 'scale'"),
        ('source = "a"\nscale = "bright"', "scale: got 'bright'"),
        ('source = "a"\nlayout = "cube"', "layout: got 'cube', accepted: 'folder'"),
        ("source = ", "is not valid TOML"),
        ('source = "nowhere"', "nowhere does not exist"),
    ],
)
def test_invalid_descriptions_are_explained(tmp_path: Path, text: str, message: str) -> None:
    """Unknown keys and wrong values are one line each."""
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DataError if "nowhere" not in text else Exception) as caught:
        inspect_source(tmp_path / "dataset.toml")
    assert message in str(caught.value)


# Splits, findings, sizes, names


def test_duplicates_across_splits_are_named_by_file(tmp_path: Path) -> None:
    """D15: a test image that is a training image is named by both files."""
    write_folders(
        tmp_path / "set", name=lambda index: f"{('train', 'test')[index // 60]}/{LETTERS[index]}/{index}.png"
    )
    save(tmp_path / "set" / "test" / "a" / "copy.png", IMAGES[3])
    config = TrainConfig(dataset=str(tmp_path / "set"))
    findings = prepare_dataset(config, Home(tmp_path / "home", tmp_path)).findings
    leak = next(finding for finding in findings if finding.check == "leak")
    assert f"{tmp_path}/set/test/a/copy.png is {tmp_path}/set/train/a/3.png" == leak.example


def test_images_without_content_are_refused_with_the_reason(tmp_path: Path) -> None:
    """D26: images that are all equal are an error."""
    pixels = np.full((8, 8, 4), 255, np.uint8)
    for index in range(24):
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", pixels)
    with pytest.raises(DataError, match="all 24 images are equal"):
        prepare_dataset(TrainConfig(dataset=str(tmp_path / "set")), Home(tmp_path / "home", tmp_path))


def test_white_strokes_on_a_transparent_ground_are_seen(tmp_path: Path, load: Load) -> None:
    """D26: they are read as white on black."""
    for index in range(24):
        pixels = np.full((8, 8, 4), 255, np.uint8)
        pixels[..., 3] = 255 * (IMAGES[index] > 128)
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", pixels)
    assert {0, 255} == set(np.unique(load("set").train.images))


@pytest.mark.parametrize(("classes", "each"), [(100, 6), (26, 10), (5, 3)])
def test_small_classes_are_in_each_split(tmp_path: Path, classes: int, each: int) -> None:
    """D29: a class of three or more different images has one in each split."""
    images = np.random.default_rng(1).integers(0, 256, (classes * each, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(len(images)) % classes)
    prepared = prepare_dataset(TrainConfig(dataset=f"{tmp_path}/a.npz"), Home(tmp_path / "home", tmp_path))
    assert all(min(counts) >= 1 for counts in prepared.counts.values())


def test_photos_of_different_sizes(tmp_path: Path, load: Load) -> None:
    """D32: a side that fits is chosen and said; --image-size overrides it."""
    for index in range(6):
        pixels = RNG.integers(0, 256, (40 + index, 60, 3), np.uint8)
        save(tmp_path / "set" / "ab"[index % 2] / f"{index}.jpg", pixels, "JPEG")
    dataset = load("set")
    assert (3, 40, 40) == dataset.shape
    assert "resized to 40 × 40" in " ".join(dataset.description.summarize())
    resized = load("set", image_size=16)
    assert (3, 16, 16) == resized.shape
    assert "resized to 16 × 16" in " ".join(resized.description.summarize(16))


def test_names_of_datasets_never_meet(tmp_path: Path) -> None:
    """Paths that end alike, and names without Latin letters, get names that differ and stay."""
    home, names = Home(tmp_path / "home", tmp_path), list[str]()
    folders = ("x/photos", "y/photos", "z/写真", "z/犬", "w/Été")
    for folder in folders:
        write_folders(tmp_path / folder)
        names.append(prepare_dataset(TrainConfig(dataset=str(tmp_path / folder)), home).name)
    assert (["photos", "photos-2"], "ete", 5) == (names[:2], names[4], len(set(names)))
    again = [default_model_name(TrainConfig(dataset=str(tmp_path / folder)), home) for folder in folders]
    assert names == again


def test_images_beside_a_table_are_prepared_again(tmp_path: Path) -> None:
    """A changed image file that a CSV lists leads to a rebuild, though the CSV is the same."""
    write_folders(tmp_path / "set", name=lambda index: f"{index}.png")
    frame = pd.DataFrame({"file_name": [f"{index}.png" for index in range(90)], "label": LETTERS})
    frame.to_csv(tmp_path / "set" / "labels.csv", index=False)
    config, home = TrainConfig(dataset=f"{tmp_path}/set/labels.csv"), Home(tmp_path / "home", tmp_path)
    before = prepare_dataset(config, home)
    assert before.fingerprint == prepare_dataset(config, home).fingerprint
    save(tmp_path / "set" / "3.png", IMAGES[3] // 2)
    assert before.fingerprint != prepare_dataset(config, home).fingerprint


# Incomplete and contradictory data


def save_listed(folder: Path, table: pd.DataFrame, count: int = 12) -> None:
    """Save images 0.png, 1.png, … and a table that lists them."""
    for index in range(count):
        save(folder / "images" / f"{index}.png", IMAGES[index])
    table.to_csv(folder / "labels.csv", index=False)


def list_images(count: int = 12) -> pd.DataFrame:
    return pd.DataFrame({"filename": [f"{i}.png" for i in range(count)], "label": LETTERS[:count]})


@pytest.mark.parametrize("image_format", ["GIF", "TIFF"])
def test_more_frames_than_one_are_noted(tmp_path: Path, load: Load, image_format: str) -> None:
    """The first frame is read; a warning has the number of such files and the first name."""
    for index in range(12):
        frames = {"save_all": True, "append_images": [Image.fromarray(IMAGES[index + 12])]}
        options = frames if index in (4, 7) else {}
        save(tmp_path / "set" / LETTERS[index] / f"{index:02}", IMAGES[index], image_format, **options)
    dataset = load("set")
    assert subset(slice(12)) == contents(dataset)
    (note,) = dataset.notes
    assert "first frame is read of 2 files" in note
    assert "04" in note


def test_missing_files_of_a_list_are_counted_and_named(tmp_path: Path, load: Load) -> None:
    """The others are read; where more than a fifth is missing, the list is refused."""
    save_listed(tmp_path / "set", list_images())
    for lost in (3, 5):
        (tmp_path / "set" / "images" / f"{lost}.png").unlink()
    dataset = load("set")
    assert subset([i for i in range(12) if i not in (3, 5)]) == contents(dataset)
    assert "2 listed files do not exist: 3.png, 5.png" in dataset.notes
    (tmp_path / "set" / "images" / "4.png").unlink()
    with pytest.raises(DataError, match="3 of 12 images would be left out: 3 listed, but without a file"):
        load("set")


def test_images_of_one_class_are_refused(tmp_path: Path, load: Load) -> None:
    """A network can learn nothing from them, and the folder may be none of a class."""
    for index in range(6):
        save(tmp_path / "set" / "images" / f"{index}.png", IMAGES[index])
    with pytest.raises(DataError, match="at least two classes need images, got 1: 'images'"):
        load("set")


def test_a_file_with_two_labels_is_refused(tmp_path: Path, load: Load) -> None:
    """The message names the file and both labels."""
    listed = list_images()
    save_listed(tmp_path / "set", pd.concat([listed, listed[:1].assign(label="b")]))
    with pytest.raises(DataError, match=r"0\.png has two labels, 'a' and 'b'"):
        load("set")


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_integers_above_255_are_a_choice(tmp_path: Path, load: Load, kind: str) -> None:
    """Their bit depth is unknown: refused, then read as dataset.toml says."""

    def write(values: np.ndarray) -> str:
        frame = pd.DataFrame(values, columns=FRAME.columns).assign(label=LETTERS)
        if kind == "npz":
            np.savez(tmp_path / "a.npz", images=values.reshape(90, 8, 8), labels=LETTERS)
        elif kind == "csv":
            frame.to_csv(tmp_path / "a.csv", index=False)
        else:
            frame.to_parquet(tmp_path / "a.parquet")
        return f"a.{kind}"

    with pytest.raises(AmbiguousDataError, match=r"scale = 4095.*scale = 65535"):
        load(write(PIXELS * 16))
    assert ALL == contents(load(f"a.{kind}", "scale = 4095"))
    with pytest.raises(AmbiguousDataError, match="scale = 65535"):
        load(write(PIXELS * 257))
    assert ALL == contents(load(f"a.{kind}", "scale = 65535"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_pixel_is_nan_or_infinite(tmp_path: Path, load: Load, value: float, split: str) -> None:
    """NaN in any array of an npz is refused, with and without a given scale; it would become black."""
    images = dict.fromkeys(("train", "test"), IMAGES / 255)
    images[split][3, 4, 4] = value
    np.savez(
        tmp_path / "a.npz",
        **{f"x_{name}": array for name, array in images.items()},
        **{f"y_{name}": LETTERS for name in images},
    )
    with pytest.raises(DataError, match="fractions from"):
        load("a.npz")
    with pytest.raises(DataError, match="accepted: fractions from 0 to 1"):
        load("a.npz", "scale = 1")


def test_fractions_with_a_given_scale_of_whole_numbers_are_refused(tmp_path: Path, load: Load) -> None:
    """They would be cut to whole numbers in silence; so would negative ones."""
    for images in (IMAGES * 0.997, IMAGES.astype(int) - 100):
        np.savez(tmp_path / "a.npz", images=images, labels=LETTERS)
        with pytest.raises(DataError, match="accepted: whole numbers from 0 to 255"):
            load("a.npz", "scale = 255")


@pytest.mark.parametrize("stray", ["stray.png", "set/stray.png"])
def test_images_beside_a_wrapped_folder_are_left_out(tmp_path: Path, load: Load, stray: str) -> None:
    """One is counted and warned of; many are refused; images without any class folder are refused."""
    for index in range(30):
        save(tmp_path / "photos" / "set" / LETTERS[index] / f"{index}.png", IMAGES[index])
    save(tmp_path / "photos" / stray, IMAGES[40])
    dataset = load("photos")
    assert subset(slice(30)) == contents(dataset)
    assert "1 of 31 images are left out: 1 outside a class folder" in dataset.notes
    for index in range(40, 60):
        save(tmp_path / "photos" / Path(stray).parent / f"{index}.png", IMAGES[index])
    with pytest.raises(DataError, match="21 of 51 images would be left out: 21 outside a class folder"):
        load("photos")
    for index in range(6):
        save(tmp_path / "flat" / "set" / f"{index}.png", IMAGES[index])
    with pytest.raises(DataError, match="at least two classes"):
        load("flat")


@pytest.mark.parametrize(("first", "second"), [("1", "1.0"), ("cat", "cat ")])
def test_nearly_equal_labels_stay_apart(tmp_path: Path, load: Load, first: str, second: str) -> None:
    """Spaces and .0 are dropped only where no two labels become one; else a warning names both."""
    labels = np.where(np.arange(90) % 2, first, second)
    FRAME.assign(label=labels).to_csv(tmp_path / "a.csv", index=False)
    dataset = load("a.csv")
    assert multiset(IMAGES, labels) == contents(dataset)
    assert any("nearly equal" in note for note in dataset.notes)
    save_listed(tmp_path / "set", list_images().assign(label=labels[:12]))
    assert multiset(IMAGES[:12], labels[:12]) == contents(load("set"))
    FRAME.assign(label=np.where(np.arange(90) % 2, "3.0", " x")).to_csv(tmp_path / "b.csv", index=False)
    assert ("3", "x") == load("b.csv").classes


def test_a_split_column_counts_though_class_folders_agree(tmp_path: Path, load: Load) -> None:
    """The table is read, not the folders, which know nothing of the splits."""
    for index in range(12):
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", IMAGES[index])
    names = [f"{LETTERS[index]}/{index}.png" for index in range(12)]
    table = pd.DataFrame({"file": names, "label": LETTERS[:12], "split": ["train"] * 9 + ["test"] * 3})
    table.to_csv(tmp_path / "set" / "labels.csv", index=False)
    dataset = load("set")
    assert (subset(slice(9)), subset(slice(9, 12))) == (contents(dataset), contents(dataset, dataset.test))


def test_a_list_whose_files_are_missing_counts(tmp_path: Path, load: Load) -> None:
    """One of two test images is missing: the other one is the test split, not the validation images."""
    counts = {"train": range(8), "validation": range(8, 16), "test": range(16, 18)}
    for split, numbers in counts.items():
        for index in numbers:
            save(tmp_path / "set" / split / f"{index}.png", IMAGES[index])
        lines = [json.dumps({"file_name": f"{index}.png", "label": str(LETTERS[index])}) for index in numbers]
        (tmp_path / "set" / split / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "set" / "test" / "17.png").unlink()
    dataset = load("set")
    assert subset(slice(8, 16)) == contents(dataset, dataset.validation)
    assert subset([16]) == contents(dataset, dataset.test)
    assert "1 listed files do not exist: 17.png" in dataset.notes


def test_class_folders_with_a_list_of_some_images_are_a_choice(tmp_path: Path, load: Load) -> None:
    """All images by their folder, or those of the list: refused, then read as dataset.toml says."""
    for index in range(12):
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", IMAGES[index])
    names = [f"{LETTERS[index]}/{index}.png" for index in range(11)]
    pd.DataFrame({"file": names, "label": LETTERS[:11]}).to_csv(tmp_path / "set" / "a.csv", index=False)
    with pytest.raises(AmbiguousDataError, match="lists all but 1 of their images"):
        load("set")
    assert subset(slice(12)) == contents(load("set", 'layout = "folder"'))
    assert subset(slice(11)) == contents(load("set", 'layout = "file_list"'))


# More layouts with one reading


@pytest.mark.parametrize("names", ["r0", "red0", "R_0"])
@pytest.mark.parametrize("order", ["planes", "interleaved", "sorted"])
def test_named_color_planes_are_read(tmp_path: Path, load: Load, names: str, order: str) -> None:
    """The names say which is red: r0, g0, b0; red0, green0, blue0; R_0, G_0, B_0, in any order."""
    words = {
        "r0": ("r{}", "g{}", "b{}"),
        "red0": ("red{}", "green{}", "blue{}"),
        "R_0": ("R_{}", "G_{}", "B_{}"),
    }
    columns = [word.format(pixel) for pixel in range(64) for word in words[names]]
    frame = pd.DataFrame(COLOR.reshape(90, -1), columns=columns)
    if order != "interleaved":
        frame = frame[[f for word in words[names] for f in map(word.format, range(64))]]
    frame = frame[sorted(frame)] if order == "sorted" else frame
    frame.assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    assert multiset(COLOR.transpose(0, 3, 1, 2), LETTERS) == contents(load("a.csv"))


@pytest.mark.parametrize("shape", ["gray", "channels last", "channels first"])
def test_nested_lists_give_the_shape_of_images(tmp_path: Path, load: Load, shape: str) -> None:
    """Lists of rows say height and width, also of images that are not square, and where the channels are."""
    images = RNG.integers(0, 256, (30, 3, 8, 11), np.uint8)
    lists = {"gray": images[:, 0], "channels last": images.transpose(0, 2, 3, 1), "channels first": images}
    values = pa.array(lists[shape].tolist())
    pq.write_table(pa.table({"image": values, "label": LETTERS[:30]}), tmp_path / "a.parquet")
    dataset = load("a.parquet")
    assert multiset(images[:, :1] if shape == "gray" else images, LETTERS[:30]) == contents(dataset)
    turned = [*lists[shape][:20].tolist(), *np.swapaxes(lists[shape], -1, -2)[20:].tolist()]
    pq.write_table(pa.table({"image": pa.array(turned), "label": LETTERS[:30]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 21, column 'image': got .* numbers, the first has"):
        load("a.parquet")


def test_width_in_dataset_toml_makes_a_row_of_pixels_an_image(tmp_path: Path, load: Load) -> None:
    """64 pixels are 4 × 16, if a person says so."""
    FRAME.assign(label=LETTERS).to_csv(tmp_path / "a.csv", index=False)
    assert multiset(IMAGES.reshape(90, 4, 16), LETTERS) == contents(load("a.csv", "width = 16"))


def test_width_and_height_columns_are_no_labels(tmp_path: Path, load: Load) -> None:
    """A list of images with their sizes has one label column, whatever it is called."""
    table = list_images().rename(columns={"label": "species"}).assign(width=8, height=8)
    save_listed(tmp_path / "set", table)
    assert subset(slice(12)) == contents(load("set"))


def test_listed_names_may_lack_suffixes_of_several_kinds(tmp_path: Path, load: Load) -> None:
    """1 is 1.png, 2 is 2.bmp; a name of two files counts as missing."""
    save_listed(tmp_path / "set", list_images(30).assign(filename=range(30)), 30)
    for index in range(15):
        save(tmp_path / "set" / "images" / f"{index}.bmp", IMAGES[index], "BMP")
        (tmp_path / "set" / "images" / f"{index}.png").unlink()
    assert subset(slice(30)) == contents(load("set"))
    save(tmp_path / "set" / "images" / "0.png", IMAGES[50])
    assert "1 listed files do not exist: 0" in load("set").notes


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("prefix", [True, False])
def test_folder_of_tables_is_read(tmp_path: Path, load: Load, kind: str, prefix: bool) -> None:
    """Shards of one table are joined; tables named after splits are splits; others are refused."""
    frame = FRAME.assign(label=LETTERS)

    def write(name: str, part: pd.DataFrame) -> None:
        path = tmp_path / "set" / f"{name}.{kind}"
        path.parent.mkdir(exist_ok=True)
        part.to_csv(path, index=False) if kind == "csv" else part.to_parquet(path)

    def read() -> Dataset:
        source = f"{kind}:{tmp_path / 'set'}" if prefix else str(tmp_path / "set")
        return load_dataset(TrainConfig(dataset=source), Home(tmp_path / "home", tmp_path))

    write("part-0", frame[:40])
    write("part-1", frame[40:])
    dataset = read()
    assert ALL == contents(dataset)
    assert "part-1" in str(dataset.train.places[40])
    for file in (tmp_path / "set").iterdir():
        file.unlink()
    write("digits_train", frame[:60])
    write("digits_test", frame[60:])
    dataset = read()
    assert (subset(slice(60)), subset(slice(60, 90))) == (contents(dataset), contents(dataset, dataset.test))
    (tmp_path / "set" / f"digits_train.{kind}").rename(tmp_path / "set" / f"first.{kind}")
    with pytest.raises(DataError, match="neither parts of one nor named after splits"):
        read()
    assert sorted(ALL) == contents(load("set", "splits = {}"))


def test_a_table_of_pixels_does_not_walk_its_folder(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small table of numbers in a large home folder is described from itself."""
    pd.DataFrame({"label": list("abab"), "pixels": ["1 2 3"] * 4}).to_csv(tmp_path / "a.csv", index=False)
    walked = []
    monkeypatch.setattr(
        "relearn.model.sources.tree.list_folder", lambda path: walked.append(path) or ([], [])
    )
    with pytest.raises(DataError, match=r"a\.csv"):
        load("a.csv")
    assert not walked


def test_a_first_look_opens_a_sample_of_the_files(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names are counted, few files opened; the loading looks at all of them."""
    for index in range(60):
        save(tmp_path / "set" / LETTERS[index] / f"{index}.png", IMAGES[index])
    opened = []

    def read_header(*arguments: Any) -> Any:
        opened.append(arguments)
        return decode.read_header(*arguments)

    monkeypatch.setattr("relearn.model.sources.image_survey.read_header", read_header)
    description = inspect_source(tmp_path / "set", sample=10)
    assert ({"train": 60}, "A first look at 10 of 60 files") == (description.counts, description.notes[0])
    assert len(opened) <= 11
    load("set")
    assert len(opened) >= 70
