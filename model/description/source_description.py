"""Description of a data source: how it is read, in a file `dataset.toml` that a person may edit."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from relearn.model.config import format_problems
from relearn.model.description.class_names import find_similar_names
from relearn.model.errors import DataError, NotFoundError
from relearn.model.text import escape_controls

BELOW_SOURCE = "a file dataset.toml, below `source = …`, and pass --dataset dataset.toml"
Layout = Literal["folder", "file_names", "file_list", "image_table", "pixel_table", "arrays"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
LAYOUT_WORDS: dict[Layout, str] = {
    "folder": "a folder of image files for each class",
    "file_names": "image files whose names start with their class",
    "file_list": "a table of file names and labels, and the image files",
    "image_table": "a table with an image file and a label in each row",
    "pixel_table": "a table with the pixels and the label of an image in each row",
    "arrays": "arrays of images and labels",
}
COLOR_ORDERS = {
    None: "",
    True: "; red, green, blue of each pixel together",
    False: "; a plane for each color",
}
MAX_LEFT_OUT, WARN_LEFT_OUT = 0.2, 0.01  # fractions of the images of a source


class AmbiguousDataError(DataError):
    """Data with two possible readings: each in words, with the keys of `dataset.toml` that choose it."""

    code = "ambiguous_data"

    def __init__(self, subject: str, readings: Mapping[str, Mapping[str, Any]]) -> None:
        self.readings = tuple((words, to_toml(keys)) for words, keys in readings.items())
        choices = ", or ".join(f"{words}: `{line}`" for words, line in self.readings)
        count = "Two readings are" if len(self.readings) > 1 else "This reading is"
        super().__init__(
            f"{subject}. {count} possible: {choices}. Write the line that is right into {BELOW_SOURCE}"
        )


class DataDescription(BaseModel):
    """Reading of a source: everything that the reading needs, and what it leaves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = Field(1, description="Version of this file's keys.")
    source: Path = Field(description="Path of the data; a relative one starts at the folder of this file.")
    layout: Layout = Field(description=f"Kind of layout: {', '.join(LAYOUT_WORDS)}.")
    classes: tuple[str, ...] = Field((), description="Names of the classes, in the order of their numbers.")
    root: str = Field("", description="Folder inside the source that holds the data.")
    class_level: int = Field(
        1, ge=1, description="Level of the class folders below the root or the split folders, from 1."
    )
    splits: dict[SplitName, tuple[str, ...]] = Field(
        {},
        description="Folders, tables, arrays or values of split_column that make each split; without a test "
        "split, one is cut from the training images.",
    )
    tables: tuple[str, ...] = Field((), description="Table files inside the source.")
    separator: str = Field(",", description="Separator of a CSV.")
    header: bool = Field(True, description="The first line of the CSV holds the column names.")
    label_columns: tuple[str, ...] = Field((), description="Label column; several are one-hot.")
    split_column: str | None = Field(None, description="Column that holds the split of a row.")
    groups_column: str | None = Field(None, description="Column of images that belong together.")
    group_level: int | None = Field(
        None,
        ge=1,
        description="Folders whose images belong together, also of one name in several classes: 1 those that "
        "hold images, 2 those around them.",
    )
    image_column: str | None = Field(None, description="Column of file names or of image files.")
    image_folder: str = Field("", description="Folder inside the source that the file names start from.")
    image_suffix: str = Field("", description="Suffix that the file names lack.")
    pixel_columns: tuple[str, ...] = Field(
        (), description="Pixel columns, row by row; a..b stands for all numbers between."
    )
    channels: Literal[1, 3] | None = Field(None, description="1 (gray) or 3 (color), of bare pixels.")
    width: int | None = Field(None, ge=1, description="Pixels in a row of an image. Default: it is square.")
    interleaved: bool | None = Field(
        None, description="Color pixels are r, g, b, r, g, b, …; false: all red ones first."
    )
    scale: int | None = Field(
        None, ge=1, le=65_535, description="Value that is white. Default: as each image file declares."
    )
    image_size: int | None = Field(
        None, ge=8, le=256, description="Side to which images are resized. Default: as they are."
    )
    ignore: tuple[str, ...] = Field((), description="Folders or files inside the source that are not read.")
    skip_damaged: int = Field(0, ge=0, description="Damaged images that may be skipped.")
    skipped: dict[str, str] = Field({}, description="Damaged images that were skipped, and their SHA-256.")
    left_out: dict[str, int] = Field({}, description="Accepted numbers of images that are not read.")
    counts: dict[str, int] = Field({}, description="Images of each split, for the reader of this file.")
    notes: tuple[str, ...] = Field((), description="Remarks about the data.")
    cautions: tuple[str, ...] = Field((), description="Warnings about the data.")
    fingerprint: str | None = Field(None, description="SHA-256 of images and labels, when pinned.")

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path) -> Self:
        """Build a description from the values of the file `path`."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = format_problems(error, cls.model_fields)
            raise DataError(f"{path}: {'; '.join(problems) or 'source and layout are needed'}") from None

    def save(self, path: Path) -> None:
        """Write `dataset.toml`; raise DataError if `path` exists."""
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.to_toml())
        except FileExistsError:
            raise DataError(f"{path} exists, accepted: a new file") from None

    def to_toml(self) -> str:
        """Render the keys that are not at their default, each below its meaning."""
        values = {"format": self.format} | self.model_dump(mode="json", exclude_defaults=True)
        if self.pixel_columns:
            values["pixel_columns"] = compress_names(self.pixel_columns)
        fields = type(self).model_fields
        return "".join(
            f"# {fields[name].description}\n{to_toml({name: value})}\n" for name, value in values.items()
        )

    @property
    def file_scale(self) -> int | None:
        """Value that is white in image files; None: as each declares."""
        return None if self.layout in ("pixel_table", "arrays") else self.scale

    @property
    def has_groups(self) -> bool:
        """True if images are grouped by a column or by folders, not as near-duplicates."""
        return self.groups_column is not None or self.group_level is not None

    @property
    def warnings(self) -> list[str]:
        """Warnings about images that are left out, and about class names that are nearly equal."""
        left_out, total = sum(self.left_out.values()), sum(self.counts.values())
        warnings = list(self.cautions)
        if left_out > WARN_LEFT_OUT * (left_out + total):
            warnings.append(
                f"{left_out:,} of {left_out + total:,} images are left out: {self._left_out_reasons()}"
            )
        return warnings + [
            f"class names are nearly equal: {', '.join(map(ascii, names))}"
            for names in find_similar_names(self.classes)
        ]

    def check_left_out(self, accepted: Mapping[str, int]) -> None:
        """Raise DataError if more than MAX_LEFT_OUT of the images are left out beyond those `accepted`."""
        total = sum(self.counts.values()) + sum(self.left_out.values())
        excess = sum(max(0, count - accepted.get(reason, 0)) for reason, count in self.left_out.items())
        if excess > MAX_LEFT_OUT * total:
            raise DataError(
                f"{self.source}: {excess:,} of {total:,} images would be left out: "
                f"{self._left_out_reasons()}. To accept this, write "
                f"`{to_toml({'left_out': self.left_out})}` into {BELOW_SOURCE}"
            )

    def _left_out_reasons(self) -> str:
        return "; ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())

    def summarize(self, image_size: int | None = None) -> list[str]:
        """Describe the reading in a few lines without control characters, so that a person can check it.

        `image_size` is the side that the settings ask for; it overrides that of the description.
        """
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        names = ", ".join(self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
        lines = [
            f"{self.source}: {LAYOUT_WORDS[self.layout]}" + (f", below {self.root}" if self.root else ""),
            f"Images: {counts}; {self._describe_splits()}",
            f"Classes: {len(self.classes)}: {names}",
        ]
        if self.label_columns:
            labels = ", ".join(compress_names(self.label_columns)[:5])
            pixels = ", ".join(compress_names(self.pixel_columns)[:4])
            images = f"image {self.image_column}" if self.image_column else f"pixels {pixels}"
            lines.append(f"Columns: label {labels}; {images}")
        if self.has_groups:
            groups = (
                f"column {self.groups_column}" if self.groups_column else f"folder level {self.group_level}"
            )
            lines.append(f"Groups: {groups}; the images of a group share a split")
        white = f"{self.scale} is white" if self.scale else "white as each file declares"
        side = image_size or self.image_size
        resized = f"; resized to {side} × {side}" if side else ""
        lines.append(f"Pixels: {white}{COLOR_ORDERS[self.interleaved]}{resized}")
        if self.left_out:
            lines.append(f"Left out: {sum(self.left_out.values()):,} images: {self._left_out_reasons()}")
        return list(map(escape_controls, [*lines, *self.notes, *self.cautions]))

    def _describe_splits(self) -> str:
        if not self.splits:
            return "test and validation images are cut from them"
        clauses = [f"{', '.join(members)} is the {split} split" for split, members in self.splits.items()]
        missing = [split for split in ("validation", "test") if split not in self.splits]
        return "; ".join([*clauses, *(f"the {split} split is cut from train" for split in missing)])


def read_choices(path: Path) -> dict[str, Any]:
    """Read the keys of a `dataset.toml` that may be incomplete; `source` becomes absolute."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid TOML: {error}") from None
    if not isinstance(values.get("source"), str):
        raise DataError(f'{path}: got no source, accepted: source = "PATH"')
    checked = DataDescription.parse({"layout": "folder", **values}, path)
    explicit = {name: getattr(checked, name) for name in values}
    source = (path.absolute().parent / Path(values["source"]).expanduser()).resolve()
    columns = tuple(expand_names(explicit.get("pixel_columns", ())))
    return explicit | {"source": source} | ({"pixel_columns": columns} if columns else {})


