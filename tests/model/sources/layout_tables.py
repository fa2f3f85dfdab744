"""Generated data sets in tables and arrays: CSV, Parquet and npz."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.model.sources.layout_images import draw_names, draw_pictures, truncate
from tests.model.sources.layout_sketch import (
    ANY_CLASSES,
    GIVEN_SPLITS,
    LABEL_NAMES,
    ODD_LABEL_NAMES,
    Draw,
    Sketch,
    draw_classes,
    draw_pixels,
    draw_splits,
)
from tests.model.sources.layout_text import render_table

HEADERS = {
    **{"pixel0": 4, "pixel1": 1, "pixel_0": 1, "px0": 0.5, "p0000": 0.7, "0": 1.5, "1x1": 1.5, "X0": 0.5},
    **{"feature_0": 0.5, "pixel 0": 0.4, "V1": 0.4},
}
RANGES = {
    **{"0-255": 10, "0..1": 2.5, "whole floats": 1, "0/1": 1.5, "0..16": 0.7, "dark": 0.6, "-1..1": 0.4},
    **{"12 bit": 0.4, "fractions to 255": 0.4, "missing value": 0.3},
}
TABLE_CLASSES = {"words": 3.0, "numbers": 6.0, "padded": 0.4, "capitals": 1.0, "odd text": 1.5, "near": 0.3}


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
            f"img_{place:03d}" if draw.choices["classes"] == "odd text" else str(place + 1)
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
    draw_classes(sketch, {"numbers": 6.0, "words": 1.5, "odd text": 0.5})
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
