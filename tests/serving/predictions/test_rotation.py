"""Promises of rotating files: bounded, never corrupt, shared by independent processes."""

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
def make_files() -> Iterator[Callable[[Path, str], RotatingFiles]]:
    """Return a function that creates `RotatingFiles`; all are closed after the test."""
    with ExitStack() as stack:
        yield lambda folder, kind: stack.enter_context(closing(RotatingFiles(folder, kind, LIMIT)))


def read_all(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("rows-*")))


def test_content_is_appended_in_order(make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path):
    """Each file starts with its header; another header starts another file."""
    files = make_files(tmp_path / "new" / "folder", "rows")
    for header in (b"a\n", b"a\n", b"b\n"):
        files.append(header, ROW)

    assert b"a\n" + 2 * ROW + b"b\n" + ROW == read_all(tmp_path / "new" / "folder")


def test_files_of_all_processes_stay_within_the_limit(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """Three writers, one far over the limit: the disk never holds more than allowed, the newest rows stay."""
    busy, idle, third = (make_files(tmp_path, "rows") for _ in range(3))
    make_files(tmp_path, "else").append(b"", b"untouched")
    idle.append(b"", b"idle")
    third.append(b"", b"other")
    for number in range(3_000):
        busy.append(b"head\n", b"%010d" % number)
        assert len(read_all(tmp_path)) <= LIMIT

    assert read_all(tmp_path).endswith(b"%010d" % 2_999)
    assert len(read_all(tmp_path)) > LIMIT * (1 - 2 / MAX_FILES)
    assert b"idle" not in read_all(tmp_path)
    idle.append(b"", b"back")
    assert read_all(tmp_path).endswith(b"back")
    assert b"untouched" == next(tmp_path.glob("else-*")).read_bytes()


FILL = """
import sys
from pathlib import Path
from relearn.serving.predictions.rotation import RotatingFiles
files = RotatingFiles(Path(sys.argv[1]), "rows", 10**9)
failures = 0
for number in range(100):
    try:
        files.append(b"head\\n", b"%010d" % number * 7)
    except OSError:
        failures += 1
print(failures)
"""


def test_partial_write_is_rolled_back(tmp_path: Path):
    """With a limit of 1,000 bytes a file, every file ends with a complete row, and no row is lost."""
    result = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
        capture_output=True,
        text=True,
        check=True,
    )

    failures = int(result.stdout)
    contents = [file.read_bytes() for file in sorted(tmp_path.glob("rows-*"))]
    assert failures == len(contents) - 1 > 3
    assert all(0 == len(content.removeprefix(b"head\n")) % 70 for content in contents)
    assert 100 - failures == sum(len(content) // 70 for content in contents)


def test_folder_that_cannot_be_created_raises_os_error(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """The caller decides what to do; once the obstacle is removed, appending works again."""
    (tmp_path / "file").write_text("")
    files = make_files(tmp_path / "file", "rows")
    with pytest.raises(OSError, match="file"):
        files.append(b"", ROW)
    (tmp_path / "file").unlink()

    files.append(b"", ROW)

    assert ROW == read_all(tmp_path / "file")
