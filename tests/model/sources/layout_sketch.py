"""Random choices, class names, splits and pixels of generated data sets, and the type `Layout`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")
Reading = Literal["one", "two", "none"]


@dataclass(frozen=True, eq=False)
class Truth:
    """Images, uint8 (n, channels, height, width), with class name and split of each.

    A split is "train", "validation" or "test". With `numeric`, 1 and 1.0 name the same class. `aliases` maps
    other names of a class that are right too to its name in `labels`.
    """

    images: np.ndarray
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    numeric: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layout:
    """A data set on disk and its right reading.

    `reading` is "one" (read it exactly), "two" (two readings are possible: refuse) or "none" (unusable:
    refuse); `reasons` say why. With `optional` a layout of one reading may be refused, too. `tell` names what
    the reader has to report in its notes. `choices` are the random choices, to find causes of failures.
    `label_column` is the label's column in a table: its name, or its place if there is no header.
    """

    seed: int
    container: str
    dataset: str
    path: Path
    choices: Mapping[str, str]
    reading: Reading
    reasons: tuple[str, ...]
    truth: Truth | None
    optional: bool = False
    tell: tuple[str, ...] = ()
    label_column: str | int | None = None

    def __str__(self) -> str:
        choices = ", ".join(f"{name} {value}" for name, value in self.choices.items() if name != "container")
        reasons = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"seed {self.seed}, {self.container}, {self.reading}{reasons}: {choices}"


class Draw:
    """Random choices that are recorded by name."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.choices: dict[str, str] = {}

    def pick(self, what: str, weights: Mapping[str, float]) -> str:
        """Choose one of `weights` with a probability in proportion to its weight."""
        shares = np.array(list(weights.values()), float)
        choice = list(weights)[int(self.rng.choice(len(shares), p=shares / shares.sum()))]
        self.choices[what] = choice
        return choice

    def flip(self, what: str, probability: float) -> bool:
        """Return True with `probability`."""
        happens = bool(self.rng.random() < probability)
        if happens:
            self.choices[what] = "yes"
        return happens

    def one_of(self, options: Sequence[T]) -> T:
        """Choose one of `options`, unrecorded."""
        return options[int(self.rng.integers(len(options)))]


@dataclass
class Sketch:
    """A layout in the making: its judgement so far, its labeled images, and where it lies."""

    draw: Draw
    folder: Path
    reading: Reading = "one"
    reasons: list[str] = field(default_factory=list)
    optional: bool = False
    tell: list[str] = field(default_factory=list)
    numeric: bool = False
    aliases: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 8, 8), np.uint8))
    dataset: str = ""
    path: Path = Path()
    label_column: str | int | None = None

    def two(self, reason: str) -> None:
        """Note that two readings are possible."""
        self.reading = "two" if self.reading == "one" else self.reading
        self.reasons.append(reason)

    def none(self, reason: str) -> None:
        """Note that the data set is unusable."""
        self.reading = "none"
        self.reasons.append(reason)

    def may_refuse(self, reason: str) -> None:
        """Note that a refusal is right as well as the exact images."""
        self.optional = True
        self.reasons.append(reason)

    def report(self, reason: str) -> None:
        """Note that the reader has to report this."""
        self.tell.append(reason)

    def forget(self, places: Sequence[int]) -> None:
        """Remove the images at `places` from the right reading."""
        kept = [index for index in range(len(self.labels)) if index not in set(places)]
        self.pixels = self.pixels[kept]
        self.labels = [self.labels[index] for index in kept]
        self.splits = [self.splits[index] for index in kept]

    def finish(self, seed: int, container: str) -> Layout:
        """Return the layout."""
        truth = None
        if self.reading == "one":
            truth = Truth(
                self.pixels, tuple(self.labels), right_splits(self.splits), self.numeric, dict(self.aliases)
            )
        return Layout(
            seed,
            container,
            self.dataset,
            self.path,
            dict(self.draw.choices),
            self.reading,
            tuple(self.reasons),
            truth,
            self.optional and self.reading == "one",
            tuple(self.tell),
            self.label_column,
        )


def right_splits(given: Sequence[str]) -> tuple[str, ...]:
    """Map given splits to ours: without a given test split the given validation split is the test split."""
    names = {"train": "train", "val": "validation" if "test" in given else "test", "test": "test"}
    return tuple(names[split] for split in given)


