"""The store of runs: made once, whole, whoever comes first and however he ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.store import connect
from model.home import Home

CODE = """
import sys
from pathlib import Path
from flows.store import connect
from model.home import Home
print(len(connect(Home(Path(sys.argv[1]), Path(sys.argv[1]))).search_experiments()))
"""


def start(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, home], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_make_it_at_once(tmp_path: Path) -> None:
    """Both find it whole."""
    both = [start(tmp_path / "home") for _ in range(2)]
    assert [("1\n", ""), ("1\n", "")] == [process.communicate() for process in both]


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.0])
def test_one_who_is_killed_while_making_it_is_no_harm(seconds: float, tmp_path: Path) -> None:
    """The next one makes it anew, and nothing half-made stays."""
    process = start(tmp_path / "home")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "home").glob(".mlflow.db.*.tmp")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()

    assert 1 == len(connect(Home(tmp_path / "home", tmp_path)).search_experiments())
    assert {"mlflow.db", ".mlflow.db.lock"} == {path.name for path in (tmp_path / "home").iterdir()}
