"""Promises of the checks before training: each finding is named with its number and an example."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import split_dataset
from relearn.model.data.validation import Finding, findings_table, measure_class_balance, validate_dataset
from relearn.model.home import Home

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (300, 1, 8, 8), np.uint8)
LABELS = (np.arange(300) % 3).astype(np.int64)
TEST = LabelledImages(RANDOM.integers(0, 256, (60, 1, 8, 8), np.uint8), LABELS[:60])


def findings(
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    test: LabelledImages | None = TEST,
    **changes: Any,
) -> dict[str, Finding]:
    """What is found in a sound dataset with changes, by check."""
    given = {"classes": ("ant", "bee", "cat"), "notes": ()} | changes
    dataset = Dataset("some", "some", style="photo", train=LabelledImages(images, labels), test=test, **given)
    return {
        finding.check: finding for finding in validate_dataset(dataset, split_dataset(dataset, 0.15, 0.2))
    }


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def test_sound_data_has_no_findings() -> None:
    """Nothing is found where nothing is wrong."""
    assert {} == findings()


@pytest.mark.parametrize("label", [3, 255, -1])
def test_labels_outside_the_classes(label: int) -> None:
    """An error with how many and the first one's place."""
    found = findings(labels=changed(changed(LABELS, 17, label), 40, label))["label range"]
    assert ("error", 2, f"image 17 has label {label}") == (found.level, found.count, found.example)


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images"),
        ({"images": IMAGES[:, 0]}, "images"),
        ({"test": LabelledImages(TEST.images[:, :, :7], TEST.labels)}, "shape"),
        ({"labels": LABELS.astype(np.int32)}, "labels"),
        ({"test": LabelledImages(TEST.images, TEST.labels[:59])}, "labels"),
    ],
)
def test_arrays_of_another_form(changes: dict[str, Any], check: str) -> None:
    """Type, rank, shape of test images, count and type of labels: each is an error."""
    assert "error" == findings(**changes)[check].level


def test_an_absent_class() -> None:
    """A class without an image in a split is a warning that names it."""
    found = findings(classes=("ant", "bee", "cat", "dog"))["missing class"]
    assert ("warning", 1, "dog") == (found.level, found.count, found.example)


def test_one_class_cannot_be_learned() -> None:
    """Fewer than two classes with images is an error."""
    found = findings(labels=np.zeros_like(LABELS), test=None)["classes"]
    assert ("error", "at least two classes need images, got 1: ant") == (found.level, found.message)


def test_an_empty_split() -> None:
    """A split without an image is an error that says what helps."""
    found = findings(images=IMAGES[:3], labels=LABELS[:3])["empty split"]
    assert ("error", True) == (found.level, "more images or a larger share" in found.message)


def test_imbalance() -> None:
    """Three times as many images of one class are a warning with both counts."""
    labels = np.repeat([0, 1, 2], (220, 50, 30))
    found = findings(labels=labels, test=None)["imbalance"]
    assert ("warning", 220, "ant: 220, cat: 30") == (found.level, found.count, found.example)
    assert "7.3 times" in found.message
    assert (2.0, "uneven") == measure_class_balance(np.array([2, 4, 3]))
    assert (float("inf"), "imbalanced") == measure_class_balance(np.array([0, 4]))
    assert "balanced" == measure_class_balance(np.array([6742, 5421]))[1]


def test_constant_images() -> None:
    """Images of a single value are counted, the first one named."""
    found = findings(images=changed(changed(IMAGES, 5, 0), 9, 77))["constant image"]
    assert ("warning", 2, "image 5: all 0") == (found.level, found.count, found.example)


def test_duplicates_and_two_labels() -> None:
    """Images that repeat are counted; among them those that contradict each other."""
    images = changed(changed(changed(IMAGES, 30, IMAGES[0]), 60, IMAGES[0]), 100, IMAGES[7])
    found = findings(images=images, labels=changed(LABELS, 100, (LABELS[7] + 1) % 3))
    assert ("warning", 3) == (found["duplicate"].level, found["duplicate"].count)
    torn = found["two labels"]
    assert ("warning", 1, "image 7 is bee, image 100 is cat") == (torn.level, torn.count, torn.example)


def test_a_leak() -> None:
    """Test images that were trained on are a warning; if all of them were, an error."""
    some = LabelledImages(changed(TEST.images, slice(10, 13), IMAGES[20:23]), TEST.labels)
    found = findings(test=some)["leak"]
    assert ("warning", 3, "test 10 is train 20") == (found.level, found.count, found.example)
    assert "5.00%" in found.message
    assert "error" == findings(test=LabelledImages(IMAGES[:60], LABELS[:60]))["leak"].level


def test_notes_of_loading_are_warnings() -> None:
    """What was lost while reading is told with the rest."""
    assert "colour is lost" == findings(notes=("colour is lost",))["loading"].message


def test_errors_come_first() -> None:
    """In the list and in its table."""
    dataset = Dataset(
        "some", "some", ("a", "b"), "photo", LabelledImages(IMAGES, LABELS * 0), None, notes=("note",)
    )
    rows = findings_table(validate_dataset(dataset, split_dataset(dataset, 0.15, 0.2)))
    assert ["level", "check", "message", "count", "example"] == list(rows.columns)
    assert "error" == rows["level"].iloc[0]
    assert "warning" == rows["level"].iloc[-1]
    assert 0 == len(findings_table([]))


def test_real_mnist_is_sound(real_data: Path, tmp_path: Path) -> None:
    """MNIST has no duplicates, no leak, no constant images, and balanced classes."""
    mnist = load_dataset(TrainConfig(dataset="mnist"), Home(tmp_path, real_data))
    assert [] == validate_dataset(mnist, split_dataset(mnist, 0.15, 0.2))
