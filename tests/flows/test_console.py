"""Text on the terminal."""

from pathlib import Path

import pytest

from relearn.flows.console import EpochBar, make_console, print_warning

FLOWS = Path(__file__).parents[2] / "flows"


@pytest.mark.parametrize("text", ["/tmp/p [red] q", "a[/b]", ":smile:", "[link=x]y[/link]"])
def test_strings_are_printed_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons of paths, names and messages are no markup."""
    make_console().print(text)
    print_warning(text)
    assert f"{text}\nwarning {text}\n" == capsys.readouterr().out
    with EpochBar(text, 1, 1):
        pass


def test_every_console_is_made_in_one_place() -> None:
    """No other module makes one of its own, with markup, or reads markup."""
    for path in FLOWS.rglob("*.py"):
        if path.name != "console.py":
            source = path.read_text()
            for name in ("Console(", "from_markup", "rich.markup"):
                assert source.count(name) == source.count(f"_{name}"), f"{path}: {name}"
