"""Results as people read them: tables for the terminal and for Markdown, pages, figures as files."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import rich.table
from rich.style import Style
from rich.text import Text

from relearn.model.errors import UserInputError
from relearn.model.files import write_bytes_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Cell = str | Text

NUMBER = re.compile(r"([<+−-]?\d\S*( [\w.+−-]+)*)?")  # with its unit; or nothing
SHORT = 24  # characters of a name that is not broken


@dataclass(frozen=True)
class Table:
    """Rows of formatted cells under a title, for the terminal and for Markdown.

    A `Text` may be bold, or a link, in both. Columns of numbers are aligned to the right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    @classmethod
    def from_frame(
        cls, frame: "pd.DataFrame", title: str = "", form: Callable[[object], str] | None = None
    ) -> Self:
        """The rows of `frame`, each value formatted by `form`, `format_value` by default."""
        rows = [list(map(form or format_value, row)) for row in frame.itertuples(index=False)]
        return cls([str(column) for column in frame.columns], rows, title)

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(title=Text(self.title, "bold"), title_justify="left")
        for name, align in zip(self.columns, self._alignments(), strict=True):
            table.add_column(Text(name), justify=align, overflow="fold")
        first = [str(row[0]) for row in self.rows]
        table.columns[0].no_wrap = all(len(name) <= SHORT and " " not in name for name in first)
        for row in self.rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        return table

    def to_markdown(self) -> str:
        """The title as a heading, and the table; nothing without rows."""
        if not self.rows:
            return ""
        rules = ["--:" if align == "right" else ":--" for align in self._alignments()]
        lines = [map(plain, self.columns), rules, *(map(_marked, row) for row in self.rows)]
        return f"## {plain(self.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _alignments(self) -> list[Literal["left", "right"]]:
        columns = [[str(row[number]) for row in self.rows] for number in range(len(self.columns))]
        return ["right" if all(map(NUMBER.fullmatch, cells)) else "left" for cells in columns]


def two_sides(
    names: Sequence[str], left: Mapping[Any, object], right: Mapping[Any, object], title: str = ""
) -> Table:
    """Values of two runs side by side; the difference of a metric is green where the right one is better."""
    rows = [
        (key, format_value(value), format_value(right[key]), _difference(key, value, right[key]))
        for key, value in left.items()
    ]
    return Table(("", *names, "difference"), rows, title)


def _difference(key: str, left: object, right: object) -> Text:
    from relearn.model.evaluation.metrics import get_metric  # loads pandas

    if not (isinstance(left, float) and isinstance(right, float)) or left != left or right != right:  # noqa: PLR0124
        return Text()
    change, known = right - left, get_metric(key)
    if not change or known is None:
        return Text(f"{change:+.3g}" if change else "=")
    return Text(f"{change:+.3g}", "green" if (change > 0) == (known.direction == "max") else "red")


def format_value(value: object) -> str:
    """Four digits of a float, thousands of an integer; nothing for NaN."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"  # noqa: PLR0124  # NaN alone differs from itself
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(*parts: str) -> str:
    """Markdown of those `parts` that are not empty."""
    return "\n\n".join(filter(None, parts)) + "\n"


def bullets(lines: Iterable[object]) -> str:
    """A list in Markdown, of text that may be the user's."""
    return "\n".join(f"- {plain(str(line))}" for line in lines)


def plain(text: str) -> str:
    """Text of the user's as it is, on one line: no character of it means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))


def _marked(cell: Cell) -> str:
    style, text = Style() if isinstance(cell, str) else Style.parse(str(cell.style)), plain(str(cell))
    text = f"[{text}]({style.link})" if style.link else text
    return f"**{text}**" if style.bold else text


def check_output(option: str, path: Path | None, force: bool, suffixes: Sequence[str] = ()) -> None:
    """Raise `InputError` where `path` has another suffix, or is there and may not be replaced."""
    if path and suffixes and path.suffix not in suffixes:
        raise UserInputError(f"{option}: got {path}, accepted: a name that ends in {' or '.join(suffixes)}")
    if path and (path.is_dir() or (path.exists() and not force)):
        raise UserInputError(f"{option}: {path} exists; add --force to replace a file")


def write_figure(path: Path, figure: "Figure", form: str = "") -> None:
    """Draw `figure` into the file `path`, whole or not at all; in the format of its suffix by default."""
    content = io.BytesIO()
    figure.savefig(content, format=form or path.suffix[1:])
    write_bytes_atomically(path, content.getvalue())
