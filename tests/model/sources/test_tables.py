"""Promises of image tables: they are read as they are, or the error says what is wrong and where."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from relearn.model.data.dataset import Dataset
from relearn.model.description.source_description import AmbiguousDataError
from relearn.model.errors import DataError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 28, 28), np.uint8)
COLOR = RNG.integers(0, 256, (12, 3, 16, 16), np.uint8)


def pixel_table(images: np.ndarray = GRAY) -> pd.DataFrame:
    """A table with the columns label, pixel0, pixel1, …"""
    pixels = images.reshape(len(images), -1)
    table = pd.DataFrame(pixels, columns=[f"pixel{index}" for index in range(pixels.shape[1])])
    table.insert(0, "label", np.arange(len(images)) % 3)
    return table


def test_csv_of_pixels_is_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """With the columns label,pixel0,…,pixel783 every pixel is in its place."""
    pixel_table().to_csv(tmp_path / "digits.csv", index=False)
    dataset = load("csv", tmp_path / "digits.csv")
    assert np.array_equal(GRAY, dataset.train.images[:, 0])
    assert ([0, 1, 2, 0], ("0", "1", "2")) == (dataset.train.labels[:4].tolist(), dataset.classes)
    assert "digits-csv" == dataset.name  # `digits` is the built-in dataset


@pytest.mark.parametrize(
    "write",
    [
        lambda table, file: table.to_csv(file, index=False, header=False),
        lambda table, file: table.to_csv(file),
        lambda table, file: table.to_csv(file, index=False, sep=";"),
        lambda table, file: table.to_csv(file, index=False, sep="\t", encoding="utf-8-sig"),
        lambda table, file: table[[*table.columns[1:], "label"]].to_csv(file, index=False),
        lambda table, file: table.rename(columns={"label": " Class"}).to_csv(file, index=False),
        lambda table, file: table.astype(float).to_csv(file, index=False),
        lambda table, file: table.rename(columns={"label": "digit"}).to_csv(file, index=False),
    ],
    ids=["no header", "index", "semicolons", "tabs and BOM", "label last", "class", "floats", "first column"],
)
def test_csv_variants_give_the_same_images(tmp_path: Path, load: Callable[..., Dataset], write: Any) -> None:
    """Variants: no header, pandas' index, other separators, the label elsewhere or renamed."""
    write(pixel_table(), tmp_path / "a.csv")
    dataset = load("csv", tmp_path / "a.csv")
    assert np.array_equal(GRAY, dataset.train.images[:, 0])
    assert ([0, 1, 2, 0], ("0", "1", "2")) == (dataset.train.labels[:4].tolist(), dataset.classes)


