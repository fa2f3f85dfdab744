"""Files that grow: bounded, whole, and shared by processes that know nothing of each other."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from relearn.serving.predictions.rotation import MAX_FILES, RotatingFiles

LIMIT = 16_000
ROW = b"0123456789"


@pytest.fixture
def make() -> Iterator[Callable[[Path, str], RotatingFiles]]:
    """Makes segments, all closed in the end."""
    with ExitStack() as stack:
        yield lambda folder, kind: stack.enter_context(closing(RotatingFiles(folder, kind, LIMIT)))


def content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("rows-*")))


def test_what_was_appended_is_there(make: Callable[[Path, str], RotatingFiles], tmp_path: Path):
    """In its order, each file begun by its head; another head begins another file."""
    segments = make(tmp_path / "new" / "folder", "rows")
    for head in (b"a\n", b"a\n", b"b\n"):
        segments.append(head, ROW)

    assert b"a\n" + 2 * ROW + b"b\n" + ROW == content(tmp_path / "new" / "folder")


def test_all_files_of_all_processes_stay_within_the_limit(
    make: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """Three that write, one far more than it may: never more on disk than allowed, and the newest stays."""
    busy, idle, other = (make(tmp_path, "rows") for _ in range(3))
    make(tmp_path, "else").append(b"", b"untouched")
    idle.append(b"", b"idle")
    other.append(b"", b"other")
    for number in range(3_000):
        busy.append(b"head\n", b"%010d" % number)
        assert len(content(tmp_path)) <= LIMIT

    assert content(tmp_path).endswith(b"%010d" % 2_999)
    assert len(content(tmp_path)) > LIMIT * (1 - 2 / MAX_FILES)
    assert b"idle" not in content(tmp_path)
    idle.append(b"", b"back")
    assert content(tmp_path).endswith(b"back")
    assert b"untouched" == next(tmp_path.glob("else-*")).read_bytes()


FILL = """
import sys
from pathlib import Path
from relearn.serving.predictions.rotation import RotatingFiles
segments = RotatingFiles(Path(sys.argv[1]), "rows", 10**9)
refused = 0
for number in range(100):
    try:
        segments.append(b"head\\n", b"%010d" % number * 7)
    except OSError:
        refused += 1
print(refused)
"""


def test_a_write_that_stops_halfway_leaves_nothing_of_itself(tmp_path: Path):
    """The system takes 1,000 bytes a file and no more: files end with a whole piece, none is lost."""
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
        capture_output=True,
        text=True,
        check=True,
    )

    refused = int(done.stdout)
    files = [file.read_bytes() for file in sorted(tmp_path.glob("rows-*"))]
    assert refused == len(files) - 1 > 3
    assert all(0 == len(file.removeprefix(b"head\n")) % 70 for file in files)
    assert 100 - refused == sum(len(file) // 70 for file in files)


def test_a_folder_that_cannot_be_made_is_an_os_error(
    make: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """For whoever appends to decide; with the hindrance gone, the next one is written."""
    (tmp_path / "file").write_text("")
    segments = make(tmp_path / "file", "rows")
    with pytest.raises(OSError, match="file"):
        segments.append(b"", ROW)
    (tmp_path / "file").unlink()

    segments.append(b"", ROW)

    assert ROW == content(tmp_path / "file")
