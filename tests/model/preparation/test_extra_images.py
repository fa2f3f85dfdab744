"""Promises of extra images: which are merged, into which split, and what never changes."""

import numpy as np

from relearn.model.config import TrainConfig
from relearn.model.data.splits import hash_contents
from relearn.model.home import Home
from relearn.model.preparation.extra_images import ExtraImages
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset

EXTRA_ARRAYS = tuple(np.random.default_rng(1).integers(0, 256, (60, 1, 12, 12), np.uint8))
CLASS_NAMES = tuple(str(number % 4) for number in range(60))
EXTRA_IMAGES = ExtraImages(EXTRA_ARRAYS, CLASS_NAMES, last_decision=60)


def classes_by_hash(prepared: PreparedDataset, split_name: str) -> dict[int, str]:
    """The class of each image of a split, by content hash."""
    split = getattr(prepared.splits, split_name)
    names = [prepared.classes[label] for label in split.labels]
    return dict(zip(hash_contents(split.images).tolist(), names, strict=True))


def hashes_of(images: tuple[np.ndarray, ...]) -> list[int]:
    return hash_contents(np.array(images)).tolist()


def test_extra_images_are_merged_into_train_and_validation(home: Home, config: TrainConfig) -> None:
    """Each image is merged once with its class; the test split does not change."""
    before, after = prepare_dataset(config, home), prepare_dataset(config, home, EXTRA_IMAGES)
    train, validation = classes_by_hash(after, "train"), classes_by_hash(after, "validation")
    extra = dict(zip(hashes_of(EXTRA_ARRAYS), CLASS_NAMES, strict=True))

    assert extra.items() <= (train | validation).items()
    assert 0 < len(validation.keys() & extra.keys()) < 20  # a fifth, selected by content
    assert classes_by_hash(before, "train").items() <= train.items()
    assert np.array_equal(before.splits.test.images, after.splits.test.images)
    assert np.array_equal(before.splits.test.labels, after.splits.test.labels)
    assert 260 == sum(map(sum, after.counts.values()))
    assert (60, 0, 0, 60) == (
        after.extra_images.merged,
        after.extra_images.rejected,
        after.extra_images.removed,
        after.extra_images.last_decision,
    )


def test_extra_image_keeps_its_split(home: Home, config: TrainConfig) -> None:
    """Its split does not depend on the other extra images."""
    fewer, all_merged = (
        prepare_dataset(config, home, ExtraImages(EXTRA_ARRAYS[:20], CLASS_NAMES[:20])),
        prepare_dataset(config, home, EXTRA_IMAGES),
    )
    assert classes_by_hash(fewer, "validation").items() <= classes_by_hash(all_merged, "validation").items()
    assert classes_by_hash(fewer, "train").items() <= classes_by_hash(all_merged, "train").items()


def test_fingerprint_covers_the_extra_images(home: Home, config: TrainConfig) -> None:
    """Other images or labels change it, their order does not; without any it is the dataset's."""
    plain, merged = prepare_dataset(config, home), prepare_dataset(config, home, EXTRA_IMAGES)
    reversed_order = ExtraImages(EXTRA_ARRAYS[::-1], CLASS_NAMES[::-1], last_decision=61)
    fewer = ExtraImages(EXTRA_ARRAYS[:59], CLASS_NAMES[:59])
    relabeled = ExtraImages(EXTRA_ARRAYS, (*CLASS_NAMES[:59], "0"))

    assert "3" == CLASS_NAMES[59]
    assert (plain.folder, plain.fingerprint) == (
        prepare_dataset(config, home, ExtraImages(last_decision=9)).folder,
        prepare_dataset(config, home, ExtraImages(last_decision=9)).fingerprint,
    )
    assert (None, "") == (plain.extra_images, ExtraImages().digest)
    assert merged.folder == prepare_dataset(config, home, reversed_order).folder
    variants = (ExtraImages(), EXTRA_IMAGES, fewer, relabeled)
    assert 4 == len({prepare_dataset(config, home, extra).fingerprint for extra in variants})


def test_extra_image_replaces_an_equal_image(home: Home, config: TrainConfig) -> None:
    """The image has one label, that of the extra image."""
    plain = prepare_dataset(config, home)
    image, before = plain.splits.train.images[0].copy(), plain.classes[plain.splits.train.labels[0]]
    label = str((int(before) + 1) % 4)
    after = prepare_dataset(config, home, ExtraImages((image,), (label,)))

    assert label == classes_by_hash(after, "train")[hashes_of((image,))[0]]
    assert len(plain.splits.train) == len(after.splits.train)
    assert (1, 1) == (after.extra_images.merged, after.extra_images.removed)
    assert plain.fingerprint != after.fingerprint


def test_extra_images_that_do_not_fit_are_rejected_with_a_warning(home: Home, config: TrainConfig) -> None:
    """An unknown class, another shape and a test image are rejected, the rest is merged."""
    test = prepare_dataset(config, home).splits.test.images[0].copy()
    images = (EXTRA_ARRAYS[0], EXTRA_ARRAYS[1], np.zeros((1, 8, 8), np.uint8), test)
    after = prepare_dataset(config, home, ExtraImages(images, ("0", "cat", "0", "0")))

    assert (1, 3) == (after.extra_images.merged, after.extra_images.rejected)
    assert not np.isin(hashes_of((EXTRA_ARRAYS[1], test)), after.splits.train_val_hashes).any()
    warnings = [finding for finding in after.findings if finding.check == "extra images"]
    assert [("warning", 3)] == [(finding.level, finding.count) for finding in warnings]


def test_equal_extra_images_are_merged_once(home: Home, config: TrainConfig) -> None:
    """Two copies of an image become one training image."""
    after = prepare_dataset(config, home, ExtraImages((EXTRA_ARRAYS[0], EXTRA_ARRAYS[0].copy()), ("0", "0")))
    assert 1 == int((after.splits.train_val_hashes == hash_contents(EXTRA_ARRAYS[0][None])[0]).sum())