def test_classes_may_have_any_name(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Names that pandas reads as missing values, and names with commas, are names."""
    table = pixel_table()
    table["label"] = ["none", "NA", "a, b"] * 4
    table.to_csv(tmp_path / "a.csv", index=False)
    assert ("NA", "a, b", "none") == load("csv", tmp_path / "a.csv").classes


def test_table_of_colour_images(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """3 × k × k pixels are refused until a dataset.toml tells planes from interleaved colors."""
    pixel_table(COLOR).to_csv(tmp_path / "a.csv", index=False)
    pixel_table(COLOR.transpose(0, 2, 3, 1)).to_csv(tmp_path / "b.csv", index=False)
    for name, choice in (("a", "false"), ("b", "true")):
        with pytest.raises(AmbiguousDataError, match=r"`interleaved = true`, or .*`interleaved = false`"):
            load("csv", tmp_path / f"{name}.csv")
        (tmp_path / "c.toml").write_text(f'source = "{name}.csv"\ninterleaved = {choice}\n')
        assert np.array_equal(COLOR, load("toml", tmp_path / "c.toml").train.images)


@pytest.mark.slow
def test_large_tables_are_resized(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """More than 64 pixels a side become 64, or the given size."""
    pixel_table(np.zeros((2, 65, 65), np.uint8)).to_csv(tmp_path / "b.csv", index=False)
    assert (1, 64, 64) == load("csv", tmp_path / "b.csv").shape
    assert (1, 32, 32) == load("csv", tmp_path / "b.csv", image_size=32).shape


def table_with_value(value: Any) -> pd.DataFrame:
    table = pixel_table().astype(object)
    table.iloc[4, 8] = value
    return table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "''"),
        ("=1+1", "'=1+1'"),
        ("cat", "'cat'"),
        (256, "'256'"),
        (-1, "'-1'"),
        (0.5, "'0.5'"),
        ("inf", "'inf'"),
    ],
)
def test_invalid_pixel_is_reported_with_row_and_column(
    tmp_path: Path, load: Callable[..., Dataset], value: Any, expected: str
) -> None:
    """Missing values, formulas, words, numbers out of range, fractions: the message has place and value."""
    table_with_value(value).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError) as caught:
        load("csv", tmp_path / "a.csv")
    expected = f"row 5, column 'pixel7': got {expected}, accepted: whole numbers from 0 to 255"
    assert expected in str(caught.value)


def test_rows_are_counted_through_the_whole_file(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """An invalid pixel far down is reported with its row in the file."""
    table = pd.concat([pixel_table(GRAY[:, :4, :4])] * 750, ignore_index=True).astype(int)
    table.iloc[8300, 3] = 999
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="row 8301, column 'pixel2': got '999'"):
        load("csv", tmp_path / "a.csv")


def test_pixels_from_0_to_1_are_scaled(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """Fractions from 0 to 1 give the images that were divided by 255."""
    table = pixel_table().astype(float)
    table.iloc[:, 1:] /= 255
    table.to_csv(tmp_path / "a.csv", index=False)
    assert np.array_equal(GRAY, load("csv", tmp_path / "a.csv").train.images[:, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has an empty first line"),
        ("cat", "has 0 pixel columns"),
        ("label,pixel0,pixel1,pixel2,pixel3\n", "has a header and no rows"),
        ("label,a,b,c,d,e\n1,2,3,4,5,6\n", "has 5 pixel columns beside its label, accepted: k × k for gray"),
        (
            "pixel0,pixel1,pixel2,pixel3\n1,2,3,4\n",
            "has no column 'label': it starts with 'pixel0', 'pixel1'",
        ),
        ("label,a,b,c,d\n1,2,3,4,5\n1,2,3\n", "row 2, column 'c': got"),
        ("label,a,b,c,d\n1,2,3,4,5\n1,2,3,4,5,6\n", "is not a table of pixels"),
        ("label,a,b,c,d\n1,2,3,4,5,6\n", "has 5 columns in its first line, 6 below"),
        ("label,a,b,c,d\n1,2,3,4,5\n,2,3,4,5\n", "row 2 has no label"),
        ("label,a,b,c,d\n1,\x00,3,4,5\n", "row 1, column 'a'"),
        ("\x89PNG\x00\xff", "is not UTF-8 text"),
        ("label,a,b,c,d\n1,2,3,4,5\n", "the images have 2 × 2 pixels, accepted: 4 or more a side"),
        ("label," + ",".join(["x"] * 3_000_000), "too many columns"),
    ],
)
def test_invalid_csv_is_explained(
    tmp_path: Path, load: Callable[..., Dataset], text: str, message: str
) -> None:
    """Empty, no rows, no label, a wrong number of pixels, ragged rows, not text: the message names each."""
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load("csv", tmp_path / "a.csv")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_parquet_of_pixels_is_read(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """The same table, with or without pandas' index, gives the same images."""
    pixel_table().to_parquet(tmp_path / "a.parquet")
    pixel_table().set_index(np.arange(12) + 5).to_parquet(tmp_path / "b.parquet")
    for name in ("a", "b"):
        dataset = load("parquet", tmp_path / f"{name}.parquet")
        assert np.array_equal(GRAY, dataset.train.images[:, 0])
        assert ([0, 1, 2, 0], name) == (dataset.train.labels[:4].tolist(), dataset.name)


def encode_png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
def test_parquet_of_image_files_is_read(tmp_path: Path, load: Callable[..., Dataset], wrapped: bool) -> None:
    """PNG bytes, bare or with their path, and labels with class names in the hub's metadata."""
    images = [
        {"bytes": encode_png(pixels), "path": None} if wrapped else encode_png(pixels) for pixels in GRAY
    ]
    table = pa.table({"image": images, "label": np.arange(12) % 2})
    names = {"info": {"features": {"label": {"names": ["tee", "boot"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "a.parquet")
    dataset = load("parquet", tmp_path / "a.parquet")
    assert np.array_equal(GRAY, dataset.train.images[:, 0])
    assert (("boot", "tee"), [1, 0, 1]) == (dataset.classes, dataset.train.labels[:3].tolist())


SIXTEEN = {f"p{index}": [200, 1] for index in range(16)}  # pixel columns


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": [b"GIF89a", encode_png(GRAY[0])], "label": [1, 2]},
            "1 of 2 images cannot be read, the first is row 1",
        ),
        ({"image": [None, encode_png(GRAY[0])], "label": [1, 2]}, "the first is row 1"),
        ({"image": [encode_png(GRAY[0])]}, "has no label column beside 'image'"),
        ({"image": [encode_png(GRAY[0])], "label": [None]}, "row 1 has no label"),
        (
            {"image": [encode_png(GRAY[0])], "label": [[1, 2]]},
            "got the label '[1, 2]', accepted: a name or a number",
        ),
        ({"label": [[1], [2]]} | SIXTEEN, "got the label '[1]', accepted: a name or a number"),
        ({"label": [1.0, None]} | SIXTEEN, "row 2 has no label"),
        ({"label": [1, 2]} | SIXTEEN | {"p3": [1.0, None]}, "row 2, column 'p3': got 'nan'"),
        ({"label": [1, 2], "pixels": [[1] * 16, [1] * 15]}, "row 2, column 'pixels': got 15 numbers"),
    ],
)
def test_invalid_parquet_is_explained(
    tmp_path: Path, load: Callable[..., Dataset], columns: dict[str, Any], message: str
) -> None:
    """Bytes that are no image, missing values, no labels, lists for numbers: the message names each."""
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        load("parquet", tmp_path / "a.parquet")
    assert message in str(caught.value)


def test_damaged_parquet_is_rejected(tmp_path: Path, load: Callable[..., Dataset]) -> None:
    """A truncated file, text or an empty file."""
    pixel_table().to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for damaged in (content[:-20], b"words", b""):
        (tmp_path / "a.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match="is not a Parquet file"):
            load("parquet", tmp_path / "a.parquet")
