"""Dialects and encodings of generated CSV files."""

import csv
import gzip
import io
from typing import Literal

from tests.model.sources.layout_sketch import (
    Sketch,
)


def render_table(sketch: Sketch, rows: list[list[str]], small: bool = False) -> tuple[bytes, str]:
    """Return the CSV in one of the usual dialects, and the suffix of its name."""
    draw = sketch.draw
    dialects: dict[str, float] = {"comma": 8, "semicolon": 1, "tab": 1}
    plain = all(cell.split() == [cell] for row in rows for cell in row)
    if not small and plain:
        dialects["space"] = 0.4
    dialect = draw.pick("dialect", dialects)
    delimiter = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}[dialect]
    quoting = draw.flip("all quoted", 0.08)
    text = csv_text(rows, delimiter, quoting, "\r\n" if draw.flip("CRLF", 0.2) else "\n")
    if not small and draw.flip("comment lines", 0.03):
        text = "# exported on Monday\n# by hand\n" + text
    encoding = draw.pick("encoding", {"utf-8": 10, "utf-8-sig": 1.5, "cp1252": 0.5, "utf-16": 0.3})
    if encoding == "cp1252":
        try:
            text.encode("cp1252")
        except UnicodeEncodeError:
            draw.choices["encoding"] = encoding = "utf-8"
    if encoding == "utf-16" or (encoding == "cp1252" and not text.isascii()):
        sketch.may_refuse(f"a table in {encoding}")
    content = text.encode(encoding)
    suffix = (
        ".tsv"
        if dialect == "tab" and draw.rng.random() < 0.5
        else draw.one_of((".csv", ".csv", ".csv", ".CSV"))
    )
    if not small and draw.flip("gzip", 0.06):
        return gzip.compress(content, 1), ".csv.gz"
    return content, suffix


def csv_text(rows: list[list[str]], delimiter: str, quoted: bool, end: str) -> str:
    buffer = io.StringIO()
    quoting: Literal[0, 1] = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return buffer.getvalue()
