"""Promises of additions: what joins a dataset, where it stands then, and what never changes by it."""

import numpy as np

from relearn.model.config import TrainConfig
from relearn.model.data.extra_images import ExtraImages
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.data.splits import hash_contents
from relearn.model.home import Home

MORE = tuple(np.random.default_rng(1).integers(0, 256, (60, 1, 12, 12), np.uint8))
NAMES = tuple(str(number % 4) for number in range(60))
ALL = ExtraImages(MORE, NAMES, last_decision=60)


def labels(prepared: PreparedDataset, part: str) -> dict[int, str]:
    """The class of each image of a part, by content."""
    split = getattr(prepared.splits, part)
    names = [prepared.classes[label] for label in split.labels]
    return dict(zip(hash_contents(split.images).tolist(), names, strict=True))


def numbers(images: tuple[np.ndarray, ...]) -> list[int]:
    return hash_contents(np.array(images)).tolist()


def test_what_joins_is_learned_from_or_validated_by(home: Home, config: TrainConfig) -> None:
    """Each image once, under its own class; the test part stays as it is."""
    before, after = prepare_dataset(config, home), prepare_dataset(config, home, ALL)
    train, validation = labels(after, "train"), labels(after, "validation")
    told = dict(zip(numbers(MORE), NAMES, strict=True))

    assert told.items() <= (train | validation).items()
    assert 0 < len(validation.keys() & told.keys()) < 20  # a tenth, by content
    assert labels(before, "train").items() <= train.items()
    assert np.array_equal(before.splits.test.images, after.splits.test.images)
    assert np.array_equal(before.splits.test.labels, after.splits.test.labels)
    assert 260 == sum(map(sum, after.counts.values()))
    assert (60, 0, 0, 60) == (
        after.extra_images.merged,
        after.extra_images.rejected,
        after.extra_images.removed,
        after.extra_images.last_decision,
    )


def test_an_image_keeps_its_side(home: Home, config: TrainConfig) -> None:
    """Whatever joins with it, and in whichever order."""
    some, more = (
        prepare_dataset(config, home, ExtraImages(MORE[:20], NAMES[:20])),
        prepare_dataset(config, home, ALL),
    )
    assert labels(some, "validation").items() <= labels(more, "validation").items()
    assert labels(some, "train").items() <= labels(more, "train").items()


def test_the_fingerprint_tells_what_joined(home: Home, config: TrainConfig) -> None:
    """Other images or labels are other data; the order is none, and nothing is the dataset alone."""
    plain, whole = prepare_dataset(config, home), prepare_dataset(config, home, ALL)
    turned = ExtraImages(MORE[::-1], NAMES[::-1], last_decision=61)
    fewer = ExtraImages(MORE[:59], NAMES[:59])
    other = ExtraImages(MORE, (*NAMES[:59], "0"))

    assert "3" == NAMES[59]
    assert (plain.folder, plain.fingerprint) == (
        prepare_dataset(config, home, ExtraImages(last_decision=9)).folder,
        prepare_dataset(config, home, ExtraImages(last_decision=9)).fingerprint,
    )
    assert (None, "") == (plain.extra_images, ExtraImages().digest)
    assert whole.folder == prepare_dataset(config, home, turned).folder
    prints = {prepare_dataset(config, home, one).fingerprint for one in (ExtraImages(), ALL, fewer, other)}
    assert 4 == len(prints)


def test_held_out_images_are_not_learned_from(home: Home, config: TrainConfig) -> None:
    """Neither those of the dataset nor those that would join; where none was there, nothing has changed."""
    plain = prepare_dataset(config, home)
    own = hash_contents(plain.splits.train.images)[:3]
    held_out = np.concatenate([own, hash_contents(MORE[0][None])])
    after = prepare_dataset(config, home, ExtraImages(MORE[:2], NAMES[:2], held_out))
    only = prepare_dataset(config, home, ExtraImages(excluded_hashes=own))
    nowhere = prepare_dataset(config, home, ExtraImages(excluded_hashes=hash_contents(MORE[5][None])))

    assert (1, 1, 3) == (after.extra_images.merged, after.extra_images.rejected, after.extra_images.removed)
    assert not np.isin(held_out, after.splits.train_val_hashes).any()
    assert np.isin(hash_contents(MORE[1][None]), after.splits.train_val_hashes).all()
    assert plain.fingerprint == nowhere.fingerprint
    assert 3 == len({plain.fingerprint, only.fingerprint, after.fingerprint})
    assert np.array_equal(plain.splits.train.images, nowhere.splits.train.images)


def test_a_joined_label_takes_the_place_of_another(home: Home, config: TrainConfig) -> None:
    """An image stands under one label, the one that joined."""
    plain = prepare_dataset(config, home)
    image, before = plain.splits.train.images[0].copy(), plain.classes[plain.splits.train.labels[0]]
    label = str((int(before) + 1) % 4)
    after = prepare_dataset(config, home, ExtraImages((image,), (label,)))

    assert label == labels(after, "train")[numbers((image,))[0]]
    assert len(plain.splits.train) == len(after.splits.train)
    assert (1, 1) == (after.extra_images.merged, after.extra_images.removed)
    assert plain.fingerprint != after.fingerprint


def test_what_does_not_fit_stays_out_and_is_told(home: Home, config: TrainConfig) -> None:
    """Another class, another shape, a test image: none joins, the rest does."""
    test = prepare_dataset(config, home).splits.test.images[0].copy()
    images = (MORE[0], MORE[1], np.zeros((1, 8, 8), np.uint8), test)
    after = prepare_dataset(config, home, ExtraImages(images, ("0", "cat", "0", "0")))

    assert (1, 3) == (after.extra_images.merged, after.extra_images.rejected)
    assert not np.isin(numbers((MORE[1], test)), after.splits.train_val_hashes).any()
    told = [finding for finding in after.findings if finding.check == "additions"]
    assert [("warning", 3)] == [(finding.level, finding.count) for finding in told]


def test_equal_images_join_once(home: Home, config: TrainConfig) -> None:
    after = prepare_dataset(config, home, ExtraImages((MORE[0], MORE[0].copy()), ("0", "0")))
    assert 1 == int((after.splits.train_val_hashes == hash_contents(MORE[0][None])[0]).sum())
