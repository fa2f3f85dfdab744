"""Long series of tests: the order of their rounds, and their results."""

import csv
from pathlib import Path

from benchmarks.series import COLUMNS, append_round, choose_next

TESTS = ("tests/a.py::test_a[1]", "tests/a.py::test_a[2]", "tests/b.py::test_b")


def test_series_continues_with_the_test_of_fewest_rounds(tmp_path: Path) -> None:
    """Each test gets its turn, also if the series was stopped in between."""
    results, order = tmp_path / "series.csv", []
    for _ in range(4):
        order.append(choose_next(TESTS, results))
        append_round(results, order[-1], "passed", 61.2)
    assert [*TESTS, TESTS[0]] == order


def test_round_has_its_commit_and_outcome(tmp_path: Path) -> None:
    """A failed round stays in the results beside later ones."""
    for outcome in ("failed", "passed"):
        append_round(tmp_path / "series.csv", TESTS[0], outcome, 61.2)
    rows = list(csv.DictReader((tmp_path / "series.csv").read_text().splitlines()))
    assert ["failed", "passed"] == [row["outcome"] for row in rows]
    assert all(tuple(row) == COLUMNS and row["commit"] and row["seconds"] == "61" for row in rows)
