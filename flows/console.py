"""Terminal output of flows: progress bar, warnings, stage times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from relearn.model.text import escape_controls

if TYPE_CHECKING:
    from relearn.model.training.state import EpochRecord


class PlainConsole(Console):
    """Console that prints strings as they are: no markup, emoji codes, highlighted numbers or controls.

    Paths, names and messages from outside may hold any of these; a style is given as a `Text`. Control
    characters but for line ends are escaped: a terminal would obey them.
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, width=width)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a `Text` of a printed string."""
        return super().render_str("\n".join(map(escape_controls, text.split("\n"))), **options)


def make_console(width: int | None = None) -> Console:
    """Return a console for text from outside."""
    return PlainConsole(width)


def print_warning(message: str) -> None:
    """Print a warning on the terminal."""
    make_console().print(Text.assemble(("warning", "yellow"), f" {escape_controls(message)}"))


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