ODD_NAMES = (
    *("Äpfel", "猫", "🐱", "dog's", 'say "hi"', "a, b", "[x]*", "None", "NA", "nan", "null"),
    *("true", "50%", "=1+1", "c#", "two words", "x;y", "(1)", "<b>", "$HOME", "a&b", "-1", "@x"),
    *("x\u00a0y", "L" * 80),
)
ODD_TEXTS = (*ODD_NAMES, "[/b]", "a/b", "http://x", "..", "a\tb")  # no names of folders
NEAR_NAMES = (
    ("Cat", "cat"),
    ("caf\u00e9", "cafe\u0301"),
    ("cat ", "cat"),
    ("1", "1.0"),
    ("fit", "\ufb01t"),
    ("hot dog", "hot  dog"),
)
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "words": ("cat", "dog", "bird", "fish"),
    "numbers": ("0", "1", "2", "3"),
    "codes": ("n01440764", "n01443537", "n01484850", "n01491361"),
    "padded": ("01", "02", "03", "10"),
    "capitals": ("Cat", "Golden Retriever", "Maine_Coon", "bird-of-prey"),
}
SPLIT_NAMES: dict[str, tuple[str, str, str]] = {
    "lower": ("train", "val", "test"),
    "title": ("Train", "Val", "Test"),
    "upper": ("TRAIN", "VAL", "TEST"),
    "valid": ("train", "valid", "test"),
    "long": ("train", "validation", "test"),
    "doing": ("training", "validation", "testing"),
    "Doing": ("Training", "Validation", "Testing"),
    "set": ("training_set", "validation_set", "test_set"),
    "short set": ("train_set", "val_set", "test_set"),
}
GIVEN_SPLITS = {"train test": 4.0, "train val test": 5.0, "train val": 3.0, "train": 0.7}
LABEL_NAMES = ("label", "labels", "class", "target", "Label", "CLASS", "category", "class_name")
ODD_LABEL_NAMES = ("character", "emotion", "digit", "species", "breed", "Art")


def draw_classes(sketch: Sketch, kinds: Mapping[str, float]) -> None:
    """Choose class names, at least four images for each, and their labels in random order."""
    draw = sketch.draw
    count = int(draw.rng.integers(9, 31))
    wanted = min(int(draw.rng.integers(2, 5)), count // 4)
    kind = draw.pick("classes", kinds)
    if kind.startswith("odd"):
        pool = ODD_NAMES if kind == "odd" else ODD_TEXTS
        chosen = [pool[i] for i in draw.rng.permutation(len(pool))[:wanted]]
    elif kind == "near":
        pair = draw.one_of(NEAR_NAMES)
        chosen = [*pair, "other", "rest"][: max(wanted, 2)]
        sketch.may_refuse(f"near-equal class names {pair}")
        sketch.report(f"near-equal class names {pair}")
    else:
        chosen = list(CLASS_NAMES[kind][:wanted])
    sketch.classes = tuple(chosen)
    sketch.labels = [chosen[i] for i in draw.rng.permutation(np.arange(count) % len(chosen))]
    sketch.splits = ["train"] * count


ANY_CLASSES = {
    "words": 5.0,
    "numbers": 2.0,
    "codes": 1.0,
    "padded": 0.7,
    "capitals": 1.5,
    "odd": 2.0,
    "near": 0.4,
}


def draw_splits(sketch: Sketch, weights: Mapping[str, float]) -> tuple[str, ...]:
    """Give each image a split so that each class is in each split; return the splits."""
    splits = tuple(sketch.draw.pick("splits", weights).split())
    seen: Counter[str] = Counter()
    for place, label in enumerate(sketch.labels):
        sketch.splits[place] = splits[seen[label] % len(splits)]
        seen[label] += 1
    return splits


def draw_pixels(sketch: Sketch, channels: Literal[1, 3], looks: Mapping[str, float], square: bool) -> None:
    """Draw images, uint8 (n, channels, height, width), with the full range of values unless dark."""
    draw = sketch.draw
    side = int(draw.rng.integers(8, 13))
    height, width = (
        (side, side) if square or draw.rng.random() < 0.7 else draw.one_of(((8, 11), (11, 9), (9, 8)))
    )
    look = draw.pick("look", looks)
    shape = (len(sketch.labels), channels, height, width)
    pixels = draw.rng.integers(0, 256, shape).astype(np.uint8)
    if look == "binary":
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    elif look == "dark":
        pixels = (pixels // 3).astype(np.uint8)
    elif look == "border":
        pixels[:, :, [0, -1], :] = 0
        pixels[:, :, :, [0, -1]] = 0
    draw.choices["size"] = f"{channels}x{height}x{width}"
    sketch.pixels = pixels
