"""Generator of data sets in the layouts that people have, each with its right reading.

`make_layout(seed, folder)` writes one data set and returns what a careful stranger would read from it. The
generator knows nothing of our reader: its rules are those of the field (torchvision, Keras, Kaggle, MedMNIST,
Hugging Face) and the rules for ranges, splits and left-out images that the reader promises.

All values are chosen so that every sound rounding agrees: 16-bit samples are 257 × the 8-bit value.
"""

import csv
import gzip
import io
import json
import tarfile
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, PngImagePlugin

from relearn.model.data.dataset import Dataset
from relearn.model.errors import DataError

T = TypeVar("T")
Reading = Literal["one", "two", "none"]
Outcome = Literal["read", "refused", "wrong", "untold", "crashed"]


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


@dataclass(frozen=True)
class Verdict:
    """Outcome of reading a layout, with the difference or the message in words."""

    layout: Layout
    outcome: Outcome
    detail: str

    @property
    def good(self) -> bool:
        """Whether the reader kept its promise; a refusal always does."""
        return self.outcome in {"read", "refused"}

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}\n    {self.layout}"


def judge(layout: Layout, load: Callable[[str], Dataset]) -> Verdict:
    """Read `layout` with `load` and compare the result with its right reading."""
    try:
        dataset = load(layout.dataset)
    except DataError as error:
        return Verdict(layout, "refused", str(error))
    except Exception as error:
        return Verdict(layout, "crashed", f"{type(error).__name__}: {error}")
    if layout.truth is None:
        return Verdict(layout, "wrong", f"read, instead of refused: {'; '.join(layout.reasons)}")
    difference = compare(dataset, layout.truth)
    if difference is not None:
        return Verdict(layout, "wrong", difference)
    if layout.tell and not dataset.notes:
        return Verdict(layout, "untold", f"no note of: {'; '.join(layout.tell)}")
    return Verdict(layout, "read", "")


def compare(dataset: Dataset, truth: Truth) -> str | None:
    """Return the first difference between `dataset` and `truth` in words; the order is free."""
    images, labels, splits = flatten(dataset)
    if len(labels) != len(truth.labels):
        return f"{len(labels)} images, right: {len(truth.labels)}"
    name = _class_namer(truth)
    wanted_classes = {name(label) for label in truth.labels}
    classes = [name(label) for label in dataset.classes]
    if sorted(classes) != sorted(wanted_classes):
        return f"classes {sorted(classes)}, right: {sorted(wanted_classes)}"
    got_images, wanted_images = (collapse_gray(array) for array in (images, truth.images))
    if got_images.shape != wanted_images.shape:
        return f"images of shape {images.shape[1:]}, right: {truth.images.shape[1:]}"
    got = [(split, name(label)) for split, label in zip(splits, labels, strict=True)]
    wanted = [(split, name(label)) for split, label in zip(truth.splits, truth.labels, strict=True)]
    if Counter(split for split, _ in got) != Counter(split for split, _ in wanted):
        return f"splits {dict(Counter(splits))}, right: {dict(Counter(truth.splits))}"
    got_pixels = Counter(image.tobytes() for image in got_images)
    wanted_pixels = Counter(image.tobytes() for image in wanted_images)
    if got_pixels != wanted_pixels:
        return f"pixels differ in {(got_pixels - wanted_pixels).total()} of {len(labels)} images"
    got_all = Counter((*key, image.tobytes()) for key, image in zip(got, got_images, strict=True))
    wanted_all = Counter((*key, image.tobytes()) for key, image in zip(wanted, wanted_images, strict=True))
    if got_all != wanted_all:
        return f"label or split differs in {(got_all - wanted_all).total()} of {len(labels)} images"
    return None


