"""Promises of a dataset's fingerprint."""

from dataclasses import replace

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (4, 28, 28), np.uint8), np.arange(4)


def test_fingerprint_covers_content_and_order() -> None:
    """Pixels, shape, labels, class names and splits change it; name and notes do not."""
    split = LabelledImages(IMAGES[:, None], LABELS)
    base = Dataset("a", "a", ("x", "y"), "photo", split, None)
    reversed_labels = replace(split, labels=split.labels[::-1].copy())
    brighter = replace(split, images=np.where(split.images == 7, 8, split.images).astype(np.uint8))
    variants = [
        replace(base, train=reversed_labels),
        replace(base, train=brighter),
        replace(base, classes=("x", "z")),
        replace(base, test=split),
        replace(base, train=replace(split, images=split.images.reshape(4, 1, 14, 56))),
    ]
    assert 6 == len({base.fingerprint, *(variant.fingerprint for variant in variants)})
    assert base.fingerprint == replace(base, name="b", notes=("note",)).fingerprint
