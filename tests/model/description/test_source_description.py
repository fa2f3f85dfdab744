"""Promises of descriptions: any name survives the file, and short forms lose nothing."""

import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relearn.model.description.class_names import find_similar_names
from relearn.model.description.source_description import (
    AmbiguousDataError,
    DataDescription,
    compress_names,
    expand_names,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(NAMES, unique=True), st.dictionaries(NAMES, st.integers(0, 99)))
def test_every_name_survives_the_file(names: list[str], left_out: dict[str, int]) -> None:
    """Quotes, backslashes, control characters, emoji in class names and reasons."""
    description = DataDescription(
        source=Path("/x/ä\\\"'"), layout="folder", classes=tuple(names), left_out=left_out
    )
    assert description == DataDescription.parse(tomllib.loads(description.to_toml()), Path("a.toml"))


VALUES = st.one_of(
    st.booleans(), st.integers(0, 2**53), st.lists(NAMES, max_size=3), st.dictionaries(NAMES, st.lists(NAMES))
)


@given(NAMES, VALUES)
def test_the_line_of_a_reading_is_valid_toml(key: str, value: object) -> None:
    """A line that an error proposes gives its key and value, whatever names are in them."""
    error = AmbiguousDataError("a.csv", {"as it is": {key: value}})
    ((_, line),) = error.readings
    assert {key: value} == tomllib.loads(line)


@given(st.lists(st.from_regex(r"\A[a-c.]{0,3}\d{1,3}[x.]?\d{0,2}\Z"), max_size=30))
def test_short_forms_of_names_lose_nothing(names: list[str]) -> None:
    """Runs of numbered columns are expanded to the same names in the same order."""
    if any(".." in name for name in names):
        return
    assert names == expand_names(compress_names(names))


def test_runs_are_short() -> None:
    """784 pixel columns are one entry; zeros in front stay."""
    assert ["pixel0..pixel783"] == compress_names([f"pixel{index}" for index in range(784)])
    assert ["p000..p011"] == compress_names([f"p{index:03}" for index in range(12)])


def test_similar_names_are_grouped() -> None:
    """Case, spaces, Unicode form, and numbers written in two ways."""
    assert [["Dog", "dog "], ["1", "1.0"]] == find_similar_names(
        ["Dog", "cat", "1", "dog ", "1.0", "-1", "10"]
    )
