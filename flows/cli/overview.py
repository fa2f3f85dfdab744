"""`relearn` alone: where one is, and the next command."""

from rich.text import Text

from relearn.flows.terminal.console import make_console
from relearn.flows.terminal.next_step import print_next
from relearn.flows.terminal.rendering import build_row
from relearn.model.home import Home

LABEL_WIDTH = 9  # characters


def print_overview(home: Home) -> None:
    """Print what is trained, released and running in `home`, and one command that leads on."""
    from relearn.flows.ops.overview import describe_home, find_next_command

    console = make_console()
    for line in describe_home(home):
        console.print(build_row(Text(line.label, "bold"), Text(line.text), LABEL_WIDTH))
    print_next(*find_next_command(home))
    console.print("All commands: relearn --help", style="dim")
