"""Promises to those who bring their own images: read as it stands, or told what is wrong and where."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.custom import infer_style, sort_class_names
from relearn.model.data.dataset import Dataset
from relearn.model.data.load import load_dataset
from relearn.model.errors import DataError, InfrastructureError, NotFoundError
from relearn.model.home import Home

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 28, 28), np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 3, 16, 16), np.uint8)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    """Load `kind:PATH` with settings."""

    def load_own(kind: str, path: Path, **settings: Any) -> Dataset:
        return load_dataset(
            TrainConfig(dataset=f"{kind}:{path}", **settings), Home(tmp_path, tmp_path / "data")
        )

    return load_own


def picture(file: Path, pixels: np.ndarray) -> None:
    """Write uint8 (h, w) or (c, h, w) as the file's kind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0)).save(file)


def test_a_folder_of_classes(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Each folder is a class, in order of names; grey PNGs of one small size keep size and pixels."""
    for index, pixels in enumerate(GREY):
        picture(tmp_path / "my Pets" / ("dog", "Cat")[index % 2] / f"{index:02}.png", pixels)
    dataset = read("folder", tmp_path / "my Pets")
    assert ("my-pets", ("Cat", "dog"), (1, 28, 28)) == (dataset.name, dataset.classes, dataset.shape)
    assert f"folder:{tmp_path / 'my Pets'}" == dataset.uri
    assert np.array_equal(GREY[[1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10]], dataset.train.images[:, 0])
    assert [0] * 6 + [1] * 6 == dataset.train.labels.tolist()
    assert ((), None) == (dataset.notes, dataset.test)


def test_train_and_test_folders_are_parts(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A test folder becomes the test part; what else lies about is noted."""
    for index, pixels in enumerate(GREY):
        part = "test" if index > 8 else "train"
        picture(tmp_path / "set" / part / str(index % 2 + 9) / f"{index}.png", pixels)
    (tmp_path / "set" / "val").mkdir()
    (tmp_path / "set" / "train" / "9" / "readme.txt").write_text("words")
    (tmp_path / "set" / ".hidden").mkdir()
    dataset = read("folder", tmp_path / "set")
    assert (9, 3, ("9", "10")) == (len(dataset.train), len(dataset.test), dataset.classes)
    assert f"2 files or folders were not read, the first is {tmp_path / 'set' / 'val'}" in dataset.notes


def test_train_and_test_may_be_classes(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A folder called train with pictures and no folders in it is a class like any other."""
    for index, pixels in enumerate(GREY):
        picture(tmp_path / "vehicles" / ("train", "test", "bus")[index % 3] / f"{index}.png", pixels)
    dataset = read("folder", tmp_path / "vehicles")
    assert (("bus", "test", "train"), None) == (dataset.classes, dataset.test)


def test_an_empty_class_is_kept(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A class folder without pictures stays a class, for the checks to report."""
    picture(tmp_path / "set" / "a" / "0.png", GREY[0])
    (tmp_path / "set" / "b").mkdir()
    assert ("a", "b") == read("folder", tmp_path / "set").classes


def test_mixed_sizes_need_one_size(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Sizes are named and `size` asked for; with it, each picture is resized and the loss is noted."""
    for index, side in enumerate((20, 30, 100)):
        pixels = RANDOM.integers(0, 256, (3, side, side + 10), np.uint8)
        picture(tmp_path / "photos" / str(index % 2) / f"{index}.jpg", pixels)
    with pytest.raises(DataError, match=r"different sizes \(30 × 20, .*110 × 100.*--image-size 48"):
        read("folder", tmp_path / "photos")
    dataset = read("folder", tmp_path / "photos", image_size=48)
    assert ((3, 48, 48), "photo") == (dataset.shape, dataset.style)
    assert ("resolution is lost: 1 of 3 pictures, up to 110 × 100 pixels, become 48 × 48",) == dataset.notes
    grey = read("folder", tmp_path / "photos", image_size=48, channels=1)
    assert ((1, 48, 48), True) == (grey.shape, "colour is lost" in grey.notes[-1])


def test_large_pictures_need_a_size(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """64 pixels a side are small, 65 are not."""
    for side in (64, 65):
        picture(tmp_path / str(side) / "a" / "0.png", np.full((side, side), 9, np.uint8))
    assert (1, 64, 64) == read("folder", tmp_path / "64").shape
    with pytest.raises(DataError, match=r"more than 64 pixels a side \(65 × 65\).*--image-size 48"):
        read("folder", tmp_path / "65")


def test_grey_stored_as_colour_is_grey(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Three equal channels are one; a single coloured picture makes all of them colour."""
    for index in range(4):
        picture(tmp_path / "set" / str(index % 2) / f"{index}.png", np.stack([GREY[index]] * 3))
    assert (1, 28, 28) == read("folder", tmp_path / "set").shape
    picture(tmp_path / "set" / "1" / "9.png", RANDOM.integers(0, 256, (3, 28, 28), np.uint8))
    dataset = read("folder", tmp_path / "set")
    assert (3, 28, 28) == dataset.shape
    assert np.array_equal(np.stack([GREY[0]] * 3), dataset.train.images[0])


def test_unreadable_pictures_are_named(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """One line: how many, the first one's path, and why."""
    picture(tmp_path / "set" / "a" / "0.png", GREY[0])
    (tmp_path / "set" / "a" / "1.png").write_bytes((tmp_path / "set" / "a" / "0.png").read_bytes()[:200])
    (tmp_path / "set" / "a" / "2.jpg").write_bytes(b"GIF89a, not a JPEG")
    with pytest.raises(DataError, match=r"2 of 3 pictures cannot be read, the first is .*1\.png: .*decoded"):
        read("folder", tmp_path / "set")


@pytest.mark.parametrize("lying_about", [[], ["readme.txt"], ["a/notes.txt"], ["1.png"]])
def test_a_folder_without_pictures_in_classes(
    tmp_path: Path, read: Callable[..., Dataset], lying_about: list[str]
) -> None:
    """Nothing in it, no pictures, or pictures outside any class: what is wanted is said."""
    (tmp_path / "set").mkdir()
    for name in lying_about:
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"")
    with pytest.raises(DataError, match="has no pictures, accepted: a folder for each class"):
        read("folder", tmp_path / "set")


def test_arrays_of_any_layout(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """(n, h, w), colour first or last, Keras's names with labels in a column: the same images."""
    labels = np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=GREY, labels=labels)
    np.savez(tmp_path / "b.npz", images=COLOUR, labels=labels, test_images=COLOUR[:4], test_labels=labels[:4])
    last = COLOUR.transpose(0, 2, 3, 1)
    np.savez_compressed(
        tmp_path / "c.npz",
        x_train=last.astype(float),
        y_train=labels[:, None],
        x_test=last[:2],
        y_test=labels[:2],
    )
    assert np.array_equal(GREY, read("npz", tmp_path / "a.npz").train.images[:, 0])
    assert np.array_equal(COLOUR[:4], read("npz", tmp_path / "b.npz").test.images)
    keras = read("npz", tmp_path / "c.npz")
    assert np.array_equal(COLOUR, keras.train.images)
    assert (2, [0, 1, 2]) == (len(keras.test), keras.train.labels[:3].tolist())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY}, "has the arrays pictures, accepted: images, labels"),
        ({"images": GREY, "labels": np.arange(11)}, "labels is int64 (11,), accepted: whole numbers or text"),
        ({"images": GREY, "labels": np.eye(12)}, "labels is float64 (12, 12)"),
        (
            {"images": GREY.reshape(12, -1), "labels": np.arange(12)},
            "images is (12, 784), accepted: (n, height",
        ),
        ({"images": GREY[:0], "labels": np.arange(0)}, "images is (0, 1, 28, 28)"),
        ({"images": COLOUR[:, :2], "labels": np.arange(12)}, "images is (12, 2, 16, 16)"),
        ({"images": GREY / 255, "labels": np.arange(12)}, "multiplied by 255"),
        ({"images": GREY.astype(int) + 1, "labels": np.arange(12)}, "is 256, accepted: whole numbers from 0"),
        ({"images": GREY > 9, "labels": np.arange(12)}, "images holds bool, accepted: numbers"),
        ({"images": GREY, "labels": np.array([None] * 12)}, "holds Python objects"),
        (
            {"images": GREY, "labels": np.arange(12), "test_images": GREY},
            "has no array 'test_labels'",
        ),
    ],
)
def test_wrong_arrays_are_explained(
    tmp_path: Path, read: Callable[..., Dataset], arrays: dict[str, np.ndarray], message: str
) -> None:
    """Other names, other counts, other shapes, other kinds of numbers, pickled objects."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read("npz", tmp_path / "a.npz")
    assert message in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """An array of objects in an npz, or a bare pickle by that name, runs nothing."""

    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sung"),)

    np.savez(tmp_path / "a.npz", images=np.array([Canary()], object), labels=np.arange(1))
    for content in ((tmp_path / "a.npz").read_bytes(), b"\x80\x04.", b"\x93NUMPY", b""):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError):
            read("npz", tmp_path / "a.npz")
    assert not (tmp_path / "sung").exists()


def test_a_torn_npz_is_refused(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Cut short, flipped bits, a shape larger than any memory: one line each."""
    np.savez(tmp_path / "a.npz", images=GREY, labels=np.arange(12))
    whole = (tmp_path / "a.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    for content in (whole[:-300], bytes(flipped)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"no sound npz file|is no npz file"):
            read("npz", tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<u8", "fortran_order": False, "shape": (2**45, 28, 28)}
        )
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", header.getvalue())
    with pytest.raises(DataError, match="no sound npz file"):
        read("npz", tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "npz"])
