"""Promises of rotating files: bounded, only complete lines, shared by independent processes."""

import errno
import fcntl
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.serving.predictions.rotation import MAX_FILES, RotatingFiles

LIMIT = 16_000


@pytest.fixture
def make_files() -> Iterator[Callable[[Path, str], RotatingFiles]]:
    """Return a function that creates `RotatingFiles`; all are closed after the test."""
    with ExitStack() as stack:
        yield lambda folder, kind: stack.enter_context(closing(RotatingFiles(folder, kind, LIMIT)))


def read_all(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("rows-*")))


@settings(deadline=None)
@given(appends=st.lists(st.lists(st.binary(max_size=700).map(lambda line: line.replace(b"\n", b"")))))
def test_lines_are_appended_in_order(appends: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory):
    """No file exceeds 1/16 of the limit unless it has a single line; no line is divided between two files."""
    folder = tmp_path_factory.mktemp("rotation") / "new" / "folder"
    files = RotatingFiles(folder, "rows", 8_000)
    written = [b"".join(line + b"\n" for line in lines) for lines in appends]
    for lines in written:
        files.append(lines)
    files.close()

    contents = [file.read_bytes() for file in sorted(folder.glob("rows-*"))]
    assert b"".join(written).endswith(b"".join(contents))
    assert sum(map(len, contents)) <= 8_000
    assert all(len(content) <= 500 or content.count(b"\n") == 1 for content in contents)
    assert all(content.endswith(b"\n") for content in contents)


def test_files_of_all_processes_stay_within_the_limit(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """Three writers, one far over the limit: the disk never holds too much, the newest lines stay."""
    busy, idle, third = (make_files(tmp_path, "rows") for _ in range(3))
    make_files(tmp_path, "else").append(b"untouched\n")
    idle.append(b"idle\n")
    third.append(b"other\n")
    for number in range(3_000):
        busy.append(b"%010d\n" % number)
        assert len(read_all(tmp_path)) <= LIMIT

    assert read_all(tmp_path).endswith(b"%010d\n" % 2_999)
    assert len(read_all(tmp_path)) > LIMIT * (1 - 2 / MAX_FILES)
    assert b"idle" not in read_all(tmp_path)
    idle.append(b"back\n")
    assert read_all(tmp_path).endswith(b"back\n")
    assert b"untouched\n" == next(tmp_path.glob("else-*")).read_bytes()


FILL = """
import resource, sys
from pathlib import Path
from relearn.serving.predictions.rotation import RotatingFiles
files = RotatingFiles(Path(sys.argv[1]), "rows", 10**9)
for number in range(100):
    if number % 10 == 9:  # room again
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0] + 100, limit[1]))
    try:
        files.append(b"%010d" % number * 7 + b"\\n")
        print(number)
    except OSError:
        pass
"""


def test_partial_write_is_rolled_back(tmp_path: Path):
    """While files are limited to some size, the file keeps all acknowledged lines and no part of another."""
    result = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 10_000)),
        capture_output=True,
        text=True,
        check=True,
    )

    acknowledged = [int(number) for number in result.stdout.split()]
    assert 14 < len(acknowledged) < 50
    assert b"".join(b"%010d" % number * 7 + b"\n" for number in acknowledged) == read_all(tmp_path)


def test_only_lines_without_a_living_writer_are_cut(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """A kill truncated the last line of a file: the next writer cuts it, so that pandas reads every file."""
    contents = {"empty": b"", "whole": b"a\n", "killed": b"a\nb", "first": b"b", "living": b"a\nb"}
    for name, content in contents.items():
        (tmp_path / f"rows-{name}.jsonl").write_bytes(content)
    with (tmp_path / "rows-living.jsonl").open("rb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        make_files(tmp_path, "rows").append(b"c\n")

    kept = {name: (tmp_path / f"rows-{name}.jsonl").read_bytes() for name in contents}
    assert contents | {"killed": b"a\n", "first": b""} == kept


WRITE = """
import sys
from pathlib import Path
from relearn.serving.predictions.rotation import RotatingFiles
files = RotatingFiles(Path(sys.argv[1]), "rows", 10**9)
for number in range(10**6):
    files.append((b"%010d" % number * 100 + b"\\n") * 2_000)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_loses_no_acknowledged_line(tmp_path: Path):
    """A writer gets SIGKILL at random moments of appends of 2 MB; the next writer cuts a partial line."""
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout
            writer.stdout.readline()
            time.sleep(random.random() / 20)
            writer.kill()
            acknowledged = [0, *map(int, writer.stdout.read().split())]
        with closing(RotatingFiles(folder, "rows", 10**9)) as files:
            files.append(b"end\n")

        *lines, last = read_all(folder).splitlines(keepends=True)
        assert b"end\n" == last
        assert len(lines) >= 2_000 * (acknowledged[-1] + 1)
        assert all(line == b"%010d" % (n // 2_000) * 100 + b"\n" for n, line in enumerate(lines))


def test_folder_that_cannot_be_created_raises_os_error(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path
):
    """The caller decides what to do; once the obstacle is removed, appending works again."""
    (tmp_path / "file").write_text("")
    files = make_files(tmp_path / "file", "rows")
    with pytest.raises(OSError, match="file"):
        files.append(b"a\n")
    (tmp_path / "file").unlink()

    files.append(b"a\n")

    assert b"a\n" == read_all(tmp_path / "file")


def test_file_system_without_locks_takes_lines(
    make_files: Callable[[Path, str], RotatingFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Some network file systems have no locks; a server that reads its release from there still logs."""

    def fail(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    make_files(tmp_path, "rows").append(b"a line\n")

    assert b"a line\n" == read_all(tmp_path)
