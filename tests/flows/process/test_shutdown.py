"""Advice on how to resume after a signal; errors of the standard streams and of open files."""

import errno
import os
import resource
import sys

import pytest

from relearn.flows.process import shutdown
from relearn.flows.process.shutdown import (
    InterruptedTraining,
    StandardStream,
    add_resume_hint,
    print_error,
    run_with_exit_code,
)


@pytest.mark.parametrize(("stop", "exit_code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_interrupt_carries_advice(stop: BaseException, exit_code: int) -> None:
    """Ctrl-C and SIGTERM, each with its exit code."""
    with pytest.raises(InterruptedTraining) as stopped, add_resume_hint("type this"):
        raise stop
    assert (exit_code, "type this") == (stopped.value.code, stopped.value.resume_hint)


@pytest.mark.parametrize("stop", [InterruptedTraining(130, "inner advice"), SystemExit(2), ValueError()])
def test_other_exceptions_are_unchanged(stop: BaseException) -> None:
    """An interrupt with advice of its own, another exit code, or an error."""
    with pytest.raises(type(stop)) as raised, add_resume_hint("type this"):
        raise stop
    assert stop is raised.value


def test_output_that_nobody_reads_ends_the_process_without_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is that of a program ended by SIGPIPE; what is written later is discarded."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = StandardStream(writer, "standard output")
    assert 141 == run_with_exit_code(lambda: stream.write(b"line"))
    assert "" == capsys.readouterr().err
    assert 4 == stream.write(b"line")
    os.close(writer)


def test_output_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Here standard output is open for reading only."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    stream = StandardStream(descriptor, "standard output")
    assert 3 == run_with_exit_code(lambda: stream.write(b"line"))
    assert "error[infrastructure]: Bad file descriptor: standard output\n" == capsys.readouterr().err
    os.close(descriptor)


def test_too_many_open_files_names_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a run reaches it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "file")

    assert 3 == run_with_exit_code(fail)
    assert f"Too many open files: file; the limit is {limit:,}, see ulimit -n\n" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_full_disk_of_temporary_files_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of a tool may name no file, and the disk of the home, here without a size, has room."""
    monkeypatch.setenv("RELEARN_HOME", "/proc")
    monkeypatch.setattr(shutdown, "LOW_DISK_BYTES", 10**18)
    assert 3 == print_error(3, "infrastructure", "No space left on device")
    assert "No space left on device (the disk of temporary files has " in capsys.readouterr().err