def test_what_is_not_there_is_named(tmp_path: Path, read: Callable[..., Dataset], kind: str) -> None:
    """A missing path, a file for a folder and a folder for a file are told apart."""
    with pytest.raises(NotFoundError, match="nowhere is not there"):
        read(kind, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    wrong = tmp_path / "file" if kind == "folder" else tmp_path
    with pytest.raises(DataError, match=rf"is no (file|folder), which {kind}: needs"):
        read(kind, wrong)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(DataError, match="is no"):
        read(kind, tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_the_machines_fault(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Permission denied is told as such."""
    (tmp_path / "a.csv").write_text("label,a\n1,2\n")
    (tmp_path / "a.csv").chmod(0)
    with pytest.raises(InfrastructureError, match=r"cannot read .*: Permission denied"):
        read("csv", tmp_path / "a.csv")


def test_too_many_labels_are_no_labels(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A column of measurements is not taken for a thousand classes."""
    np.savez(tmp_path / "a.npz", images=np.zeros((1001, 8, 8), np.uint8), labels=np.arange(1001))
    with pytest.raises(DataError, match="1001 different labels, accepted: up to 1000"):
        read("npz", tmp_path / "a.npz")


def test_classes_are_ordered_as_a_reader_would() -> None:
    """Whole numbers by value, anything else by name, none twice."""
    assert ("-1", "2", "10") == sort_class_names(["10", "2", "-1", "2"])
    assert ("10", "2", "b") == sort_class_names(["b", "10", "2"])


def test_the_style_of_ones_own_images() -> None:
    """Grey drawings with a free dark edge are strokes; colour, light ground or full frames are plain."""
    drawing = np.zeros((20, 1, 28, 28), np.uint8)
    drawing[..., 4:24, 10:18] = 255
    framed = drawing.copy()
    framed[:3, :, 0, 5] = 255
    few_framed = drawing.copy()
    few_framed[:2, :, 0, 5] = 255
    styles = [
        infer_style(images) for images in (drawing, few_framed, framed, 255 - drawing, drawing.repeat(3, 1))
    ]
    assert ["mnist", "mnist", "photo", "photo", "photo"] == styles
