"""Promises of additions: what joins a dataset, where it stands then, and what never changes by it."""

import numpy as np

from relearn.model.additions import Additions
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.prepared import Prepared, prepare
from relearn.model.splits import contents

MORE = tuple(np.random.default_rng(1).integers(0, 256, (60, 1, 12, 12), np.uint8))
NAMES = tuple(str(number % 4) for number in range(60))
ALL = Additions(MORE, NAMES, until=60)


def labels(prepared: Prepared, part: str) -> dict[int, str]:
    """The class of each image of a part, by content."""
    split = getattr(prepared.splits, part)
    names = [prepared.classes[label] for label in split.labels]
    return dict(zip(contents(split.images).tolist(), names, strict=True))


def numbers(images: tuple[np.ndarray, ...]) -> list[int]:
    return contents(np.array(images)).tolist()


def test_what_joins_is_learned_from_or_validated_by(home: Home, config: TrainConfig) -> None:
    """Each image once, under its own class; the test part stays as it is."""
    before, after = prepare(config, home), prepare(config, home, ALL)
    train, validation = labels(after, "train"), labels(after, "validation")
    told = dict(zip(numbers(MORE), NAMES, strict=True))

    assert told.items() <= (train | validation).items()
    assert 0 < len(validation.keys() & told.keys()) < 20  # a tenth, by content
    assert labels(before, "train").items() <= train.items()
    assert np.array_equal(before.splits.test.images, after.splits.test.images)
    assert np.array_equal(before.splits.test.labels, after.splits.test.labels)
    assert 260 == sum(map(sum, after.counts.values()))
    assert (60, 0, 0, 60) == (
        after.additions.images,
        after.additions.refused,
        after.additions.left_out,
        after.additions.until,
    )


def test_an_image_keeps_its_side(home: Home, config: TrainConfig) -> None:
    """Whatever joins with it, and in whichever order."""
    some, more = prepare(config, home, Additions(MORE[:20], NAMES[:20])), prepare(config, home, ALL)
    assert labels(some, "validation").items() <= labels(more, "validation").items()
    assert labels(some, "train").items() <= labels(more, "train").items()


def test_the_fingerprint_tells_what_joined(home: Home, config: TrainConfig) -> None:
    """Other images or labels are other data; the order is none, and nothing is the dataset alone."""
    plain, whole = prepare(config, home), prepare(config, home, ALL)
    turned = Additions(MORE[::-1], NAMES[::-1], until=61)
    fewer = Additions(MORE[:59], NAMES[:59])
    other = Additions(MORE, (*NAMES[:59], "0"))

    assert "3" == NAMES[59]
    assert (plain.folder, plain.fingerprint) == (
        prepare(config, home, Additions(until=9)).folder,
        prepare(config, home, Additions(until=9)).fingerprint,
    )
    assert (None, "") == (plain.additions, Additions().digest)
    assert whole.folder == prepare(config, home, turned).folder
    prints = {prepare(config, home, one).fingerprint for one in (Additions(), ALL, fewer, other)}
    assert 4 == len(prints)


def test_held_out_images_are_not_learned_from(home: Home, config: TrainConfig) -> None:
    """Neither those of the dataset nor those that would join; where none was there, nothing has changed."""
    plain = prepare(config, home)
    own = contents(plain.splits.train.images)[:3]
    held_out = np.concatenate([own, contents(MORE[0][None])])
    after = prepare(config, home, Additions(MORE[:2], NAMES[:2], held_out))
    only = prepare(config, home, Additions(held_out=own))
    nowhere = prepare(config, home, Additions(held_out=contents(MORE[5][None])))

    assert (1, 1, 3) == (after.additions.images, after.additions.refused, after.additions.left_out)
    assert not np.isin(held_out, after.splits.seen).any()
    assert np.isin(contents(MORE[1][None]), after.splits.seen).all()
    assert plain.fingerprint == nowhere.fingerprint
    assert 3 == len({plain.fingerprint, only.fingerprint, after.fingerprint})
    assert np.array_equal(plain.splits.train.images, nowhere.splits.train.images)


def test_a_joined_label_takes_the_place_of_another(home: Home, config: TrainConfig) -> None:
    """An image stands under one label, the one that joined."""
    plain = prepare(config, home)
    image, before = plain.splits.train.images[0].copy(), plain.classes[plain.splits.train.labels[0]]
    label = str((int(before) + 1) % 4)
    after = prepare(config, home, Additions((image,), (label,)))

    assert label == labels(after, "train")[numbers((image,))[0]]
    assert len(plain.splits.train) == len(after.splits.train)
    assert (1, 1) == (after.additions.images, after.additions.left_out)
    assert plain.fingerprint != after.fingerprint


def test_what_does_not_fit_stays_out_and_is_told(home: Home, config: TrainConfig) -> None:
    """Another class, another shape, a test image: none joins, the rest does."""
    test = prepare(config, home).splits.test.images[0].copy()
    images = (MORE[0], MORE[1], np.zeros((1, 8, 8), np.uint8), test)
    after = prepare(config, home, Additions(images, ("0", "cat", "0", "0")))

    assert (1, 3) == (after.additions.images, after.additions.refused)
    assert not np.isin(numbers((MORE[1], test)), after.splits.seen).any()
    told = [finding for finding in after.findings if finding.check == "additions"]
    assert [("warning", 3)] == [(finding.level, finding.count) for finding in told]


def test_equal_images_join_once(home: Home, config: TrainConfig) -> None:
    after = prepare(config, home, Additions((MORE[0], MORE[0].copy()), ("0", "0")))
    assert 1 == int((after.splits.seen == contents(MORE[0][None])[0]).sum())
