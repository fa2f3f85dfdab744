"""Promises to those who bring a table: read as it stands, or told what is wrong and where."""

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

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset
from relearn.model.data.load import load_dataset
from relearn.model.errors import DataError
from relearn.model.home import Home

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 28, 28), np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 3, 16, 16), np.uint8)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    """Load `kind:PATH` with settings."""

    def load_own(kind: str, path: Path, **settings: Any) -> Dataset:
        return load_dataset(
            TrainConfig(dataset=f"{kind}:{path}", **settings), Home(tmp_path, tmp_path / "data")
        )

    return load_own


def frame(images: np.ndarray = GREY) -> pd.DataFrame:
    """label, pixel0, pixel1, …"""
    pixels = images.reshape(len(images), -1)
    table = pd.DataFrame(pixels, columns=[f"pixel{index}" for index in range(pixels.shape[1])])
    table.insert(0, "label", np.arange(len(images)) % 3)
    return table


def test_a_csv_of_pixels_works_as_it_is(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """label,pixel0,…,pixel783: every pixel arrives in its place."""
    frame().to_csv(tmp_path / "digits.csv", index=False)
    dataset = read("csv", tmp_path / "digits.csv")
    assert np.array_equal(GREY, dataset.train.images[:, 0])
    assert ([0, 1, 2, 0], ("0", "1", "2")) == (dataset.train.labels[:4].tolist(), dataset.classes)
    assert "digits-csv" == dataset.name  # not to be mistaken for the public dataset


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
def test_a_csv_in_other_dress(tmp_path: Path, read: Callable[..., Dataset], write: Any) -> None:
    """Without header, with pandas' index, other separators, the label elsewhere: the same images."""
    write(frame(), tmp_path / "a.csv")
    dataset = read("csv", tmp_path / "a.csv")
    assert np.array_equal(GREY, dataset.train.images[:, 0])
    assert ([0, 1, 2, 0], ("0", "1", "2")) == (dataset.train.labels[:4].tolist(), dataset.classes)


def test_classes_may_have_any_name(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Names that pandas takes for missing, and names with commas, are names."""
    table = frame()
    table["label"] = ["none", "NA", "a, b"] * 4
    table.to_csv(tmp_path / "a.csv", index=False)
    assert ("NA", "a, b", "none") == read("csv", tmp_path / "a.csv").classes


def test_a_table_of_colour(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """3 × k × k pixels are planes of red, green and blue; larger than 64 a side needs a size."""
    frame(COLOUR).to_csv(tmp_path / "a.csv", index=False)
    assert np.array_equal(COLOUR, read("csv", tmp_path / "a.csv").train.images)
    frame(np.zeros((2, 65, 65), np.uint8)).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match="65 × 65 pixels; more than 64 a side needs the setting size"):
        read("csv", tmp_path / "b.csv")
    assert (1, 32, 32) == read("csv", tmp_path / "b.csv", image_size=32).shape


def damaged(value: Any) -> pd.DataFrame:
    table = frame().astype(object)
    table.iloc[4, 8] = value
    return table


@pytest.mark.parametrize(
    ("value", "shown"),
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
def test_a_bad_pixel_is_named_by_row_and_column(
    tmp_path: Path, read: Callable[..., Dataset], value: Any, shown: str
) -> None:
    """Missing, formulas, words, out of range, fractions: the place, what stood there, what is accepted."""
    damaged(value).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError) as caught:
        read("csv", tmp_path / "a.csv")
    expected = f"row 5, column 'pixel7': got {shown}, accepted: whole numbers from 0 to 255"
    assert expected in str(caught.value)


def test_rows_are_counted_through_the_whole_file(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A bad pixel far down is named by its row in the file."""
    table = pd.concat([frame(GREY[:, :4, :4])] * 750, ignore_index=True).astype(int)
    table.iloc[8300, 3] = 999
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="row 8301, column 'pixel2': got '999'"):
        read("csv", tmp_path / "a.csv")


def test_scaled_pixels_get_a_hint(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """Values from 0 to 1 are not guessed at, but the way out is told."""
    table = frame().astype(float)
    table.iloc[:, 1:] /= 255
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="scaled to 0–1 must be multiplied by 255"):
        read("csv", tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has an empty first line"),
        ("cat", "has 0 pixel columns"),
        ("label,pixel0,pixel1,pixel2,pixel3\n", "has a header and no rows"),
        ("label,a,b,c,d,e\n1,2,3,4,5,6\n", "has 5 pixel columns beside its labels, accepted: k × k for grey"),
        (
            "pixel0,pixel1,pixel2,pixel3\n1,2,3,4\n",
            "has no column 'label': it starts with 'pixel0', 'pixel1'",
        ),
        ("label,a,b,c,d\n1,2,3,4,5\n1,2,3\n", "row 2, column 'c': got"),
        ("label,a,b,c,d\n1,2,3,4,5\n1,2,3,4,5,6\n", "is no table of pixels"),
        ("label,a,b,c,d\n1,2,3,4,5,6\n", "has 5 columns in its first line, 6 below"),
        ("label,a,b,c,d\n1,2,3,4,5\n,2,3,4,5\n", "row 2 has no label"),
        ("label,a,b,c,d\n1,\x00,3,4,5\n", "row 1, column 'a'"),
        ("\x89PNG\x00\xff", "no text in UTF-8"),
        ("label,a,b,c,d\n1,2,3,4,5\n", "the images have 2 × 2 pixels, accepted: 4 or more a side"),
        ("label," + ",".join(["x"] * 3_000_000), "too many columns"),
    ],
)
def test_a_wrong_csv_is_explained(
    tmp_path: Path, read: Callable[..., Dataset], text: str, message: str
) -> None:
    """Empty, no rows, no label, odd numbers of pixels, ragged rows, no text at all."""
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read("csv", tmp_path / "a.csv")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_parquet_of_pixels(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """The same table, with or without pandas' index, read alike."""
    frame().to_parquet(tmp_path / "a.parquet")
    frame().set_index(np.arange(12) + 5).to_parquet(tmp_path / "b.parquet")
    for name in ("a", "b"):
        dataset = read("parquet", tmp_path / f"{name}.parquet")
        assert np.array_equal(GREY, dataset.train.images[:, 0])
        assert ([0, 1, 2, 0], name) == (dataset.train.labels[:4].tolist(), dataset.name)


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_parquet_of_pictures(tmp_path: Path, read: Callable[..., Dataset], wrapped: bool) -> None:
    """PNG bytes, bare or with their path, and labels with the names that the hub keeps beside them."""
    images = [{"bytes": png(pixels), "path": None} if wrapped else png(pixels) for pixels in GREY]
    table = pa.table({"image": images, "label": np.arange(12) % 2})
    names = {"info": {"features": {"label": {"names": ["tee", "boot"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "a.parquet")
    dataset = read("parquet", tmp_path / "a.parquet")
    assert np.array_equal(GREY, dataset.train.images[:, 0])
    assert (("boot", "tee"), [1, 0, 1]) == (dataset.classes, dataset.train.labels[:3].tolist())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"GIF89a"], "label": [1]}, "1 of 1 pictures cannot be read, the first is row 1"),
        ({"image": [None], "label": [1]}, "the first is row 1"),
        ({"image": [png(GREY[0])]}, "has no column of labels beside 'image'"),
        ({"image": [png(GREY[0])], "label": [None]}, "row 1 has no label"),
        (
            {"image": [png(GREY[0])], "label": [[1, 2]]},
            "got the label '[1, 2]', accepted: a name or a number",
        ),
        ({"label": [[1], [2]], "a": [1, 2]}, "got the label '[1]', accepted: a name or a number"),
        ({"label": [1.0, None], "a": [1, 2]}, "row 2 has no label"),
        ({"label": [1], "pixels": [[1, 2, 3, 4]]}, "row 1, column 'pixels': got '[1"),
        ({"label": [1, 2], "a": [1.0, None]}, "row 2, column 'a': got 'nan'"),
    ],
)
def test_a_wrong_parquet_is_explained(
    tmp_path: Path, read: Callable[..., Dataset], columns: dict[str, Any], message: str
) -> None:
    """Bytes that are no picture, nothing at all, no labels, lists where numbers should be."""
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read("parquet", tmp_path / "a.parquet")
    assert message in str(caught.value)


def test_a_torn_parquet_is_refused(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    """A file cut short, or no Parquet at all."""
    frame().to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for torn in (content[:-20], b"words", b""):
        (tmp_path / "a.parquet").write_bytes(torn)
        with pytest.raises(DataError, match="is no Parquet file"):
            read("parquet", tmp_path / "a.parquet")
