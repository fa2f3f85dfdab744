"""Promises of custom datasets: they are read as they are, or the error says what is wrong and where."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.data.custom import infer_style
from relearn.model.data.dataset import Dataset
from relearn.model.description.class_names import sort_class_names
from relearn.model.errors import DataError, InfrastructureError, NotFoundError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 28, 28), np.uint8)
COLOR = RNG.integers(0, 256, (12, 3, 16, 16), np.uint8)


def write_image(file: Path, pixels: np.ndarray) -> None:
    """Write uint8 (h, w) or (c, h, w) in the format of the file's suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0)).save(file)


def test_folder_with_a_folder_per_class(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Classes are sorted by name; gray PNGs of one small size keep size and pixels."""
    for index, pixels in enumerate(GRAY):
        write_image(tmp_path / "my Pets" / ("dog", "Cat")[index % 2] / f"{index:02}.png", pixels)
    dataset = load("folder", tmp_path / "my Pets")
    assert ("my-pets", ("Cat", "dog"), (1, 28, 28)) == (dataset.name, dataset.classes, dataset.shape)
    assert f"folder:{tmp_path / 'my Pets'}" == dataset.uri
    assert np.array_equal(GRAY[[1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10]], dataset.train.images[:, 0])
    assert [0] * 6 + [1] * 6 == dataset.train.labels.tolist()
    assert ((), None) == (dataset.notes, dataset.test)


def test_train_and_test_folders_are_splits(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """A test folder becomes the test split; files that are no images are not read."""
    for index, pixels in enumerate(GRAY):
        split = "test" if index > 8 else "train"
        write_image(tmp_path / "set" / split / str(index % 2 + 9) / f"{index}.png", pixels)
    (tmp_path / "set" / "val").mkdir()
    (tmp_path / "set" / "train" / "9" / "readme.txt").write_text("words")
    (tmp_path / "set" / ".hidden").mkdir()
    dataset = load("folder", tmp_path / "set")
    assert (9, 3, ("9", "10")) == (len(dataset.train), len(dataset.test), dataset.classes)
    assert () == dataset.notes


def test_train_and_test_may_be_classes(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """A folder `train` with images and no folders in it is a class like any other."""
    for index, pixels in enumerate(GRAY):
        write_image(tmp_path / "vehicles" / ("train", "test", "bus")[index % 3] / f"{index}.png", pixels)
    dataset = load("folder", tmp_path / "vehicles")
    assert (("bus", "test", "train"), None) == (dataset.classes, dataset.test)


def test_empty_folder_is_no_class(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """A folder without a file is no class, and a note says so."""
    for index, name in enumerate("ac"):
        write_image(tmp_path / "set" / name / "0.png", GRAY[index])
    (tmp_path / "set" / "b" / "deeper").mkdir(parents=True)
    dataset = load("folder", tmp_path / "set")
    assert ("a", "c") == dataset.classes
    assert "1 empty folders are no classes, such as b" in dataset.description.notes


def test_images_of_different_sizes_get_a_side_that_fits(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """The side is the median of the shorter sides, at most 64; lost resolution is noted."""
    for index, side in enumerate((20, 30, 100)):
        pixels = RNG.integers(0, 256, (3, side, side + 10), np.uint8)
        write_image(tmp_path / "photos" / str(index % 2) / f"{index}.jpg", pixels)
    chosen = load("folder", tmp_path / "photos")
    assert ((3, 24, 24), 24) == (chosen.shape, chosen.description.image_size)
    dataset = load("folder", tmp_path / "photos", image_size=48)
    assert ((3, 48, 48), "photo") == (dataset.shape, dataset.style)
    assert ("resolution is lost: 1 of 3 images, up to 110 × 100 pixels, become 48 × 48",) == dataset.notes
    gray = load("folder", tmp_path / "photos", image_size=48, channels=1)
    assert ((1, 48, 48), True) == (gray.shape, "color is lost" in gray.notes[-1])


def test_large_images_are_resized(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Images of 64 pixels a side keep their size, larger ones get 64 unless another is given."""
    for side in (64, 65):
        for name in "ab":
            write_image(tmp_path / str(side) / name / "0.png", np.full((side, side), 9, np.uint8))
    assert (1, 64, 64) == load("folder", tmp_path / "64").shape
    assert (1, 64, 64) == load("folder", tmp_path / "65").shape
    assert (1, 16, 16) == load("folder", tmp_path / "65", image_size=16).shape


def test_grey_stored_as_colour_is_grey(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Three equal channels become one; a single colored image makes the dataset color."""
    for index in range(4):
        write_image(tmp_path / "set" / str(index % 2) / f"{index}.png", np.stack([GRAY[index]] * 3))
    assert (1, 28, 28) == load("folder", tmp_path / "set").shape
    write_image(tmp_path / "set" / "1" / "9.png", RNG.integers(0, 256, (3, 28, 28), np.uint8))
    dataset = load("folder", tmp_path / "set")
    assert (3, 28, 28) == dataset.shape
    assert np.array_equal(np.stack([GRAY[0]] * 3), dataset.train.images[0])


def test_unreadable_images_are_reported(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """One line has their number, the first path and its error."""
    write_image(tmp_path / "set" / "a" / "0.png", GRAY[0])
    write_image(tmp_path / "set" / "b" / "0.png", GRAY[1])
    (tmp_path / "set" / "a" / "1.png").write_bytes((tmp_path / "set" / "a" / "0.png").read_bytes()[:200])
    (tmp_path / "set" / "a" / "2.jpg").write_bytes(b"GIF89a, not a JPEG")
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read, the first is .*1\.png: .*decoded"):
        load("folder", tmp_path / "set")


@pytest.mark.parametrize("file_names", [[], ["readme.txt"], ["a/notes.txt"], ["1.png"]])
def test_folder_without_images_in_class_folders_is_rejected(
    tmp_path: Path, load: Callable[..., Dataset], file_names: list[str]
) -> None:
    """An empty folder, no images, or images outside a class folder: the error says what is accepted."""
    (tmp_path / "set").mkdir()
    for name in file_names:
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"")
    with pytest.raises(DataError, match="has no images, accepted: a folder for each class"):
        load("folder", tmp_path / "set")


def test_npz_arrays_of_any_layout_are_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """(n, h, w), channels first or last, Keras's names with labels in a column: the same images."""
    labels = np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=GRAY, labels=labels)
    np.savez(
        tmp_path / "b.npz",
        images=COLOR,
        labels=labels,
        test_images=COLOR[:4],
        test_labels=labels[:4],
    )
    channels_last = COLOR.transpose(0, 2, 3, 1)
    np.savez_compressed(
        tmp_path / "c.npz",
        x_train=channels_last.astype(float),
        y_train=labels[:, None],
        x_test=channels_last[:2],
        y_test=labels[:2],
    )
    assert np.array_equal(GRAY, load("npz", tmp_path / "a.npz").train.images[:, 0])
    assert np.array_equal(COLOR[:4], load("npz", tmp_path / "b.npz").test.images)
    keras = load("npz", tmp_path / "c.npz")
    assert np.array_equal(COLOR, keras.train.images)
    assert (2, [0, 1, 2]) == (len(keras.test), keras.train.labels[:3].tolist())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GRAY}, "has the arrays pictures, accepted: images, labels"),
        (
            {"images": GRAY, "labels": np.arange(11)},
            "labels is int64 (11,), accepted: whole numbers or text",
        ),
        ({"images": GRAY, "labels": np.eye(12) * 2}, "labels is float64 (12, 12)"),
        (
            {"images": GRAY.reshape(12, -1)[:, 1:], "labels": np.arange(12)},
            "has 783 pixel columns beside its label",
        ),
        ({"images": GRAY[:0], "labels": np.arange(0)}, "images is (0, 28, 28)"),
        ({"images": COLOR[:, :2], "labels": np.arange(12)}, "images is (12, 2, 16, 16)"),
        ({"images": GRAY / 254, "labels": np.arange(12)}, "accepted: whole numbers from 0 to 255, or fract"),
        ({"images": GRAY.astype(int) + 1, "labels": np.arange(12)}, "whole numbers from 1 to 256"),
        ({"images": GRAY, "labels": np.array([None] * 12)}, "holds Python objects"),
        (
            {"images": GRAY, "labels": np.arange(12), "test_images": GRAY},
            "has no array 'test_labels'",
        ),
    ],
)
def test_invalid_arrays_are_explained(
    tmp_path: Path, load: Callable[..., Dataset], arrays: dict[str, np.ndarray], message: str
) -> None:
    """Unknown names, wrong counts, shapes and types, pickled objects: the error names each."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load("npz", tmp_path / "a.npz")
    assert message in str(caught.value)


def test_pickle_is_never_loaded(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """An array of objects in an npz, or a pickle named npz, executes nothing."""

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sung"),)

    np.savez(tmp_path / "a.npz", images=np.array([Canary()], object), labels=np.arange(1))
    for content in ((tmp_path / "a.npz").read_bytes(), b"\x80\x04.", b"\x93NUMPY", b""):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError):
            load("npz", tmp_path / "a.npz")
    assert not (tmp_path / "sung").exists()


def test_damaged_npz_is_rejected(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Truncated, with flipped bits, or with a shape larger than any memory: one line each."""
    np.savez(tmp_path / "a.npz", images=GRAY, labels=np.arange(12))
    content = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(content)
    flipped[5000] ^= 1
    for damaged in (content[:-300], bytes(flipped)):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"not a valid npz file|is not an npz file"):
            load("npz", tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<u8", "fortran_order": False, "shape": (2**45, 28, 28)}
        )
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(DataError, match="not a valid npz file"):
        load("npz", tmp_path / "a.npz")


