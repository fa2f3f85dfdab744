"""Text on the terminal."""

from pathlib import Path

import pytest

from relearn.flows.terminal.console import (
    EpochBar,
    image_bar,
    make_console,
    print_note,
    print_warning,
    set_quiet,
    spinner,
)

FLOWS = Path(__file__).parents[3] / "flows"


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


def test_spinner_and_bars_are_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal shows what a step waits for, and keeps what it prints; a pipe gets only the latter."""
    for is_terminal in (False, True):
        monkeypatch.setenv("FORCE_COLOR", "1") if is_terminal else monkeypatch.delenv("FORCE_COLOR", False)
        with spinner("Packaging"):
            make_console().print("printed")
        with image_bar() as show_progress:
            show_progress(1, 2)
        output = capsys.readouterr().out
        assert "printed\n" in output
        assert "…printed" not in output
        assert is_terminal == ("Packaging …" in output) == ("Reading images" in output)


def test_spinner_may_enclose_bars_and_spinners(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inner spinner takes the place of the outer one, which comes back."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with spinner("Evaluating"):
        with image_bar() as show_progress:
            show_progress(1, 2)
        with spinner("Loading"), EpochBar("mlp", 1, 1):
            make_console().print("printed")
    output = capsys.readouterr().out
    words = ("Evaluating …", "Reading images", "Loading …", "printed")
    assert all(word in output for word in words)
    assert output.rindex("Evaluating …") > output.index("printed")


def test_quiet_terminal_shows_results_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither notes, warnings, spinners nor bars, until it is loud again."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for quiet, expected in ((True, "result\n"), (False, "a note\nresult\n")):
        set_quiet(quiet)
        print_note("a note")
        make_console().print("result")
        assert expected == capsys.readouterr().out
    set_quiet(True)
    print_warning("careful")
    with spinner("Loading"), image_bar() as show_progress, EpochBar("mlp", 1, 1):
        show_progress(1, 2)
    assert "" == capsys.readouterr().out
    set_quiet(False)
