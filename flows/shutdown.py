"""Shutdown on Ctrl-C, SIGTERM or an error: exit codes, and one line on standard error.

The first Ctrl-C or SIGTERM in a training stops it after the current batch, so that it can be resumed; the
next one ends the process at once: `cli.app.run_command_line` lets SIGTERM and SIGHUP exit through all
`finally` blocks, Ctrl-C raises `KeyboardInterrupt`. Only the standard library is imported here:
this module also reports a library that cannot be imported.
"""

import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, ModuleType

from relearn.model.errors import InfrastructureError, RelearnError
from relearn.model.home import Home
from relearn.model.text import to_one_line

SIGNAL_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
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
        return print_error(3, "infrastructure", f"{error.strerror or _root_cause(error)}{location}")
    except Exception as error:
        cause = _unwrap_import_error(error)
        if not (package := _find_failed_import(cause)):
            raise
        reason = f"{package} cannot be imported{_find_location(package)}: {type(cause).__name__}: {cause}"
        return print_error(3, "infrastructure", textwrap.shorten(reason, 400, placeholder="…"))
    except (KeyboardInterrupt, SystemExit) as stop:
        exit_code = getattr(stop, "code", 130)
        if exit_code not in STOP_MESSAGES:
            raise
        hint = f"; {stop.resume_hint}" if isinstance(stop, InterruptedTraining) else ""
        return print_error(exit_code, "stopped", STOP_MESSAGES[exit_code] + hint)


def print_error(exit_code: int, code: str, *messages: str) -> int:
    """Print each of `messages` as one line on standard error; return `exit_code`."""
    free_bytes = _free_bytes() if exit_code == InfrastructureError.exit_code else None
    if free_bytes is not None and free_bytes < LOW_DISK_BYTES:
        messages = tuple(
            f"{message} (the disk of the home has {free_bytes:,} bytes left)" for message in messages
        )
    for message in messages:
        with suppress(OSError):  # standard error may be full, too
            print(f"error[{code}]: {to_one_line(message)}", file=sys.stderr)  # noqa: T201
    return exit_code


def flush_output(exit_code: int) -> int:
    """Flush standard output and error; return `exit_code`, or 3 if they cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), stream.fileno())  # Python flushes again at its exit
            if exit_code == 0:
                exit_code = print_error(3, "infrastructure", f"{stream.name}: {error.strerror}")
    return exit_code


def _root_cause(error: OSError) -> str:
    """Return the reason of `error`; errors of shutil contain a list of (source, target, reason)."""
    first_failure = error.args[0][0] if error.args and isinstance(error.args[0], list) else ()
    return str(first_failure[-1] if first_failure else error)


def _unwrap_import_error(error: BaseException) -> BaseException:
    """Return the first cause of `error`: cyclopts wraps the `ImportError` of a command's module."""
    return (
        _unwrap_import_error(error.__cause__) if isinstance(error, ImportError) and error.__cause__ else error
    )


def _find_failed_import(error: BaseException) -> str:
    """Return the third-party package whose import failed with `error`; '' if the error is in our code.

    Either the package itself failed, e.g. because of a variable that it reads, or another module of the same
    name was imported instead.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"]
    if isinstance(error, ImportError):
        modules = [error.name] if error.name else modules
    return next((name.partition(".")[0] for name in modules if not name.startswith(("relearn", "__"))), "")


def _find_location(package: str) -> str:
    """Return ` from FILE` for a module or package that was imported; '' for one that was not found."""
    paths = _paths(sys.modules.get(package))
    return f" from {paths[0]}" if paths else ""


def _paths(module: ModuleType | None) -> list[str]:
    """Return the file of a module, or the folders of a package without one."""
    file = getattr(module, "__file__", None)
    return [file] if file else list(getattr(module, "__path__", ()))


def _free_bytes() -> int | None:
    """Return the free bytes on the disk of the home, or None if they cannot be read."""
    try:
        root = Home.from_environment().root
        return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
    except (RelearnError, OSError):
        return None
