"""Terminal output of flows: spinner, progress bars, warnings, stage times."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
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


_quiet = False  # True: print results and errors only
_spinners: list[Status] = []  # of nested blocks; what another console prints would break the line of the last


def make_console(width: int | None = None) -> Console:
    """Return a console for text from outside."""
    return _spinners[-1].console if _spinners else PlainConsole(width)


def set_quiet(quiet: bool) -> None:
    """Print only results and errors from now on, or everything again."""
    global _quiet  # noqa: PLW0603
    _quiet = quiet


def print_note(text: str | Text, style: str = "", soft_wrap: bool = True) -> None:
    """Print a line about progress, paths or the next command: nothing that a quiet terminal misses."""
    if not _quiet:
        make_console().print(text, style=style, soft_wrap=soft_wrap)


def print_json(value: object) -> None:
    """Print a model, dataclass, table or container of them to stdout as one JSON document.

    A table is a list of rows. NaN and infinity are null.
    """
    content = to_json(value, indent=2, inf_nan_mode="null", fallback=_to_json_value)
    with _hide_spinner():
        sys.stdout.write(f"{content.decode()}\n")


def _to_json_value(value: Any) -> object:
    """Return the rows of a pandas table, or the Python number of a NumPy scalar."""
    return value.to_dict("records") if hasattr(value, "to_dict") else value.item()


def print_warning(message: str) -> None:
    """Print a warning on the terminal, unless it is quiet."""
    print_note(Text.assemble(("warning", "yellow"), f" {escape_controls(message)}"), soft_wrap=False)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner with `text` while the block or decorated function runs; nothing without a terminal.

    The block may print, and show spinners and bars of its own.
    """
    console = make_console()
    if _quiet or not console.is_terminal:
        yield
        return
    with _hide_spinner(), console.status(Text(f"{text} …")) as status:
        _spinners.append(status)
        try:
            yield
        finally:
            _spinners.remove(status)


@contextmanager
def _hide_spinner() -> Iterator[None]:
    """Hide the spinner of an outer block: a terminal shows one spinner or bar at a time."""
    outer = _spinners[-1] if _spinners else None
    if outer:
        outer.stop()
    try:
        yield
    finally:
        if outer:
            outer.start()


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
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=_quiet or not console.is_terminal,
        )
        self._hidden = _hide_spinner()
        self._task = self._bar.add_task(title, total=epochs, state="")
        self._images_per_epoch = images_per_epoch

    def __enter__(self) -> Self:
        self._hidden.__enter__()
        self._bar.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._hidden.__exit__(error_type, error, traceback)

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

    It is hidden without a terminal; until the first image it only moves.
    """
    console = make_console()
    columns = TextColumn("  {task.description}", markup=False), BarColumn(12), MofNCompleteColumn()
    with (
        _hide_spinner(),
        Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=_quiet or not console.is_terminal,
        ) as progress,
    ):
        task = progress.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

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
