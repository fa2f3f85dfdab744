"""Generator of the README's terminal screenshot: `python -m infra.readme_screenshot`."""

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
    """Run `relearn run` in a temporary home and write docs/images/run.svg."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "RELEARN_HOME": f"{home}/.relearn",
            "FORCE_COLOR": "1",
            "TTY_INTERACTIVE": "0",  # progress bars would appear in each of their states
            "COLUMNS": "100",
        }
        output = subprocess.run(
            [RELEARN, "run", "--dataset", "digits"],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        # Bars and spinners leave empty lines where there is no terminal.
        output = "\n".join(line for line in output.splitlines() if Text.from_ansi(line).plain.strip())
        output = output.replace(f"{home}/", "").replace("RELEARN_HOME=.relearn ", "")  # as in the clone
        (IMAGES / "run.svg").write_text(render_terminal("make run", output))


def render_terminal(command: str, output: str) -> str:
    """Render a command and its output as SVG, without embedded fonts."""
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(f"[green]$[/] {command}")
    console.print(Text.from_ansi(output), soft_wrap=False)
    return re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="relearn"), flags=re.DOTALL)


if __name__ == "__main__":
    main()
