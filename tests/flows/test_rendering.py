"""Promises of rendering: names from data are text in Markdown and HTML, and on the terminal."""

import pytest
from rich.console import Console

from relearn.flows.rendering import Table, bullets, escape_markdown

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
