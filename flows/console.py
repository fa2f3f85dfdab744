"""What a person watching sees: a bar that moves with the epochs, and lines that say what was done."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from relearn.model.training.state import EpochRecord


def print_warning(message: str) -> None:
    """A line that deserves a look, on the terminal."""
    Console().print(f"[yellow]warning[/] {escape(message)}")


class EpochBar:
    """A progress bar over the epochs of one training; shows nothing where there is no terminal."""

    def __init__(self, title: str, epochs: int, images_per_epoch: int) -> None:
        console = Console()
        columns = (TextColumn("  {task.description}"), BarColumn(12), TextColumn("{task.fields[state]}"))
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

    def advance(self, record: EpochRecord) -> None:
        """Move on by one epoch."""
        self._bar.update(
            self._task,
            advance=1,
            state=(
                f"epoch {record.epoch}: {record.val_accuracy:.2%} on validation, "
                f"{self._images_per_epoch / record.seconds:,.0f} images/s"
            ),
        )


class Stopwatch:
    """How long each stage took, in the order they ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what stands inside as the stage `name`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = perf_counter() - start
