"""Long series of tests: kills at random, full trainings on MNIST.

`python -m benchmarks.series [ROUNDS]` runs them, by default until Ctrl-C. A round is one test with the marker
`series`; it adds a line with its commit to `results/series.csv`. The next test is the one with the fewest
lines, so a series continues where it was stopped.
"""

import csv
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "series.csv"
COLUMNS = ("date", "commit", "test", "outcome", "seconds")
PYTEST = (sys.executable, "-m", "pytest", "--quiet", "-m", "series", "--nothing-missing")


def run_series(rounds: int | None) -> None:
    """Run this many rounds, all tests in turn; None runs them forever."""
    collected = subprocess.run([*PYTEST, "--collect-only"], capture_output=True, text=True, check=True)
    tests = [line for line in collected.stdout.splitlines() if "::" in line]
    for _ in itertools.repeat(None) if rounds is None else range(rounds):
        test, start = choose_next(tests, RESULTS), time.monotonic()
        exit_code = subprocess.run([*PYTEST, test], check=False).returncode
        append_round(RESULTS, test, "failed" if exit_code else "passed", time.monotonic() - start)


def choose_next(tests: Sequence[str], results: Path) -> str:
    """Return the first of the tests with the fewest rounds in `results`."""
    rows = csv.DictReader(results.read_text().splitlines()) if results.exists() else []
    counts = Counter(row["test"] for row in rows)
    return min(tests, key=lambda test: counts[test])


def append_round(results: Path, test: str, outcome: str, seconds: float) -> None:
    """Append a round, with today's date and the commit, to `results`."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    is_new = not results.exists()
    with results.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS] if is_new else [])
        writer.writerow([date.today(), commit or "unknown", test, outcome, round(seconds)])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        run_series(int(sys.argv[1]) if sys.argv[1:] else None)
