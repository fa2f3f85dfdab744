"""Terminal output of flows: progress bar, warnings, stage times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from relearn.model.training.state import EpochRecord


def make_console(width: int | None = None) -> Console:
    """Return a console that prints strings as they are: no markup, emoji codes or highlighted numbers.

    Paths, names and messages from outside may hold brackets and colons; a style is given as a `Text`.
    """
    return Console(markup=False, emoji=False, highlight=False, width=width)


def print_warning(message: str) -> None:
    """Print a warning on the terminal."""
    make_console().print(Text.assemble(("warning", "yellow"), f" {escape_controls(message)}"))


def escape_controls(text: str) -> str:
    """Replace control characters, which a class or file name may hold, by their escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class EpochBar:
    """Progress bar over the epochs of one training; hidden without a terminal."""

    def __init__(self, title: str, epochs: int, images_per_epoch: int) -> None:
        console = make_console()
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(12),
            TextColumn("{task.fields[state]}", markup=False),
        )
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task(title, total=epochs, state="")
        self._images_per_epoch = images_per_epoch

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, record: "EpochRecord") -> None:
        """Advance by one epoch."""
        self._bar.update(
            self._task,
            advance=1,
            state=(
                f"epoch {record.epoch}: {record.val_accuracy:.2%} on validation, "
                f"{self._images_per_epoch / record.seconds:,.0f} images/s"
            ),
        )


@contextmanager
def image_bar(title: str = "Reading images") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar over images, of at most 60 columns; yield the function that sets it.

    It is hidden without a terminal, and until the first image.
    """
    console = make_console()
    columns = TextColumn("  {task.description}", markup=False), BarColumn(12), MofNCompleteColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=None, visible=False)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=done < total)

        yield show


class Stopwatch:
    """Seconds that each stage took, in the order in which they ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the `with` block as stage `name`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = perf_counter() - start
