"""Promises of the golden requests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relearn.model.errors import CorruptDataError
from relearn.model.images.decode import decode_image
from relearn.model.inference.classifier import Classifier
from relearn.serving.releases.golden import SAMPLE_SIZE, Golden
from relearn.serving.releases.ledger import GOLDEN_FILE


@pytest.fixture
def golden(classifier: Classifier, images: np.ndarray) -> Golden:
    return Golden.from_classifier(classifier, images)


def test_golden_requests_are_images_with_predictions(
    golden: Golden, classifier: Classifier, images: np.ndarray
):
    """The images are evenly spaced from the first to the last; the classifier itself predicts them."""
    assert SAMPLE_SIZE == len(golden.images)
    assert np.array_equal(images[[0, -1]], golden.images[[0, -1]])
    assert np.array_equal(classifier.predict(golden.images), golden.probabilities)
    assert 3 == len(Golden.from_classifier(classifier, images[:3]).images)


def test_loaded_golden_requests_equal_saved_ones(golden: Golden, tmp_path: Path):
    golden.save(tmp_path)
    loaded = Golden.load(tmp_path)
    assert np.array_equal(golden.images, loaded.images)
    assert np.array_equal(golden.probabilities, loaded.probabilities)


def test_different_classifier_fails_check(
    golden: Golden, classifier: Classifier, make_classifier: Callable[..., Classifier]
):
    """The same classifier passes, also with one image per batch."""
    golden.check(classifier.predict(golden.images))
    golden.check(np.concatenate([classifier.predict(image[None]) for image in golden.images]))
    with pytest.raises(CorruptDataError, match=r"32 golden requests differ by up to .*, accepted: 1e-05"):
        golden.check(make_classifier(seed=1).predict(golden.images))


@pytest.mark.parametrize("wrong", [np.full((32, 10), np.nan), np.zeros((32, 9)), np.zeros((31, 10))])
def test_invalid_probabilities_fail_check(golden: Golden, wrong: np.ndarray):
    """NaN and wrong shapes are rejected like wrong numbers."""
    with pytest.raises(CorruptDataError):
        golden.check(wrong.astype(np.float32))


@pytest.mark.parametrize("content", [None, b"", b"torn", b"\x00" * 100])
def test_damaged_file_raises_corrupt_data_error(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / GOLDEN_FILE).write_bytes(content)
    with pytest.raises(CorruptDataError, match="cannot be read"):
        Golden.load(tmp_path)


@pytest.mark.parametrize("file_scale", [None, 1, 7, 255, 4095])
def test_example_file_is_the_first_image_in_the_scale_of_files(golden: Golden, file_scale: int | None):
    """Decoded as files of the classifier are, it is the image, or the nearest that the scale expresses."""
    decoded = np.asarray(decode_image(golden.encode_example(file_scale), white=file_scale))

    step = 255 / min(file_scale or 255, 255)
    assert np.abs(golden.images[0, 0] - decoded.astype(float)).max() <= step / 2