@pytest.mark.parametrize("file_format", ["folder", "csv", "parquet", "npz"])
def test_missing_path_is_reported(tmp_path: Path, load: Callable[..., Dataset], file_format: str) -> None:
    """A missing path, a file for a folder and a folder for a file have their own messages."""
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        load(file_format, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    wrong_path = tmp_path / "file" if file_format == "folder" else tmp_path
    with pytest.raises(DataError, match=rf"is not a (file|folder), accepted: {file_format}:PATH with"):
        load(file_format, wrong_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would block forever
    with pytest.raises(DataError, match=r"is not a (file|folder)"):
        load(file_format, tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_an_infrastructure_error(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """The message has the reason, permission denied."""
    (tmp_path / "a.csv").write_text("label,a\n1,2\n")
    (tmp_path / "a.csv").chmod(0)
    with pytest.raises(InfrastructureError, match=r"cannot read .*: Permission denied"):
        load("csv", tmp_path / "a.csv")


def test_too_many_different_labels_are_rejected(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """A column of measurements does not become a thousand classes."""
    np.savez(tmp_path / "a.npz", images=np.zeros((1001, 8, 8), np.uint8), labels=np.arange(1001))
    with pytest.raises(DataError, match="1001 different labels, accepted: up to 1000"):
        load("npz", tmp_path / "a.npz")


def test_class_names_are_unique_and_sorted() -> None:
    """Whole numbers are sorted by value, other names alphabetically."""
    assert ("-1", "2", "10") == sort_class_names(["10", "2", "-1", "2"])
    assert ("10", "2", "b") == sort_class_names(["b", "10", "2"])


def test_style_is_inferred_from_the_border() -> None:
    """Gray drawings with a dark border are `mnist` if all have MNIST's form, else `drawing`; color, a light
    background or border is `photo`.
    """
    drawing = np.zeros((20, 1, 28, 28), np.uint8)
    drawing[..., 4:24, 10:18] = 255
    framed = drawing.copy()
    framed[:3, :, 0, 5] = 255
    few_framed = drawing.copy()
    few_framed[:2, :, 0, 5] = 255
    styles = [
        infer_style(images) for images in (drawing, few_framed, framed, 255 - drawing, drawing.repeat(3, 1))
    ]
    assert ["mnist", "drawing", "photo", "photo", "photo"] == styles
