"""Promises of the validation: each finding has its count and an example."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import split_dataset
from relearn.model.home import Home
from relearn.model.preparation.validation import (
    Finding,
    findings_table,
    measure_class_balance,
    validate_dataset,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 1, 8, 8), np.uint8)
LABELS = (np.arange(300) % 3).astype(np.int64)
TEST_SPLIT = LabelledImages(RNG.integers(0, 256, (60, 1, 8, 8), np.uint8), LABELS[:60])


def findings_by_check(
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    test: LabelledImages | None = TEST_SPLIT,
    **changes: Any,
) -> dict[str, Finding]:
    """Validate a valid dataset with changes; return the findings by check."""
    fields = {"classes": ("ant", "bee", "cat"), "notes": ()} | changes
    dataset = Dataset(
        "some", "some", style="photo", train=LabelledImages(images, labels), test=test, **fields
    )
    return {
        finding.check: finding for finding in validate_dataset(dataset, split_dataset(dataset, 0.15, 0.2))
    }


def with_value(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    """Copy the array and set `array[index]`."""
    array = array.copy()
    array[index] = value
    return array


def test_valid_data_has_no_findings() -> None:
    """Random images with balanced labels pass every check."""
    assert {} == findings_by_check()


@pytest.mark.parametrize("label", [3, 255, -1])
def test_labels_out_of_range_are_errors(label: int) -> None:
    """The finding has their number and the first place."""
    finding = findings_by_check(labels=with_value(with_value(LABELS, 17, label), 40, label))["label range"]
    assert ("error", 2, f"image 17 has label {label}") == (finding.level, finding.count, finding.example)


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images"),
        ({"images": IMAGES[:, 0]}, "images"),
        ({"test": LabelledImages(TEST_SPLIT.images[:, :, :7], TEST_SPLIT.labels)}, "shape"),
        ({"labels": LABELS.astype(np.int32)}, "labels"),
        ({"test": LabelledImages(TEST_SPLIT.images, TEST_SPLIT.labels[:59])}, "labels"),
    ],
)
def test_arrays_of_another_type_or_shape_are_errors(changes: dict[str, Any], check: str) -> None:
    """Type and rank of images, shape of test images, number and type of labels are checked."""
    assert "error" == findings_by_check(**changes)[check].level


def test_class_without_images_in_a_split_is_a_warning() -> None:
    """The finding names the class."""
    finding = findings_by_check(classes=("ant", "bee", "cat", "dog"))["missing class"]
    assert ("warning", 1, "dog") == (finding.level, finding.count, finding.example)


def test_one_class_is_an_error() -> None:
    """At least two classes need images."""
    finding = findings_by_check(labels=np.zeros_like(LABELS), test=None)["classes"]
    assert ("error", "at least two classes need images, got 1: ant") == (finding.level, finding.message)


def test_empty_split_is_an_error() -> None:
    """The message has the number of images and what is accepted."""
    finding = findings_by_check(images=IMAGES[:3], labels=LABELS[:3])["empty split"]
    assert "error" == finding.level
    assert "got 63 images, accepted: three or more of a class" in finding.message


def test_imbalance_is_a_warning() -> None:
    """From a ratio of three on, the finding has the counts of the largest and the smallest class."""
    labels = np.repeat([0, 1, 2], (220, 50, 30))
    finding = findings_by_check(labels=labels, test=None)["imbalance"]
    assert ("warning", 220, "ant: 220, cat: 30") == (finding.level, finding.count, finding.example)
    assert "7.3 times" in finding.message
    assert (2.0, "uneven") == measure_class_balance(np.array([2, 4, 3]))
    assert (float("inf"), "imbalanced") == measure_class_balance(np.array([0, 4]))
    assert "balanced" == measure_class_balance(np.array([6742, 5421]))[1]


def test_constant_images_are_a_warning() -> None:
    """Images of a single value are counted, and the first is the example."""
    finding = findings_by_check(images=with_value(with_value(IMAGES, 5, 0), 9, 77))["constant image"]
    assert ("warning", 2, "image 5: all 0") == (finding.level, finding.count, finding.example)


def test_duplicates_and_conflicting_labels_are_warnings() -> None:
    """Repeated images are counted, and so are those with different labels."""
    images = with_value(with_value(with_value(IMAGES, 30, IMAGES[0]), 60, IMAGES[0]), 100, IMAGES[7])
    findings = findings_by_check(images=images, labels=with_value(LABELS, 100, (LABELS[7] + 1) % 3))
    assert ("warning", 3) == (findings["duplicate"].level, findings["duplicate"].count)
    conflict = findings["two labels"]
    assert ("warning", 1, "image 7 is bee, image 100 is cat") == (
        conflict.level,
        conflict.count,
        conflict.example,
    )


def test_leakage_is_a_warning_and_an_error_if_complete() -> None:
    """Some test images that are training images are a warning; if all are, an error."""
    leaked = LabelledImages(with_value(TEST_SPLIT.images, slice(10, 13), IMAGES[20:23]), TEST_SPLIT.labels)
    finding = findings_by_check(test=leaked)["leak"]
    assert ("warning", 3, "test 10 is train 20") == (finding.level, finding.count, finding.example)
    assert "5.00%" in finding.message
    assert "error" == findings_by_check(test=LabelledImages(IMAGES[:60], LABELS[:60]))["leak"].level


def test_notes_from_loading_are_warnings() -> None:
    """A note of the dataset becomes a finding."""
    assert "color is lost" == findings_by_check(notes=("color is lost",))["loading"].message


def test_errors_come_first() -> None:
    """The list and its table are sorted by level."""
    dataset = Dataset(
        "some", "some", ("a", "b"), "photo", LabelledImages(IMAGES, LABELS * 0), None, notes=("note",)
    )
    rows = findings_table(validate_dataset(dataset, split_dataset(dataset, 0.15, 0.2)))
    assert ["level", "check", "message", "count", "example"] == list(rows.columns)
    assert "error" == rows["level"].iloc[0]
    assert "warning" == rows["level"].iloc[-1]
    assert 0 == len(findings_table([]))


def test_real_mnist_has_no_findings(real_data: Path, tmp_path: Path) -> None:
    """MNIST has no duplicates, no leak, no constant images, and balanced classes."""
    mnist = load_dataset(TrainConfig(dataset="mnist"), Home(tmp_path, real_data))
    assert [] == validate_dataset(mnist, split_dataset(mnist, 0.15, 0.2))


def test_near_duplicates_of_two_classes_are_a_finding(tmp_path: Path) -> None:
    """A photo that is in another class again, smaller and as JPEG, is named with both files."""
    thumbnails = RNG.integers(0, 256, (24, 12, 12, 3), np.uint8)
    photos = [Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC) for image in thumbnails]
    for index, photo in enumerate(photos):
        folder = tmp_path / "photos" / ("ant" if index % 2 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        photo.save(folder / f"{index}.png")
    config, home = TrainConfig(dataset=str(tmp_path / "photos")), Home(tmp_path, tmp_path)

    def find_two_labels() -> list[Finding]:
        dataset = load_dataset(config, home)
        findings = validate_dataset(dataset, split_dataset(dataset, 0.2, 0.2))
        return [finding for finding in findings if finding.check == "two labels"]

    assert [] == find_two_labels()
    photos[3].resize((64, 64)).save(tmp_path / "photos" / "bee" / "again.jpg", quality=70)
    (finding,) = find_two_labels()
    assert 2 == finding.count
    assert {"3.png is ant", "again.jpg is bee"} == {
        part.rpartition("/")[2] for part in finding.example.split(", ")
    }
