"""Make the picture of the README anew that shows a terminal: `python -m infra.pictures`."""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RELEARN = Path(sys.executable).parent / "relearn"


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "RELEARN_HOME": f"{home}/.relearn",
            "FORCE_COLOR": "1",
            "TTY_INTERACTIVE": "0",  # a picture of moving bars would show each of their positions
            "COLUMNS": "100",
        }
        said = subprocess.run(
            [RELEARN, "run", "--dataset", "digits"],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        (IMAGES / "run.svg").write_text(terminal("make run", said.replace(f"{home}/", "")))


def terminal(command: str, said: str) -> str:
    """What a terminal shows after `command`, as SVG; its fonts are the reader's own."""
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(f"[green]$[/] {command}")
    console.print(Text.from_ansi(said), soft_wrap=False)
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="relearn"), flags=re.DOTALL)


if __name__ == "__main__":
    main()