def flatten(dataset: Dataset) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the images, class names and splits of all parts of `dataset`."""
    parts = {
        "train": dataset.train,
        "validation": getattr(dataset, "validation", None),
        "test": dataset.test,
    }
    images, labels, splits = [], [], []
    for split, part in parts.items():
        if part is not None:
            images.append(part.images)
            labels += [dataset.classes[label] for label in part.labels]
            splits += [split] * len(part)
    return np.concatenate(images), labels, splits


def collapse_gray(images: np.ndarray) -> np.ndarray:
    """Return gray images that are stored as RGB with one channel; others as they are."""
    if images.shape[1] == 3 and (images == images[:, :1]).all():
        return images[:, :1]
    return images


def _class_namer(truth: Truth) -> Callable[[str], str]:
    """Return the function that maps all right names of a class to one.

    Surrounding spaces and Unicode's composed or decomposed form count only where they tell classes apart.
    """

    def tidy(name: str) -> str:
        name = truth.aliases.get(name, name)
        if truth.numeric:
            try:
                return f"{float(name):g}"
            except ValueError:
                return name
        return unicodedata.normalize("NFC", name).strip()

    names = set(truth.labels)
    if len({tidy(name) for name in names}) == len(names):
        return tidy
    return lambda name: name


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
    """A layout in the making: its judgement so far, its labelled images, and where it lies."""

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


# ----------------------------------------------------------------------------------- images and labels

ODD_NAMES = (
    *("Äpfel", "猫", "🐱", "dog's", 'say "hi"', "a, b", "[x]*", "[/b]", "None", "NA", "nan", "null"),
    *("true", "50%", "=1+1", "c#", "two words", "x;y", "(1)", "<b>", "$HOME", "a&b", "-1", "@x"),
    *("x\u00a0y", "L" * 80),
)
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
    if kind == "odd":
        chosen = [ODD_NAMES[i] for i in draw.rng.permutation(len(ODD_NAMES))[:wanted]]
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


# ----------------------------------------------------------------------------------------- image files

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "bmp": ".bmp", "tiff": ".tif", "gif": ".gif"}
RARE_SUFFIXES = {
    "png": (".PNG",),
    "jpeg": (".jpeg", ".jfif", ".jpe", ".JPG", ".JPEG"),
    "webp": (".WebP",),
    "bmp": (".dib", ".BMP"),
    "tiff": (".tiff", ".TIFF", ".TIF"),
    "gif": (".GIF",),
}
FORMATS = {"png": 6.0, "jpeg": 4.0, "webp": 1.5, "bmp": 1.0, "tiff": 1.2, "gif": 1.0, "mixed": 2.5}
LOOKS = {"noise": 6.0, "border": 2.0, "dark": 1.0, "binary": 0.7}


@dataclass(frozen=True, eq=False)
class Picture:
    """An encoded image file with its suffix."""

    content: bytes
    suffix: str


def draw_pictures(sketch: Sketch) -> list[Picture]:
    """Draw and encode the images; the pixels of lossy files become what Pillow decodes."""
    draw = sketch.draw
    gray = draw.pick("color", {"gray": 1, "rgb": 1}) == "gray"
    file_format = draw.pick("format", FORMATS)
    depths: dict[str, float] = {"plain": 8}
    if gray and file_format == "png":
        depths |= {"1 bit": 0.6, "0/1": 0.6, "16 bit": 1, "12 of 16 bit": 0.6, "12 bit by sBIT": 0.4}
    if gray and file_format == "tiff":
        depths |= {"16 bit": 3, "12 of 16 bit": 1}
    if file_format == "png":
        depths |= {"palette": 1, "opaque alpha": 1}
    if not gray and file_format == "jpeg":
        depths |= {"cmyk": 0.7}
    depth = draw.pick("depth", depths)
    binary, deep = depth in {"1 bit", "0/1"}, "bit" in depth and depth != "1 bit"
    looks = {"binary": 1.0} if binary else {"noise": 1.0} if deep else LOOKS
    turned = file_format in {"png", "jpeg"} and depth == "plain" and draw.flip("turned by EXIF", 0.12)
    draw_pixels(sketch, 1 if gray else 3, looks, square=turned)
    if depth == "12 of 16 bit":
        sketch.two("16-bit files whose maximum lies below 2^15, without sBIT")
    frames = file_format in {"gif", "tiff"} and depth == "plain" and draw.flip("several frames", 0.2)
    if frames:
        sketch.report("only the first frame is read")
    some_gray = not gray and depth == "plain" and draw.flip("some gray files", 0.1)
    suffixes = draw.pick(
        "suffixes", {"right": 7, "upper": 1, "rare": 1.2, "missing": 0.8, "wrong": 0.8, "several": 0.8}
    )
    pictures, decoded = [], []
    for place, pixels in enumerate(sketch.pixels):
        one = draw.one_of(tuple(SUFFIXES)) if file_format == "mixed" else file_format
        flat = pixels[:1] if some_gray and place % 3 == 1 else pixels
        # Only images of several kinds show that each file is looked at on its own.
        turn = draw.one_of((1, 3, 6, 8)) if turned else 1
        content = encode(flat, one, depth, turn, flat[:, ::-1] if frames and place % 2 == 0 else None)
        lossy = one == "jpeg" or turn != 1
        truth = decode(content) if lossy else flat
        decoded.append(np.broadcast_to(truth, pixels.shape))
        pictures.append(Picture(content, _suffix(draw, suffixes, one)))
    sketch.pixels = np.stack(decoded)
    return pictures


def _suffix(draw: Draw, style: str, file_format: str) -> str:
    if style == "several":
        style = draw.one_of(("right", "upper", "rare"))
    if style == "missing":
        return ""
    if style == "wrong":
        return draw.one_of([suffix for name, suffix in SUFFIXES.items() if name != file_format])
    if style == "rare":
        return draw.one_of(RARE_SUFFIXES[file_format])
    return SUFFIXES[file_format].upper() if style == "upper" else SUFFIXES[file_format]


def encode(pixels: np.ndarray, file_format: str, depth: str, turn: int, second: np.ndarray | None) -> bytes:
    """Encode one image, uint8 (channels, height, width); `turn` is its EXIF orientation."""
    image = _to_image(pixels, file_format, depth)
    options: dict[str, object] = {}
    if file_format == "jpeg":
        options = {"quality": 90}
    elif file_format == "webp":
        options = {"lossless": True, "exact": True}
    elif depth == "12 bit by sBIT":
        info = PngImagePlugin.PngInfo()
        info.add(b"sBIT", b"\x0c")
        options = {"pnginfo": info}
    if turn != 1:
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    if second is not None:
        options |= {"save_all": True, "append_images": [_to_image(second, file_format, depth)]}
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper(), **options)
    return buffer.getvalue()


def _to_image(pixels: np.ndarray, file_format: str, depth: str) -> Image.Image:
    gray = pixels[0]
    wide = gray.astype(np.uint16)
    twelve = wide << 4 | wide >> 4
    if depth == "1 bit":
        return Image.fromarray(gray > 127)
    if depth == "0/1":
        return Image.fromarray(gray // 255)
    if depth == "16 bit":
        return Image.fromarray(wide * 257)
    if depth == "12 of 16 bit":
        return Image.fromarray(twelve)
    if depth == "12 bit by sBIT":  # as PNG wants it: in the upper bits, the highest repeated below
        return Image.fromarray(twelve << 4 | twelve >> 8)
    if depth == "palette" or (file_format == "gif" and len(pixels) == 3):
        return _to_palette(pixels)
    image = Image.fromarray(gray if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
    if depth == "opaque alpha":
        image.putalpha(255)
    return image.convert("CMYK") if depth == "cmyk" else image


def _to_palette(pixels: np.ndarray) -> Image.Image:
    """Return the same colors by palette; small images have at most 256."""
    rows = np.broadcast_to(pixels, (3, *pixels.shape[1:])).reshape(3, -1).T
    colors, places = np.unique(rows, axis=0, return_inverse=True)
    image = Image.fromarray(places.reshape(pixels.shape[1:]).astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def decode(content: bytes) -> np.ndarray:
    """Decode with Pillow alone into uint8 (channels, height, width)."""
    with Image.open(io.BytesIO(content)) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode in {"L", "1", "LA"}:
            return np.asarray(image.convert("L"))[None]
        if image.mode.startswith("I"):
            return (np.asarray(image) // 257).astype(np.uint8)[None]
        return np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)


def draw_names(sketch: Sketch, count: int) -> list[str]:
    """Return file names without suffix."""
    style = sketch.draw.pick("file names", {"padded": 4, "camera": 2, "bare": 2, "odd": 1.5, "dotted": 0.7})
    patterns: dict[str, tuple[str, ...]] = {
        "padded": ("{:05d}",),
        "camera": ("IMG_{:04d}",),
        "bare": ("{}",),
        "odd": (
            "фото {}",
            "it's {}",
            'say "{}"',
            "a, b {}",
            "🐱{}",
            "50% {}#",
            "image ({})",
            "-{}",
            "[{}]",
            "x;{}",
        ),
        "dotted": ("v1.0.{}",),
    }
    return [patterns[style][place % len(patterns[style])].format(place + 1) for place in range(count)]


# ------------------------------------------------------------------------------------------ file trees

Files = dict[str, bytes]
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)


def draw_tree(sketch: Sketch, split: bool) -> Files:
    """Draw a folder for each class, with or without a folder for each split above."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    folders = dict.fromkeys(("train", "val", "test"), "")
    if split:
        draw_splits(sketch, GIVEN_SPLITS)
        split_names = SPLIT_NAMES[draw.pick("split names", dict.fromkeys(SPLIT_NAMES, 1) | {"lower": 3})]
        folders = dict(zip(folders, (f"{name}/" for name in split_names), strict=True))
    depth = draw.pick("sub-folders", {"none": 8, "some": 1.5, "all": 0.8, "deep": 0.5})
    names = draw_file_places(sketch, depth)
    files = {}
    for place, picture in enumerate(pictures):
        parent = folders[sketch.splits[place]] + sketch.labels[place]
        files[f"{parent}/{names[place]}{picture.suffix}"] = picture.content
    if draw.flip("defect", 0.16):
        files = spoil_tree(sketch, files, pictures, folders if split else None)
    elif len(files) >= 20 and draw.flip("stray image", 0.05):
        files["stray.png"] = encode(sketch.pixels[0, :, ::-1], "png", "plain", 1, None)
        sketch.report("an image beside the folders of the classes")
    return files


