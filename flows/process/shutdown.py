"""Shutdown on Ctrl-C, SIGTERM or an error: exit codes, and one line on standard error.

The first Ctrl-C or SIGTERM in a training stops it after the current batch, so that it can be resumed; the
next one ends the process at once: `cli.app.run_command_line` lets SIGTERM and SIGHUP exit through all
`finally` blocks, Ctrl-C raises `KeyboardInterrupt`. Only the standard library is imported here:
this module also reports a library that cannot be imported.
"""

import errno
import io
import os
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from relearn.flows.process.import_errors import describe_import_error
from relearn.model.errors import InfrastructureError, RelearnError, StopSignal
from relearn.model.home import Home, measure_free_bytes
from relearn.model.text import to_one_line

SIGNAL_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
BROKEN_PIPE_EXIT_CODE = 128 + signal.SIGPIPE
STOP_MESSAGES = {130: "ended by Ctrl-C", 143: "terminated by a signal"}
LOW_DISK_BYTES = 16_000_000  # with less free space a failure is most likely one of the disk


class InterruptedTraining(SystemExit):
    """Exit after a signal, with a hint how to resume."""

    def __init__(self, code: int, resume_hint: str) -> None:
        super().__init__(code)
        self.resume_hint = resume_hint


class StopRequest:
    """A request to stop by a signal; it is true as soon as the signal has arrived."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __bool__(self) -> bool:
        return self.exit_code != 0


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Record the first Ctrl-C or SIGTERM in a `StopRequest`; the second one has its usual effect."""
    stop_request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop_request  # Python delivers signals to the main thread only
        return

    def record_signal(signal_number: int, _frame: FrameType | None) -> None:
        stop_request.exit_code = SIGNAL_EXIT_CODES[signal.Signals(signal_number)]
        restore_handlers()

    previous_handlers = {
        signal_number: signal.getsignal(signal_number) for signal_number in SIGNAL_EXIT_CODES
    }

    def restore_handlers() -> None:
        for signal_number, handler in previous_handlers.items():
            signal.signal(signal_number, handler)

    for signal_number, handler in previous_handlers.items():
        if handler is not signal.SIG_IGN:  # a shell ignores Ctrl-C for its background jobs
            signal.signal(signal_number, record_signal)
    try:
        yield stop_request
    finally:
        restore_handlers()


@contextmanager
def add_resume_hint(hint: str) -> Iterator[None]:
    """Turn Ctrl-C or SIGTERM in the block into an `InterruptedTraining` with `hint`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        exit_code = getattr(interrupt, "code", SIGNAL_EXIT_CODES[signal.SIGINT])
        if isinstance(interrupt, InterruptedTraining) or exit_code not in SIGNAL_EXIT_CODES.values():
            raise
        raise InterruptedTraining(exit_code, hint) from None


def stop_on_ctrl_c() -> None:
    """Make SIGINT stop this server also in a background job of a script, for which a shell ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_with_exit_code(program: Callable[[], int | None]) -> int:
    """Run `program` and return its exit code; print an expected failure in one line."""
    try:
        return program() or 0
    except RelearnError as error:
        return print_error(error.exit_code, error.code, *getattr(error, "problems", [str(error)]))
    except OSError as error:
        location = f": {error.filename}" if error.filename else ""
        if error.errno == errno.EMFILE:
            limit, _ = read_limit(resource.RLIMIT_NOFILE)
            location += f"; the limit is {limit:,}, see ulimit -n"
        return print_error(3, "infrastructure", f"{error.strerror or _root_cause(error)}{location}")
    except Exception as error:
        if not (reason := describe_import_error(error)):
            raise
        return print_error(3, "infrastructure", reason)
    except (KeyboardInterrupt, SystemExit) as stop:
        exit_code = getattr(stop, "code", 130)
        if exit_code == BROKEN_PIPE_EXIT_CODE:
            return exit_code
        if exit_code not in STOP_MESSAGES:
            raise
        hint = f"; {stop.resume_hint}" if isinstance(stop, InterruptedTraining) else ""
        return print_error(exit_code, "stopped", STOP_MESSAGES[exit_code] + hint)


def read_limit(limit: int) -> tuple[int, int]:
    """Return the soft and hard resource `limit`; infinite ones if the container lets nobody ask."""
    try:
        return resource.getrlimit(limit)
    except OSError:
        return resource.RLIM_INFINITY, resource.RLIM_INFINITY


def print_error(exit_code: int, code: str, *messages: str) -> int:
    """Print each of `messages` as one line on standard error; return `exit_code`."""
    note = _describe_full_disk() if exit_code == InfrastructureError.exit_code else ""
    for message in messages:
        with suppress(OSError):  # standard error may be full, too
            print(f"error[{code}]: {to_one_line(message)}{note}", file=sys.stderr)  # noqa: T201
    return exit_code


class StandardStream(io.FileIO):
    """Standard output or error. After an error it discards what is written.

    The error names the stream. If nobody reads its pipe any more, the process exits, as after SIGPIPE.
    """

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = title

    def write(self, data: Any, /) -> int:
        """Write `data`; raise `OSError` or `StopSignal`."""
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), self.fileno())  # Python flushes again at its exit
            if error.errno == errno.EPIPE:
                raise StopSignal(BROKEN_PIPE_EXIT_CODE) from None
            raise OSError(error.errno, error.strerror, self._title) from None


def name_standard_streams() -> None:
    """Make errors of standard output and error name the stream."""
    for name, descriptor, title in (("stdout", 1, "standard output"), ("stderr", 2, "standard error")):
        stream = getattr(sys, name)
        named_stream = io.TextIOWrapper(
            io.BufferedWriter(StandardStream(descriptor, title)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, named_stream)


def _root_cause(error: OSError) -> str:
    """Return the reason of `error`; errors of shutil contain a list of (source, target, reason)."""
    first_failure = error.args[0][0] if error.args and isinstance(error.args[0], list) else ()
    return str(first_failure[-1] if first_failure else error)


def _describe_full_disk() -> str:
    """Return the free bytes of the home or of temporary files if they are few; "" otherwise."""
    with suppress(RelearnError, OSError):
        folders = {"the home": Home.from_environment().root, "temporary files": Path(tempfile.gettempdir())}
        for title, folder in folders.items():
            free_bytes = measure_free_bytes(folder)
            if free_bytes is not None and free_bytes < LOW_DISK_BYTES:
                return f" (the disk of {title} has {free_bytes:,} bytes left)"
    return ""
