"""The next command, at the end of a command, ready to paste."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.text import Text

from relearn.flows.terminal.console import print_note


def print_next(*arguments: str) -> None:
    """Print the command that usually comes next, on one line of any length, so that it can be pasted."""
    print_note(Text.assemble(("Next: ", "dim"), (format_command(*arguments), "bold")))


def format_command(*arguments: str) -> str:
    """Return a command of Relearn as it can be typed here, with `RELEARN_HOME=…` if that variable is set."""
    program = Path(sys.executable).parent / "relearn"
    is_on_path = shutil.which("relearn") == str(program)
    home = os.environ.get("RELEARN_HOME")
    return " ".join(
        [
            *([f"RELEARN_HOME={shlex.quote(home)}"] if home else []),
            "relearn" if is_on_path else shlex.quote(_shorten_path(program)),
            *map(shlex.quote, arguments),
        ]
    )


def _shorten_path(program: Path) -> str:
    """Return the path of a program, relative to the current folder if it lies in there."""
    try:
        short_path = str(program.relative_to(Path.cwd()))
    except (ValueError, OSError):  # it lies elsewhere; the current folder was deleted
        return str(program)
    return short_path if os.sep in short_path else os.path.join(os.curdir, short_path)  # noqa: PTH118