def draw_file_places(sketch: Sketch, depth: str) -> list[str]:
    """Return each image's path below its class folder; names repeat in several classes."""
    draw = sketch.draw
    restart = draw.flip("same names in each class", 0.5)
    subfolders = draw.one_of((("images",), ("batch1", "batch2"), ("2019", "2020"), ("left eye", "right eye")))
    names = draw_names(sketch, len(sketch.labels))
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for place, (label, split) in enumerate(zip(sketch.labels, sketch.splits, strict=True)):
        name = names[seen[label, split] if restart else place]
        seen[label, split] += 1
        sub = subfolders[place % len(subfolders)]
        if depth == "all" or (depth == "some" and place % 2):
            name = f"{sub}/{name}"
        elif depth == "deep":
            name = f"{sub}/{('a', 'b')[place // 2 % 2]}/{name}"
        places.append(name)
    return places


def spoil_tree(
    sketch: Sketch, files: Files, pictures: Sequence[Picture], folders: Mapping[str, str] | None
) -> Files:
    """Return files that must be refused."""
    draw = sketch.draw
    kinds: dict[str, float] = {
        "damaged": 4,
        "flat": 1,
        "flat with names": 1.5,
        "one folder": 0.7,
        "many strays": 0.7,
    }
    if folders and "test" in sketch.splits:
        kinds |= {"unlabelled test": 3, "unknown test class": 3}
    kind = draw.pick("kind of defect", kinds)
    if kind == "damaged":
        damage_one(sketch, files)
    elif kind == "flat":
        sketch.none("images without labels")
        files = {f"{place + 1}{picture.suffix}": picture.content for place, picture in enumerate(pictures)}
    elif kind == "one folder":
        sketch.none("images of a single class")
        files = {
            f"images/{place + 1}{picture.suffix}": picture.content for place, picture in enumerate(pictures)
        }
    elif kind == "flat with names":
        sketch.two("class only in the file names")
        split = draw.one_of(("", "train/"))
        files = {
            f"{split}{sketch.labels[place]}.{place}{picture.suffix}": picture.content
            for place, picture in enumerate(pictures)
        }
        if split:
            files |= {
                f"test/{place}{picture.suffix}": picture.content for place, picture in enumerate(pictures[:8])
            }
    elif kind == "many strays":
        sketch.none("more than 20 % of the images lie beside the folders of the classes")
        for place in range(len(files) // 2):
            files[f"stray{place}.png"] = encode(sketch.pixels[place, :, ::-1], "png", "plain", 1, None)
    elif kind == "unlabelled test" and folders:
        sketch.two("test images without labels")
        below = draw.one_of(("", "test/", "unknown/"))
        test = folders["test"]
        trained = {name: content for name, content in files.items() if not name.startswith(test)}
        tested = [picture for picture, split in zip(pictures, sketch.splits, strict=True) if split == "test"]
        files = trained | {
            f"{test}{below}{place}{picture.suffix}": picture.content for place, picture in enumerate(tested)
        }
    elif folders:
        sketch.none("a class of the test split that is not in train")
        old, new = f"{folders['test']}{sketch.classes[0]}/", f"{folders['test']}zebra/"
        files = {
            new + name.removeprefix(old) if name.startswith(old) else name: content
            for name, content in files.items()
        }
    return files


def damage_one(sketch: Sketch, files: Files) -> None:
    """Replace one image file by a truncated or empty file, by text or by noise."""
    name = sketch.draw.one_of(sorted(files))
    kind = sketch.draw.pick("damage", {"truncated": 2, "empty": 1, "text": 1, "noise": 1})
    if not Path(name).suffix:
        kind = "truncated"  # without a suffix only its first bytes say that it is to be an image
    bad = {"truncated": truncate(files[name]), "empty": b"", "text": b"<html>404 Not Found</html>\n"}
    files[name] = bad.get(kind, sketch.draw.rng.bytes(200))
    sketch.none(f"a damaged image file ({kind})")


def truncate(content: bytes) -> bytes:
    """Return so much of an image file that Pillow cannot decode it."""
    for parts in (2, 4, 8):
        part = content[: len(content) // parts]
        try:
            with warnings.catch_warnings(action="ignore"):
                decode(part)
        except (OSError, SyntaxError, ValueError):
            return part
    return content[:24]


def add_junk(sketch: Sketch, files: Files, archive: bool) -> Files:
    """Add what systems and people leave beside images; none of it belongs to the data set."""
    draw = sketch.draw
    files = dict(files)
    folders = sorted({str(Path(name).parent) for name in files})
    some = "" if folders[0] == "." else f"{folders[0]}/"
    first = min(name for name in files if not name.lower().endswith((".csv", ".tsv", ".jsonl")))
    if draw.flip("Mac junk", 0.3 if archive else 0.12):
        files[".DS_Store"] = b"\x00\x00\x00\x01Bud1" + bytes(40)
        files[f"{some}.DS_Store"] = b"\x00\x00\x00\x01Bud1" + bytes(40)
        if archive or draw.rng.random() < 0.5:
            files |= {_apple_name(name): APPLE_DOUBLE for name in list(files)[:6]}
        else:
            files |= {str(Path(first).parent / f"._{Path(first).name}"): APPLE_DOUBLE}
    if draw.flip("Windows junk", 0.08):
        files |= {
            f"{some}Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(90),
            "desktop.ini": b"[.ShellClassInfo]\r\n",
        }
    if draw.flip("hidden folders", 0.1):
        files[f"{some}.ipynb_checkpoints/{Path(first).name}"] = files[first]
        files[".git/HEAD"] = b"ref: refs/heads/main\n"
    if draw.flip("text files", 0.15):
        files |= {"README.md": b"# Pictures\n", "LICENSE": b"CC0\n", f"{some}notes.txt": b"good light\n"}
    if draw.flip("thumbnails of a NAS", 0.03):
        files[f"{some}@eaDir/{Path(first).name}/SYNOPHOTO_THUMB_S.jpg"] = files[first]
        sketch.may_refuse("@eaDir")
    return files


def _apple_name(name: str) -> str:
    path = Path("__MACOSX", name)
    return str(path.with_name(f"._{path.name}"))


def write_tree(sketch: Sketch, files: Files) -> None:
    """Write the files below a folder."""
    draw = sketch.draw
    root = sketch.folder / draw.one_of(("photos", "my photos", "Bilder-ü", "data.v2"))
    files = add_junk(sketch, files, archive=False)
    if draw.flip("wrapped", 0.1):
        files = {f"dataset/{name}": content for name, content in files.items()}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if draw.flip("empty folder", 0.06):
        (root / "nothing here").mkdir(parents=True)
    sketch.path = root
    sketch.dataset = f"{draw.one_of(('folder:', ''))}{root}"


def write_archive(sketch: Sketch, files: Files, kind: str) -> None:
    """Write the files into a zip or a tar.gz, mostly below one folder as a person packs it."""
    draw = sketch.draw
    if draw.flip("wrapped", 0.6):
        files = {f"photos/{name}": content for name, content in files.items()}
    files = add_junk(sketch, files, archive=True)
    sketch.path = sketch.folder / f"photos{draw.one_of(('.zip',) if kind == 'zip' else ('.tar.gz', '.tgz'))}"
    if kind == "zip":
        method = draw.one_of((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(sketch.path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(sketch.path, "w:gz", compresslevel=1) as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    sketch.dataset = str(sketch.path)


# -------------------------------------------------------------------------------- lists of image files

Rows = list[dict[str, str]]


def draw_listed(sketch: Sketch) -> tuple[Files, str]:
    """Draw images and a CSV of file names and labels beside them; return the files and the CSV's name."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    stems = draw_names(sketch, len(pictures))
    place_of = draw.pick("images lie", {"beside": 3, "in images/": 4, "in class folders": 1.5})
    styles: dict[str, float] = {"name": 4, "relative": 3, "./relative": 0.7, "stem": 1.5, "windows": 0.5}
    if place_of == "in class folders":
        del styles["name"], styles["stem"]
    style = draw.pick("file column", styles)
    if style == "windows":
        sketch.may_refuse("backslashes in the paths")
    shelf = draw.one_of(("images", "img", "train_images", "pics"))
    names, files = [], {}
    for place, picture in enumerate(pictures):
        folders = {"beside": "", "in images/": f"{shelf}/", "in class folders": f"{sketch.labels[place]}/"}
        file = f"{stems[place]}{picture.suffix}"
        files[folders[place_of] + file] = picture.content
        relative = folders[place_of] + file
        names.append(
            {
                "name": file,
                "relative": relative,
                "./relative": f"./{relative}",
                "stem": stems[place],
                "windows": relative.replace("/", "\\"),
            }[style]
        )
    file_column = draw.one_of(
        ("filename", "file_name", "image", "image_id", "path", "filepath", "file", "id", "img")
    )
    label_column = draw.one_of(LABEL_NAMES + ODD_LABEL_NAMES)
    draw.choices["columns"] = f"{file_column}, {label_column}"
    rows: Rows = [
        {file_column: name, label_column: label} for name, label in zip(names, sketch.labels, strict=True)
    ]
    if draw.flip("split column", 0.12):
        draw_splits(sketch, GIVEN_SPLITS)
        rows = [row | {"split": split} for row, split in zip(rows, sketch.splits, strict=True)]
        sketch.may_refuse("a column of splits")
    if draw.flip("size columns", 0.15):
        rows = [row | {"width": "12", "height": "12"} for row in rows]
    rows = spoil_list(sketch, rows, files, file_column, label_column)
    if draw.flip("label first", 0.25):
        rows = [{label_column: row[label_column]} | row for row in rows]
    if draw.flip("index column", 0.15):
        rows = [{"": str(place)} | row for place, row in enumerate(rows)]
    name = draw.one_of(("labels.csv", "train.csv", "annotations.csv", "data.csv"))
    content, suffix = render_table(sketch, [list(rows[0]), *(list(row.values()) for row in rows)], small=True)
    name = name.removesuffix(".csv") + suffix
    files[name] = content
    return files, name


def spoil_list(sketch: Sketch, rows: Rows, files: Files, file_column: str, label_column: str) -> Rows:
    """Add, seldom, what makes a list of files incomplete or contradictory."""
    draw = sketch.draw
    if not draw.flip("defect", 0.2):
        return rows
    kinds = {"missing file": 2, "damaged": 2, "two labels": 2, "no label": 1, "unlisted": 1.5}
    in_class_folders = draw.choices["images lie"] == "in class folders"
    if not in_class_folders:  # whose names would say which of the columns is the label
        kinds["two label columns"] = 2
    kind = draw.pick("kind of defect", kinds)
    if kind == "missing file":
        files.pop(sorted(files)[0])
        sketch.none("a listed file that does not exist")
    elif kind == "damaged":
        damage_one(sketch, files)
    elif kind == "two labels":
        other = next(name for name in sketch.classes if name != rows[0][label_column])
        rows = [*rows, rows[0] | {label_column: other}]
        sketch.two("one file with two labels")
    elif kind == "no label":
        rows = [row | {label_column: ""} if place == 0 else row for place, row in enumerate(rows)]
        if in_class_folders:
            sketch.two("a label that is missing in the list and given by the folder")
        sketch.forget([0])
        sketch.may_refuse("a row without a label")
        sketch.report("a row without a label")
    elif kind == "two label columns":
        rows = [row | {"photographer": "abc"[place % 3]} for place, row in enumerate(rows)]
        if label_column in LABEL_NAMES:
            sketch.may_refuse("a second column of names")
        else:
            sketch.two("two columns that could be the label")
    else:
        folder = str(Path(sorted(files)[0]).parent)
        files[f"{folder}/unlisted.png"] = encode(sketch.pixels[0, :, ::-1], "png", "plain", 1, None)
        sketch.may_refuse("an image that is not in the list")
    return rows


def draw_metadata(sketch: Sketch) -> Files:
    """Draw Hugging Face's imagefolder: images with a metadata.jsonl or metadata.csv beside them."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    stems = draw_names(sketch, len(pictures))
    folders = {"train": ""}
    if draw.flip("with splits", 0.4):
        draw_splits(sketch, {"train test": 1, "train val test": 1, "train val": 0.5})
        folders = {"train": "train/", "val": "validation/", "test": "test/"}
    kind = draw.pick("metadata", {"metadata.jsonl": 2, "metadata.csv": 1})
    shelf = draw.one_of(("", "", "images/"))
    label_key = draw.one_of((*LABEL_NAMES[:4], "species"))
    numbers = (
        draw.choices["classes"] == "numbers"
        and kind.endswith("jsonl")
        and draw.flip("numbers as labels", 0.5)
    )
    caption = label_key in LABEL_NAMES and draw.flip("captions", 0.3)
    files: Files = {}
    lines: dict[str, list[dict[str, str | int]]] = {}
    for place, picture in enumerate(pictures):
        folder, label = folders[sketch.splits[place]], sketch.labels[place]
        name = f"{shelf}{stems[place]}{picture.suffix}"
        files[folder + name] = picture.content
        row: dict[str, str | int] = {"file_name": name, label_key: int(label) if numbers else label}
        if caption:
            row["text"] = f"A picture, number {place}."
        lines.setdefault(folder, []).append(row)
    if draw.flip("defect", 0.1):
        if draw.flip("missing file", 0.5):
            files.pop(sorted(files)[0])
            sketch.none("a listed file that does not exist")
        else:
            damage_one(sketch, files)
    for folder, rows in lines.items():
        if kind == "metadata.csv":
            table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
            files[folder + kind] = _csv_text(table, ",", False, "\n").encode()
        else:
            ascii_only = bool(draw.rng.random() < 0.5)
            text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
            files[folder + kind] = text.encode()
    return files


# ------------------------------------------------------------------------------------ tables of pixels

HEADERS = {
    **{"pixel0": 4, "pixel1": 1, "pixel_0": 1, "px0": 0.5, "p0000": 0.7, "0": 1.5, "1x1": 1.5, "X0": 0.5},
    **{"feature_0": 0.5, "pixel 0": 0.4, "V1": 0.4},
}
RANGES = {
    **{"0-255": 10, "0..1": 2.5, "whole floats": 1, "0/1": 1.5, "0..16": 0.7, "dark": 0.6, "-1..1": 0.4},
    **{"12 bit": 0.4, "fractions to 255": 0.4, "missing value": 0.3},
}
TABLE_CLASSES = {"words": 3.0, "numbers": 6.0, "padded": 0.4, "capitals": 1.0, "odd": 1.5, "near": 0.3}


@dataclass
class Table:
    """Columns in their order, with the range of the pixels as text or numbers."""

    names: list[str]
    columns: list[list[str]]
    label: int
    header: bool = True

    def move(self, order: Sequence[int]) -> None:
        """Put the columns into this order."""
        self.names = [self.names[place] for place in order]
        self.columns = [self.columns[place] for place in order]
        self.label = list(order).index(self.label)

    def insert(self, place: int, name: str, column: list[str]) -> None:
        """Insert a column that is neither label nor pixel."""
        self.names.insert(place, name)
        self.columns.insert(place, column)
        self.label += place <= self.label


def draw_table(sketch: Sketch, headless: bool) -> Table:
    """Draw a table with a row for each image and a column for each pixel."""
    draw = sketch.draw
    draw_classes(sketch, TABLE_CLASSES)
    numbers = draw.choices["classes"] in {"numbers", "padded"}
    sketch.numeric = numbers
    header = draw.pick("header", {"named": 6, "none": 1.5 if headless else 0, "all numbers": 1})
    colors = draw.pick("color", {"gray": 6, "rgb": 1.2 if header == "named" else 0.3})
    ranges = dict(RANGES)
    if header != "named" and numbers:
        # Without names, small whole numbers beside small whole numbers show nothing.
        ranges = {name: weight for name, weight in ranges.items() if name in {"0-255", "0..1", "-1..1"}}
    values = draw.pick("range", ranges)
    looks = {"noise": 3.0, "border": 2.0} if values not in {"0/1"} else {"binary": 1.0}
    draw_pixels(sketch, 3 if colors == "rgb" else 1, looks, square=not draw.flip("not square", 0.04))
    height, width = sketch.pixels.shape[2:]
    pixels = _draw_range(sketch, values)
    names, order = _draw_pixel_columns(sketch, header)
    if height != width and draw.choices.get("pixel names") == "1x1":
        sketch.may_refuse("an image that is no square, as the names of its columns say")
    elif height != width:
        sketch.none("a number of pixels that is no square")
    flat = pixels.reshape(len(pixels), -1)[:, order]
    columns = [list(column) for column in flat.T.astype(str)] if flat.dtype.kind == "U" else []
    label_name = draw.one_of(LABEL_NAMES) if draw.rng.random() < 0.65 else draw.one_of(ODD_LABEL_NAMES)
    where = draw.pick("label", {"first": 4, "last": 3, "middle": 0.7 if header == "named" else 0})
    place = {"first": 0, "last": len(columns), "middle": len(columns) // 2}[where]
    labels = list(sketch.labels)
    if draw.choices["classes"] == "numbers" and header == "named" and draw.flip("labels as 1.0", 0.08):
        labels = [f"{float(label):.1f}" for label in labels]
    names.insert(place, label_name)
    columns.insert(place, labels)
    table = Table(names, columns, place, header != "none")
    if header == "all numbers":
        table.names = [str(number) for number in range(len(columns))]
    draw.choices["label column"] = table.names[place] if table.header else str(place)
    if header == "named":
        _draw_other_columns(sketch, table, label_name)
    return table


RANGE_TEXTS: dict[str, Callable[[int], str]] = {
    "whole floats": lambda value: f"{value}.0",
    "0/1": lambda value: str(value // 255),
    "0..16": lambda value: str(value // 15),
    "dark": lambda value: str(value // 3),
    "-1..1": lambda value: f"{value / 127.5 - 1:.4f}",
    "12 bit": lambda value: str(value << 4 | value >> 4),
    "fractions to 255": lambda value: f"{value * 0.997:.3f}",
}
TWO_RANGES = {
    "0..16": "whole numbers of at most 127: 0 to 16, or dark images",
    "dark": "whole numbers of at most 127: dark images, or another scale",
    "12 bit": "whole numbers above 255 of unknown depth",
    "16 bit": "whole numbers above 255 of unknown depth",
}
NO_RANGES = {
    "-1..1": "values from -1 to 1",
    "fractions to 255": "fractions above 1",
    "missing value": "a pixel without a value",
    "not a number": "a pixel that is not a number",
}


def judge_range(sketch: Sketch, values: str) -> None:
    """Note whether a table or an array with this range of values has one reading."""
    if values in TWO_RANGES:
        sketch.two(TWO_RANGES[values])
    elif values in NO_RANGES:
        sketch.none(NO_RANGES[values])


def _draw_range(sketch: Sketch, values: str) -> np.ndarray:
    """Return the pixels in this range as text."""
    judge_range(sketch, values)
    digits = sketch.draw.one_of((4, 6, 17))
    write = RANGE_TEXTS.get(values, str)
    if values == "0..1":
        texts = [f"{value / 255:.{digits}g}" for value in range(256)]
    else:
        texts = [write(value) for value in range(256)]
    text = np.asarray(np.array(texts)[sketch.pixels])
    if values == "missing value":
        text[1, 0, 3, 3] = ""
    return text


def _draw_pixel_columns(sketch: Sketch, header: str) -> tuple[list[str], np.ndarray]:
    """Return names of the pixel columns and, for each, its place in (channel, row, column)."""
    draw = sketch.draw
    channels, height, width = sketch.pixels.shape[1:]
    size = height * width
    natural = np.arange(channels * size)
    if header != "named":
        if channels == 3:
            sketch.two("three channels, in planes or interleaved")
        return ["?"] * len(natural), natural
    if channels == 3:
        weave = draw.pick("channels", {"planes": 1, "interleaved": 1})
        order = natural if weave == "planes" else natural.reshape(3, size).T.ravel()
        style = draw.pick("pixel names", {"r0": 2, "R_0": 1, "red0": 0.7, "pixel0": 3})
        if style == "pixel0":
            sketch.two("three channels, in planes or interleaved")
            return [f"pixel{place}" for place in range(len(natural))], order
        sets = {"r0": ("r", "g", "b"), "R_0": ("R_", "G_", "B_"), "red0": ("red", "green", "blue")}
        names = [f"{sets[style][place // size]}{place % size}" for place in order]
    else:
        order = natural
        style = draw.pick("pixel names", HEADERS)
        if style == "1x1":
            return [f"{place // width + 1}x{place % width + 1}" for place in natural], natural
        stem = style.rstrip("01")
        start = 1 if style.endswith("1") else 0
        digits = 4 if style == "p0000" else 0
        names = [f"{stem}{place + start:0{digits}d}" for place in natural]
    sort = draw.pick("column order", {"natural": 5, "lexicographic": 2, "shuffled": 1})
    if sort == "natural":
        return names, order
    by = sorted(range(len(names)), key=names.__getitem__)
    if sort == "shuffled":
        by = list(draw.rng.permutation(len(names)))
    return [names[place] for place in by], order[by]


def _draw_other_columns(sketch: Sketch, table: Table, label_name: str) -> None:
    """Add columns that are neither label nor pixel, or take the label away."""
    draw = sketch.draw
    count = len(sketch.labels)
    if draw.flip("no label column", 0.03):
        del table.names[table.label], table.columns[table.label]
        table.label = -1
        sketch.none("no label")
    elif draw.flip("two label columns", 0.03):
        name = "photographer" if label_name in ODD_LABEL_NAMES else "label2"
        table.insert(len(table.names), name, ["xyz"[place % 3] for place in range(count)])
        if name == "photographer":
            sketch.two("two columns that could be the label")
        else:
            sketch.may_refuse("a second column of names")
    elif draw.flip("missing label", 0.03):
        table.columns[table.label][0] = ""
        sketch.forget([0])
        sketch.may_refuse("a row without a label")
        sketch.report("a row without a label")
    if draw.flip("id column", 0.08):
        values = [
            f"img_{place:03d}" if draw.choices["classes"] == "odd" else str(place + 1)
            for place in range(count)
        ]
        table.insert(draw.one_of((0, len(table.names))), draw.one_of(("id", "Id", "image_id")), values)
        sketch.may_refuse("a column of identifiers")
    if len(sketch.labels) == count and draw.flip("usage column", 0.08):
        draw_splits(sketch, GIVEN_SPLITS)
        words = draw.one_of((("train", "val", "test"), ("Training", "PublicTest", "PrivateTest")))
        usage = dict(zip(("train", "val", "test"), words, strict=True))
        table.insert(
            len(table.names), draw.one_of(("Usage", "split")), [usage[split] for split in sketch.splits]
        )
        sketch.may_refuse("a column of splits")
    if draw.flip("index column", 0.15):
        table.insert(0, draw.one_of(("", "Unnamed: 0")), [str(place) for place in range(count)])


def render_table(sketch: Sketch, rows: list[list[str]], small: bool = False) -> tuple[bytes, str]:
    """Return the CSV in one of the usual dialects, and the suffix of its name."""
    draw = sketch.draw
    dialects: dict[str, float] = {"comma": 8, "semicolon": 1, "tab": 1}
    plain = all(" " not in cell and "" != cell for row in rows for cell in row)
    if not small and plain:
        dialects["space"] = 0.4
    dialect = draw.pick("dialect", dialects)
    delimiter = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}[dialect]
    quoting = draw.flip("all quoted", 0.08)
    text = _csv_text(rows, delimiter, quoting, "\r\n" if draw.flip("CRLF", 0.2) else "\n")
    if not small and draw.flip("comment lines", 0.03):
        text = "# exported on Monday\n# by hand\n" + text
    encoding = draw.pick("encoding", {"utf-8": 10, "utf-8-sig": 1.5, "cp1252": 0.5, "utf-16": 0.3})
    if encoding == "cp1252":
        try:
            text.encode("cp1252")
        except UnicodeEncodeError:
            draw.choices["encoding"] = encoding = "utf-8"
    if encoding == "utf-16" or (encoding == "cp1252" and not text.isascii()):
        sketch.may_refuse(f"a table in {encoding}")
    content = text.encode(encoding)
    suffix = (
        ".tsv"
        if dialect == "tab" and draw.rng.random() < 0.5
        else draw.one_of((".csv", ".csv", ".csv", ".CSV"))
    )
    if not small and draw.flip("gzip", 0.06):
        return gzip.compress(content, 1), ".csv.gz"
    return content, suffix


def _csv_text(rows: list[list[str]], delimiter: str, quoted: bool, end: str) -> str:
    buffer = io.StringIO()
    quoting: Literal[0, 1] = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return buffer.getvalue()


def make_pixel_csv(sketch: Sketch) -> None:
    """Write a CSV of pixels, or of one column with all pixels as text."""
    draw = sketch.draw
    if draw.flip("pixels in one column", 0.05):
        rows = _pixels_as_text(sketch)
    else:
        table = draw_table(sketch, headless=True)
        rows = [list(row) for row in zip(*table.columns, strict=True)]
        if draw.flip("short row", 0.015):
            rows[len(rows) // 2].pop()
            sketch.none("a row with a cell too few")
        elif draw.flip("text among the pixels", 0.015):
            rows[2][5 if table.label != 5 else 6] = "oops"
            sketch.none("text in a pixel")
        elif draw.flip("no rows", 0.01):
            rows = []
            sketch.none("no rows")
        sketch.label_column = table.names[table.label] if table.header else table.label
        if table.header:
            rows.insert(0, table.names)
    content, suffix = render_table(sketch, rows)
    sketch.path = sketch.folder / f"{draw.one_of(('train', 'data', 'my digits'))}{suffix}"
    sketch.path.write_bytes(content)
    sketch.dataset = f"{draw.one_of(('csv:', ''))}{sketch.path}"


def _pixels_as_text(sketch: Sketch) -> list[list[str]]:
    """Return FER2013's form: emotion, pixels separated by spaces, usage."""
    draw_classes(sketch, {"numbers": 1.0})
    sketch.numeric = True
    draw_pixels(sketch, 1, {"noise": 1.0}, square=True)
    sketch.may_refuse("all pixels in one column")
    rows = [
        [label, " ".join(map(str, image.ravel().tolist()))]
        for label, image in zip(sketch.labels, sketch.pixels, strict=True)
    ]
    header = ["emotion", "pixels"]
    if sketch.draw.flip("usage column", 0.5):
        draw_splits(sketch, {"train val test": 1})
        usage = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
        header.append("Usage")
        rows = [[*row, usage[split]] for row, split in zip(rows, sketch.splits, strict=True)]
    return [header, *rows]


def make_pixel_parquet(sketch: Sketch) -> None:
    """Write a Parquet table with a column for each pixel, or one column of lists."""
    draw = sketch.draw
    if draw.pick("columns", {"one for each pixel": 3, "lists": 1}) == "lists":
        table = _lists_of_pixels(sketch)
    else:
        drawn = draw_table(sketch, headless=False)
        sketch.label_column = drawn.names[drawn.label]
        if draw.choices["range"] == "0-255":
            draw.pick("integers", {"uint8": 1, "int64": 2})
        table = pa.table(
            [
                _parquet_column(draw, values, place == drawn.label)
                for place, values in enumerate(drawn.columns)
            ],
            names=[name or "__index_level_0__" for name in drawn.names],
        )
    sketch.path = sketch.folder / "digits.parquet"
    pq.write_table(table, sketch.path)
    sketch.dataset = f"{draw.one_of(('parquet:', ''))}{sketch.path}"


def _parquet_column(draw: Draw, values: list[str], label: bool) -> pa.Array:
    """Return numbers where all values are numbers, else strings; padded class names remain strings."""
    filled = [value for value in values if value != ""]
    try:
        numbers = [float(value) for value in filled]
    except ValueError:
        numbers = []
    if len(numbers) != len(filled) or (label and draw.choices["classes"] not in {"numbers"}):
        return pa.array([value if value != "" else None for value in values], pa.string())
    whole = all("." not in value and "e" not in value for value in filled)
    if whole and len(filled) == len(values):
        small = (
            not label and draw.choices.get("integers") == "uint8" and max(numbers) < 256 and min(numbers) >= 0
        )
        return pa.array([int(value) for value in values], pa.uint8() if small else pa.int64())
    return pa.array([float(value) if value != "" else None for value in values], pa.float64())


def _lists_of_pixels(sketch: Sketch) -> pa.Table:
    """Return a table of nested lists (rows × columns, × 3), or flat lists of gray pixels."""
    draw = sketch.draw
    draw_classes(sketch, TABLE_CLASSES)
    shape = draw.pick("lists", {"flat": 2, "rows": 2, "rows, channels last": 1, "channels first": 0.5})
    draw_pixels(
        sketch, 3 if "channels" in shape else 1, {"noise": 3.0, "border": 1.0}, square=shape == "flat"
    )
    array = sketch.pixels
    if shape == "rows, channels last":
        array = np.moveaxis(array, 1, 3)
    elif shape == "rows":
        array = array[:, 0]
    elif shape == "flat":
        array = array.reshape(len(array), -1)
    name, label_name = draw.one_of(("image", "pixels", "picture", "img")), draw.one_of(LABEL_NAMES[:4])
    labels: list[str] | list[int] = sketch.labels
    if draw.choices["classes"] == "numbers":
        labels = [int(label) for label in sketch.labels]
    return pa.table({name: pa.array(array.tolist()), label_name: pa.array(labels)})


def make_image_parquet(sketch: Sketch) -> None:
    """Write Parquet with the bytes of image files, as Hugging Face does, in one file or in shards."""
    draw = sketch.draw
    draw_classes(sketch, ANY_CLASSES)
    pictures = draw_pictures(sketch)
    names = [
        f"{name}{picture.suffix}" for name, picture in zip(draw_names(sketch, 99), pictures, strict=False)
    ]
    form = draw.pick("bytes", {"bytes and path": 3, "bytes": 1.5})
    column = draw.one_of(("image", "image", "img", "picture"))
    label_column = draw.one_of(("label", "labels", "class", "target"))
    contents = [picture.content for picture in pictures]
    if draw.flip("defect", 0.08):
        contents[1] = truncate(contents[1])
        sketch.none("a damaged image (truncated)")
    labels: pa.Array = pa.array(sketch.labels)
    metadata: dict[bytes, bytes] = {}
    label_kind = draw.pick("label values", {"text": 2, "numbers": 1, "numbers with names": 1})
    if label_kind != "text":
        classes = list(sketch.classes)
        labels = pa.array([classes.index(label) for label in sketch.labels])
        if label_kind == "numbers":
            sketch.labels = [str(classes.index(label)) for label in sketch.labels]
            _only_numbers(sketch)
        else:
            sketch.aliases = {
                str(place): name for place, name in enumerate(classes) if str(place) not in classes
            }
            features = {column: {"_type": "Image"}, label_column: {"names": classes, "_type": "ClassLabel"}}
            metadata[b"huggingface"] = json.dumps({"info": {"features": features}}).encode()
    images: pa.Array = pa.array(contents, pa.binary())
    if form == "bytes and path":
        images = pa.array(
            [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
        )
    columns: dict[str, pa.Array] = {column: images, label_column: labels}
    if draw.flip("path column", 0.25):
        columns = {"image_file_path": pa.array(names)} | columns
    if draw.flip("label before image", 0.2):
        columns = dict(reversed(columns.items()))
    table = pa.table(columns).replace_schema_metadata(metadata or None)
    _write_parquet(sketch, table)


def _only_numbers(sketch: Sketch) -> None:
    """Withdraw what was said of names that the file does not have."""
    sketch.numeric = True
    if sketch.draw.choices["classes"] == "near":
        sketch.optional, sketch.tell = False, [told for told in sketch.tell if "near-equal" not in told]
        sketch.reasons = [reason for reason in sketch.reasons if "near-equal" not in reason]


def _write_parquet(sketch: Sketch, table: pa.Table) -> None:
    draw = sketch.draw
    shards = draw.pick("files", {"one": 4, "shards": 1, "shards of splits": 1})
    if shards == "one":
        sketch.path = sketch.folder / "pictures.parquet"
        pq.write_table(table, sketch.path)
        sketch.dataset = f"{draw.one_of(('parquet:', ''))}{sketch.path}"
        return
    sketch.path = sketch.folder / draw.one_of(("pictures", "data"))
    sketch.path.mkdir()
    if shards == "shards of splits":
        draw_splits(sketch, {"train test": 1, "train val test": 1})
    names = {"train": "train", "val": "validation", "test": "test"}
    for split in dict.fromkeys(sketch.splits):
        places = [place for place, own in enumerate(sketch.splits) if own == split]
        halves = [places[::2], places[1::2]] if split == "train" else [places]
        for number, half in enumerate(halves):
            name = f"{names[split]}-{number:05d}-of-{len(halves):05d}.parquet"
            pq.write_table(table.take(half), sketch.path / name)
    sketch.dataset = f"{draw.one_of(('parquet:', ''))}{sketch.path}"


# ------------------------------------------------------------------------------------------------- npz

NPZ_NAMES: dict[str, tuple[str, str]] = {
    "keras": ("x_{}", "y_{}"),
    "Keras": ("X_{}", "y_{}"),
    "medmnist": ("{}_images", "{}_labels"),
    "images": ("images", "labels"),
    "image": ("image", "label"),
    "X": ("X", "y"),
    "x": ("x", "y"),
    "data": ("data", "target"),
    "data labels": ("data", "labels"),
    "arr": ("arr_0", "arr_1"),
}


def make_npz(sketch: Sketch) -> None:
    """Write arrays of images and labels under the usual names."""
    draw = sketch.draw
    draw_classes(sketch, {"numbers": 6.0, "words": 1.5, "odd": 0.5})
    names = draw.pick(
        "names", dict.fromkeys(NPZ_NAMES, 1) | {"keras": 4, "medmnist": 4, "images": 2, "arr": 0.4}
    )
    if names == "arr":
        sketch.may_refuse("arrays without names")
    parted = "{}" in NPZ_NAMES[names][0]
    if parted:
        draw_splits(sketch, {"train test": 3, "train val test": 3, "train val": 1.5, "train": 0.5})
    form = draw.pick("form", {"gray": 4, "gray last": 1, "gray first": 1, "last": 3, "first": 2, "flat": 0.8})
    kinds = {"uint8": 8.0, "int64": 1.0, "0..1": 2.0, "whole floats": 0.7, "bool": 0.5, "0/1": 0.7}
    kinds |= {"0..16": 0.4, "dark": 0.4, "16 bit": 0.4, "-1..1": 0.3, "not a number": 0.3}
    kind = draw.pick("range", kinds)
    looks = {"binary": 1.0} if kind in {"bool", "0/1"} else {"noise": 3.0, "border": 1.0}
    draw_pixels(sketch, 1 if "gray" in form or form == "flat" else 3, looks, square=form == "flat")
    images = _arrange(_npz_values(sketch, kind), form)
    labels = _npz_labels(sketch)
    arrays = {}
    for split in dict.fromkeys(sketch.splits):
        rows = np.array([place for place, own in enumerate(sketch.splits) if own == split])
        for pattern, array in zip(NPZ_NAMES[names], (images, labels), strict=True):
            arrays[pattern.format(split)] = array[rows]
    _spoil_npz(sketch, arrays)
    sketch.path = sketch.folder / "shapes.npz"
    save: Callable[..., None] = np.savez_compressed if draw.flip("compressed", 0.3) else np.savez
    save(sketch.path, **arrays)
    sketch.dataset = f"{draw.one_of(('npz:', ''))}{sketch.path}"


def _npz_values(sketch: Sketch, kind: str) -> np.ndarray:
    """Return the pixels in this range, in one of its usual types."""
    judge_range(sketch, kind)
    pixels, draw = sketch.pixels, sketch.draw
    floats: np.ndarray = (pixels / 255).astype(draw.one_of((np.float32, np.float64)))
    holed = floats.copy()
    holed[1, 0, 3, 3] = np.nan
    values: dict[str, np.ndarray] = {
        "uint8": pixels,
        "int64": pixels.astype(np.int64),
        "whole floats": pixels.astype(np.float32),
        "0..1": floats,
        "not a number": holed,
        "-1..1": floats * 2 - 1,
        "bool": pixels > 127,
        "0/1": (pixels // 255).astype(draw.one_of((np.uint8, np.int64, np.float32))),
        "0..16": (pixels // 15).astype(draw.one_of((np.uint8, np.float64))),
        "dark": pixels // 3,
        "16 bit": pixels.astype(np.uint16) * 257,
    }
    return values[kind]


def _arrange(images: np.ndarray, form: str) -> np.ndarray:
    if form == "gray":
        return images[:, 0]
    if form == "flat":
        return images.reshape(len(images), -1)
    return np.moveaxis(images, 1, 3) if form in {"last", "gray last"} else images


def _npz_labels(sketch: Sketch) -> np.ndarray:
    draw = sketch.draw
    if draw.choices["classes"] != "numbers":
        return np.array(sketch.labels)
    sketch.numeric = True
    numbers = np.array([int(label) for label in sketch.labels])
    form = draw.pick("labels", {"(n,)": 5, "(n, 1)": 2, "one-hot": 1})
    if form == "one-hot":
        return np.asarray(np.eye(len(sketch.classes), dtype=draw.one_of((np.uint8, np.float32)))[numbers])
    if draw.flip("labels from 1", 0.15):
        numbers += 1
        sketch.labels = [str(number) for number in numbers]
    numbers = numbers.astype(draw.one_of((np.uint8, np.int64, np.int32)))
    return numbers[:, None] if form == "(n, 1)" else numbers


def _spoil_npz(sketch: Sketch, arrays: dict[str, np.ndarray]) -> None:
    draw = sketch.draw
    if not draw.flip("defect", 0.06):
        return
    _, labels = list(arrays)[:2]
    test = [name for name in arrays if "test" in name and arrays[name].ndim == 1]
    if test and sketch.numeric and draw.flip("unknown test class", 0.5):
        arrays[test[0]] = arrays[test[0]] + 10
        sketch.none("a class of the test split that is not in train")
    else:
        draw.choices["kind of defect"] = "one label too few"
        arrays[labels] = arrays[labels][:-1]
        sketch.none("a label too few")


# ----------------------------------------------------------------------------------------- the layouts


def _make_class_folders(sketch: Sketch) -> None:
    write_tree(sketch, draw_tree(sketch, split=False))


def _make_split_folders(sketch: Sketch) -> None:
    write_tree(sketch, draw_tree(sketch, split=True))


def _make_listed(sketch: Sketch) -> None:
    files, name = draw_listed(sketch)
    write_tree(sketch, files)
    if sketch.draw.pick("source", {"the list": 3, "the folder": 1}) == "the list":
        sketch.path /= f"dataset/{name}" if "wrapped" in sketch.draw.choices else name
        sketch.dataset = f"{sketch.draw.one_of(('csv:', ''))}{sketch.path}"


def _make_metadata(sketch: Sketch) -> None:
    write_tree(sketch, draw_metadata(sketch))


def _make_archive(kind: str) -> Callable[[Sketch], None]:
    def make(sketch: Sketch) -> None:
        inside = sketch.draw.pick("inside", {"classes": 2, "splits": 2, "list": 1, "metadata": 0.7})
        if inside == "list":
            files, _ = draw_listed(sketch)
        elif inside == "metadata":
            files = draw_metadata(sketch)
        else:
            files = draw_tree(sketch, split=inside == "splits")
        write_archive(sketch, files, kind)

    return make


CONTAINERS: dict[str, tuple[float, Callable[[Sketch], None]]] = {
    "class folders": (18, _make_class_folders),
    "split folders": (16, _make_split_folders),
    "list of files": (12, _make_listed),
    "metadata": (8, _make_metadata),
    "pixel CSV": (20, make_pixel_csv),
    "pixel Parquet": (8, make_pixel_parquet),
    "image Parquet": (8, make_image_parquet),
    "npz": (14, make_npz),
    "zip": (8, _make_archive("zip")),
    "tar.gz": (4, _make_archive("tar.gz")),
}


def make_layout(seed: int, folder: Path) -> Layout:
    """Write the data set of `seed` below `folder` and return it with its right reading."""
    draw = Draw(seed)
    folder.mkdir(parents=True, exist_ok=True)
    container = draw.pick("container", {name: weight for name, (weight, _) in CONTAINERS.items()})
    sketch = Sketch(draw, folder)
    CONTAINERS[container][1](sketch)
    return sketch.finish(seed, container)
