"""Promises of rendering: names from data are text in Markdown and HTML, and on the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from relearn.flows.terminal.rendering import (
    Table,
    build_comparison_table,
    bullets,
    escape_markdown,
    format_value,
)

NAMES = ("[x]*", "[/b]", "<b>bold</b>", "[a](http://x)", "a|b", "`c`", "_d_", "# e", "$f$")


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_text_in_markdown(name: str) -> None:
    """In a list, a table and a title no sign of Markdown or HTML is left without a backslash."""
    table = Table(("class", "n"), [(name, "1")], name).to_markdown()
    for rendered in (escape_markdown(name), bullets([name]), table):
        assert escape_markdown(name) in rendered
    for sign in "[]<>*`_|#$":
        assert escape_markdown(name).count(sign) == escape_markdown(name).count(f"\\{sign}")


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_printed_as_they_are(name: str) -> None:
    """Rich takes them neither for markup in a cell nor in the title, whatever console prints them."""
    console = Console(width=80, record=True, markup=True)
    console.print(Table(("class", "n"), [(name, "1")], name))
    assert console.export_text().count(name) == 2


def test_differences_are_aligned_as_numbers() -> None:
    """Also where two values are equal."""
    table = build_comparison_table(
        ("a", "b"), {"loss": 0.5, "images": 292.0}, {"loss": 0.75, "images": 292.0}
    ).to_markdown()
    assert "| :-- | --: | --: | --: |" in table
    assert "| images | 292 | 292 | = |" in table


@given(
    st.integers(60, 120),
    st.lists(
        st.tuples(st.from_regex(r"[a-z]{1,12}", fullmatch=True), st.integers(0, 10**9)),
        min_size=2,
        max_size=12,
    ),
)
def test_narrow_terminal_leaves_out_columns_not_digits(width: int, cells: list[tuple[str, int]]) -> None:
    """Each number is on one line, or its column is named below the table; a wide terminal shows all."""
    names = [f"{name}{number}" for number, (name, _) in enumerate(cells)]
    numbers = [f"{value:,}" for _, value in cells]
    table = Table(("what", *names), [("images", *numbers)])
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    printed, _, left_out = text.partition("narrow: ")
    shown = len(names) - (left_out.count(",") + 1 if left_out else 0)
    assert shown >= 1
    for name, number in zip(names[:shown], numbers[:shown], strict=True):
        assert f" {name} " in printed
        assert f" {number} " in printed
    for name in names[shown:]:
        assert name in left_out.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= width
    wide = Console(width=10_000, record=True, file=io.StringIO())
    wide.print(table)
    assert "left out" not in wide.export_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10_000.0, "10,000"),
        (0.97263, "0.9726"),
        (float("inf"), "inf"),
        (1.7976e308, "1.798e+308"),
        (1_234, "1,234"),
    ],
)
def test_numbers_are_formatted(value: float, text: str) -> None:
    """Counts keep all digits, also as the floats that MLflow returns."""
    assert text == format_value(value)
