"""Tables for the terminal and for Markdown, Markdown documents, figure files."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import rich.table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.style import Style
from rich.text import Text

from relearn.model.errors import UserInputError
from relearn.model.files import write_bytes_atomically
from relearn.model.text import escape_controls, to_one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Cell = str | Text

NUMBER = re.compile(r"([<+−-]?\d\S*( [\w.+−-]+)*|=)?")  # with its unit; may be empty; "=" is no difference
MAX_WHOLE_FLOAT = 2**53  # larger floats are not exact; MLflow returns infinity as the largest one
MAX_UNBROKEN_CHARS = 24  # longer names are wrapped
MIN_TEXT_CHARS = 8  # of a column with text on a narrow terminal


@dataclass(frozen=True)
class Table:
    """Table of formatted cells with a title, for the terminal and for Markdown.

    A cell that is a `Text` may be bold or a link, on the terminal and in Markdown. Columns of numbers are
    aligned to the right, and never wrapped: a narrow terminal leaves out the last columns instead.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    @classmethod
    def from_frame(
        cls, frame: "pd.DataFrame", title: str = "", formatter: Callable[[object], str] | None = None
    ) -> Self:
        """Build a table of the rows of `frame`, formatted by `formatter` (default: `format_value`)."""
        rows = [list(map(formatter or format_value, row)) for row in frame.itertuples(index=False, name=None)]
        return cls([str(column) for column in frame.columns], rows, title)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.build(self._count_fitting(options.max_width))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.build(len(self.columns)))

    def build(self, count: int) -> rich.table.Table:
        """Build Rich's table of the first `count` columns; the others are named below it."""
        table = rich.table.Table(title=Text(escape_controls(self.title), "bold"), title_justify="left")
        for name, align in zip(self.columns[:count], self._alignments(), strict=False):
            no_wrap = align == "right"
            table.add_column(Text(escape_controls(name)), justify=align, overflow="fold", no_wrap=no_wrap)
        table.columns[0].no_wrap = self._has_short_names()
        for row in self.rows:
            cells = (Text(escape_controls(cell)) if isinstance(cell, str) else cell for cell in row[:count])
            table.add_row(*cells)
        if left_out := ", ".join(self.columns[count:]):
            table.caption = Text(escape_controls(f"left out, as the terminal is narrow: {left_out}"))
            table.caption_justify = "left"
        return table

    def _count_fitting(self, width: int) -> int:
        """Return how many columns fit into `width`, 2 at least; a text may be wrapped to MIN_TEXT_CHARS."""
        used, widths = 1, []
        for number, (name, align) in enumerate(zip(self.columns, self._alignments(), strict=True)):
            full = max(cell_len(str(cell)) for cell in (name, *(row[number] for row in self.rows)))
            is_unbroken = align == "right" or (number == 0 and self._has_short_names())
            widths.append(3 + (full if is_unbroken else min(full, MIN_TEXT_CHARS)))  # with padding and border
        for count, column_width in enumerate(widths):
            used += column_width
            if used > width:
                return max(2, count)
        return len(widths)

    def _has_short_names(self) -> bool:
        """Return whether the first column has names that are not wrapped."""
        return all(len(str(row[0])) <= MAX_UNBROKEN_CHARS and " " not in str(row[0]) for row in self.rows)

    def to_markdown(self) -> str:
        """Render the title as a heading, then the table; "" without rows."""
        if not self.rows:
            return ""
        rules = ["--:" if align == "right" else ":--" for align in self._alignments()]
        lines = [map(escape_markdown, self.columns), rules, *(map(_format_cell, row) for row in self.rows)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {escape_markdown(self.title)}\n\n{rows}"

    def _alignments(self) -> list[Literal["left", "right"]]:
        columns = [[str(row[number]) for row in self.rows] for number in range(len(self.columns))]
        return ["right" if all(map(NUMBER.fullmatch, cells)) else "left" for cells in columns]


def build_row(label: Text, text: Text, width: int) -> rich.table.Table:
    """Return label and text side by side; the text wraps in its own column."""
    row = rich.table.Table.grid(padding=(0, 1))
    row.add_column(width=width)
    row.add_row(label, text)
    return row


def build_comparison_table(
    names: Sequence[str], left: Mapping[Any, object], right: Mapping[Any, object], title: str = ""
) -> Table:
    """Build a table of two runs side by side; a metric that is better on the right is green."""
    rows = [
        (key, format_value(value), format_value(right[key]), _format_difference(key, value, right[key]))
        for key, value in left.items()
    ]
    return Table(("", *names, "difference"), rows, title)


def _format_difference(key: str, left: object, right: object) -> Text:
    from relearn.model.evaluation.metrics import get_metric  # loads pandas

    if not (isinstance(left, float) and isinstance(right, float)) or left != left or right != right:  # noqa: PLR0124
        return Text()
    change, metric_info = right - left, get_metric(key)
    if not change or metric_info is None:
        return Text(f"{change:+.3g}" if change else "=")
    return Text(f"{change:+.3g}", "green" if (change > 0) == (metric_info.direction == "max") else "red")


def format_value(value: object) -> str:
    """Format a float with four digits, a whole number with thousands separators, NaN as ""."""
    if isinstance(value, float) and not (value.is_integer() and abs(value) < MAX_WHOLE_FLOAT):
        return "" if value != value else f"{value:.4g}"  # noqa: PLR0124  # NaN alone differs from itself
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def join_sections(*sections: str) -> str:
    """Join the sections that are not empty to one Markdown document."""
    return "\n\n".join(filter(None, sections)) + "\n"


def bullets(lines: Iterable[object]) -> str:
    """Render lines of untrusted text, escaped, as a Markdown list."""
    return "\n".join(f"- {escape_markdown(str(line))}" for line in lines)


def escape_markdown(text: str) -> str:
    """Escape untrusted text for Markdown and HTML, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", to_one_line(text))


def _format_cell(cell: Cell) -> str:
    style = Style() if isinstance(cell, str) else Style.parse(str(cell.style))
    text = escape_markdown(str(cell))
    text = f"[{text}]({style.link})" if style.link else text
    return f"**{text}**" if style.bold else text


def check_output(option: str, path: Path | None, force: bool, suffixes: Sequence[str] = ()) -> None:
    """Raise `UserInputError` if `path` has another suffix, or exists and `force` is not set."""
    if path and suffixes and path.suffix not in suffixes:
        raise UserInputError(f"{option}: got {path}, accepted: a name that ends in {' or '.join(suffixes)}")
    if path and (path.is_dir() or (path.exists() and not force)):
        raise UserInputError(f"{option}: {path} exists; add --force to replace a file")


def write_figure(path: Path, figure: "Figure", file_format: str = "") -> None:
    """Write `figure` to `path` atomically, by default in the format of its suffix."""
    write_bytes_atomically(path, render_figure(figure, file_format or path.suffix[1:]))


def render_figure(figure: "Figure", file_format: str) -> bytes:
    """Return the content of an image file of `figure`, such as `svg`."""
    content = io.BytesIO()
    figure.savefig(content, format=file_format)
    return content.getvalue()