def compress_names(names: Sequence[str]) -> list[str]:
    """Shorten runs of numbered names: p0, p1, p2 become p0..p2."""
    runs = list[list[str]]()
    for name in names:
        last = runs[-1][-1] if runs else ""
        if ".." not in last and expand_names([f"{last}..{name}"]) == [last, name]:
            runs[-1].append(name)
        else:
            runs.append([name])
    return [part for run in runs for part in ([f"{run[0]}..{run[-1]}"] if len(run) > 2 else run)]


def expand_names(names: Sequence[str]) -> list[str]:
    """Undo `compress_names`."""
    expanded = list[str]()
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d+)(.*)\.\.\1(\d+)\3", name):
            prefix, first, suffix, last = match.groups()
            width = len(first) if first.startswith("0") else 0
            expanded += [f"{prefix}{number:0{width}}{suffix}" for number in range(int(first), int(last) + 1)]
        else:
            expanded.append(name)
    return expanded


def to_toml(values: Mapping[str, Any]) -> str:
    """Render keys and values in one line, as an inline table without its braces."""
    return ", ".join(
        f"{name if re.fullmatch(r'[A-Za-z0-9_-]+', name) else _to_toml_value(name)} = {_to_toml_value(value)}"
        for name, value in values.items()
    )


def _to_toml_value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{to_toml(value)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_to_toml_value, value))}]"
    # JSON's strings are TOML's, but for DEL; numbers and booleans are the same.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
