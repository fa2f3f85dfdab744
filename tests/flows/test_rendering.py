"""Promises of rendering: names from data are text in Markdown and HTML, and on the terminal."""

import pytest
from rich.console import Console

from relearn.flows.rendering import Table, build_comparison_table, bullets, escape_markdown, format_value

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
