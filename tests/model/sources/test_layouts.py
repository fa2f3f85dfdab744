"""Promises of reading anybody's data: the exact images, or a refusal; never a silent difference."""

import contextlib
import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import load_dataset
from relearn.model.home import Home
from tests.model.sources.layout_images import SUFFIXES, decode, encode
from tests.model.sources.layout_sketch import Truth
from tests.model.sources.layouts import CONTAINERS, Outcome, Verdict, compare, judge, make_layout

SHOWN_FAILURES = 25


def read_layouts(seeds: Sequence[int], folder: Path) -> Iterator[Verdict]:
    """Make, read and judge the layout of each seed; each has a home of its own."""
    for seed in seeds:
        place = folder / str(seed)
        home = Home(place / "home", place / "datasets")

        def load(source: str, home: Home = home) -> Dataset:
            with contextlib.redirect_stderr(io.StringIO()):
                return load_dataset(TrainConfig(dataset=source), home)

        yield judge(make_layout(seed, place / "data"), load)
        shutil.rmtree(place)


def count_outcomes(verdicts: Sequence[Verdict]) -> str:
    """Return a table of the outcomes by container; the last column is of layouts that have to be read."""
    outcomes: tuple[Outcome, ...] = ("read", "refused", "wrong", "untold", "crashed")
    lines = [
        f"{'container':<16}{'layouts':>9}" + "".join(f"{name:>9}" for name in outcomes) + f"{'to read':>16}"
    ]
    for container in (*CONTAINERS, "all"):
        own = [verdict for verdict in verdicts if container in {verdict.layout.container, "all"}]
        counts = Counter(verdict.outcome for verdict in own)
        to_read = [verdict for verdict in own if must_be_read(verdict)]
        read = sum(verdict.outcome == "read" for verdict in to_read)
        cells = "".join(f"{counts[name]:>9}" for name in outcomes)
        lines.append(f"{container:<16}{len(own):>9}{cells}{f'{read} of {len(to_read)}':>16}")
    return "\n".join(lines)


def must_be_read(verdict: Verdict) -> bool:
    """Return whether the layout has exactly one reading and no reason to be refused."""
    return verdict.layout.reading == "one" and not verdict.layout.optional


def check(verdicts: Sequence[Verdict]) -> None:
    """Fail where a layout is read differently, or where too many of one reading are refused."""
    table = count_outcomes(verdicts)
    sys.stdout.write(f"\n{table}\n")
    broken = [verdict for verdict in verdicts if not verdict.good]
    shown = "\n".join(map(str, broken[:SHOWN_FAILURES]))
    assert not broken, f"{len(broken)} of {len(verdicts)} layouts:\n{shown}\n\n{table}"
    to_read = [verdict for verdict in verdicts if must_be_read(verdict)]
    refused = [verdict for verdict in to_read if verdict.outcome == "refused"]
    shown = "\n".join(map(str, refused[:SHOWN_FAILURES]))
    assert len(refused) <= 0.05 * len(to_read), (
        f"{len(refused)} of {len(to_read)} refused:\n{shown}\n\n{table}"
    )


def test_each_layout_is_read_exactly_or_refused(tmp_path: Path) -> None:
    """Of 200 data sets as people have them none is read differently; with one reading 95 % are read.

    Two readings and unusable data are refused with a `DataError`.
    """
    check(list(read_layouts(range(200), tmp_path)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thousands_of_layouts_are_read_exactly_or_refused(tmp_path: Path) -> None:
    """The same promise for 5,000 data sets."""
    check(list(read_layouts(range(1000, 6000), tmp_path)))


def test_the_same_seed_makes_the_same_layout(tmp_path: Path) -> None:
    """A failure can be repeated by its seed: files and right reading are the same each time."""
    for seed in range(20):
        first, second = (make_layout(seed, tmp_path / name / str(seed)) for name in ("a", "b"))
        assert first.choices == second.choices
        assert (first.reading, first.reasons) == (second.reading, second.reasons)
        assert names_below(tmp_path / "a" / str(seed)) == names_below(tmp_path / "b" / str(seed))
        if first.truth is not None and second.truth is not None:
            np.testing.assert_array_equal(first.truth.images, second.truth.images)
            assert first.truth.labels == second.truth.labels


@pytest.mark.parametrize("channels", [1, 3])
def test_the_generator_knows_the_pixels_of_its_files(channels: int) -> None:
    """Pillow decodes each lossless file to exactly the pixels that the generator takes for right."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (channels, 12, 9)).astype(np.uint8)
    depths = {"png": ["palette", "opaque alpha"] + ["16 bit", "12 bit by sBIT"] * (channels == 1)}
    for file_format in SUFFIXES:
        for depth in ["plain", *depths.get(file_format, [])]:
            frames = pixels[:, ::-1] if file_format in {"gif", "tiff"} else None
            decoded = decode(encode(pixels, file_format, depth, 1, frames))
            if file_format != "jpeg":
                wanted = np.broadcast_to(pixels, decoded.shape)
                np.testing.assert_array_equal(decoded, wanted, err_msg=f"{file_format}, {depth}")
    bits = np.where(pixels[:1] > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(bits, "png", "1 bit", 1, None)), bits)
    np.testing.assert_array_equal(decode(encode(bits, "png", "0/1", 1, None)) * 255, bits)


def as_dataset(truth: Truth) -> Dataset:
    """Return what a perfect reader returns for a truth of the splits train and test."""
    classes = tuple(sorted(set(truth.labels)))
    labels = np.array([classes.index(label) for label in truth.labels], np.int64)
    tested = np.array(truth.splits) == "test"
    train = LabelledImages(truth.images[~tested], labels[~tested])
    test = LabelledImages(truth.images[tested], labels[tested]) if tested.any() else None
    return Dataset("photos", "folder:photos", classes, "photo", train, test)


def test_the_comparison_notices_each_kind_of_difference(tmp_path: Path) -> None:
    """The right reading is equal to itself in any order, and to nothing else."""
    layout = next(
        layout
        for seed in range(100)
        if (layout := make_layout(seed, tmp_path / str(seed))).truth
        and layout.choices.get("splits") == "train test"
    )
    truth = layout.truth
    assert truth is not None
    order = np.random.default_rng(0).permutation(len(truth.labels))
    assert compare(as_dataset(pick(truth, order)), truth) is None
    other_label = next(label for label in truth.labels if label != truth.labels[0])
    other_split = {"train": "test", "test": "train"}[truth.splits[0]]
    changed = {
        "images": pick(truth, range(1, len(truth.labels))),
        "pixels": replace(truth, images=np.flip(truth.images, axis=3)),
        "label": replace(truth, labels=(other_label, *truth.labels[1:])),
        "split": replace(truth, splits=(other_split, *truth.splits[1:])),
        "classes": replace(truth, labels=tuple(f"{label}_" for label in truth.labels)),
    }
    for what, wrong in changed.items():
        assert what in str(compare(as_dataset(wrong), truth))


def pick(truth: Truth, places: Iterable[int]) -> Truth:
    """Return the images of a truth at `places`, in this order."""
    chosen = list(places)
    labels, splits = ([values[place] for place in chosen] for values in (truth.labels, truth.splits))
    return replace(truth, images=truth.images[chosen], labels=tuple(labels), splits=tuple(splits))


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
