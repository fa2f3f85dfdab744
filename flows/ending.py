"""How a program of ours ends: whatever was to be expected is one line and an exit code."""

import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable

from relearn.flows.stopping import InterruptedTraining
from relearn.model.errors import InfrastructureError, RelearnError
from relearn.model.home import Home

STOP_MESSAGES = {130: "ended by Ctrl-C", 143: "asked to end"}
LOW_DISK_BYTES = 16_000_000  # bytes; with less the failure of a part is most likely that of the disk


def run_with_exit_code(program: Callable[[], object]) -> int:
    """Run `program`; returns its exit code, once what it failed by is told."""
    try:
        program()
    except RelearnError as error:
        return print_error(error.exit_code, error.code, *getattr(error, "problems", [str(error)]))
    except OSError as error:
        location = f": {error.filename}" if error.filename else ""
        return print_error(3, "infrastructure", f"{error.strerror or _root_cause(error)}{location}")
    except Exception as error:
        if package := _find_failed_import(error):
            reason = f"{package} cannot be imported: {type(error).__name__}: {error}"
            return print_error(3, "infrastructure", textwrap.shorten(reason, 400, placeholder="…"))
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        exit_code = getattr(stop, "code", 130)
        if exit_code not in STOP_MESSAGES:
            raise
        advice = f"; {stop.advice}" if isinstance(stop, InterruptedTraining) else ""
        return print_error(exit_code, "stopped", STOP_MESSAGES[exit_code] + advice)
    return 0


def print_error(exit_code: int, code: str, *messages: str) -> int:
    """Tell each of `messages` in a line; returns the exit code."""
    if exit_code == InfrastructureError.exit_code and (free_bytes := _free_bytes()) < LOW_DISK_BYTES:
        messages = tuple(
            f"{message} (the disk of the home has {free_bytes:,} bytes left)" for message in messages
        )
    for message in messages:
        print(f"error[{code}]: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return exit_code


def _root_cause(error: OSError) -> str:
    """The reason in an error of shutil: of a folder it lists a triple for each file, the reason last."""
    first_failure = error.args[0][0] if error.args and isinstance(error.args[0], list) else ()
    return str(first_failure[-1] if first_failure else error)


def _find_failed_import(error: Exception) -> str:
    """The package that failed while it was imported, such as by a variable that it reads; '' for none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"]
    return next((name.partition(".")[0] for name in modules if not name.startswith(("relearn", "__"))), "")


def _free_bytes() -> int:
    """Bytes left on the disk of the home, or of what of its path is there."""
    root = Home.from_environment().root
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free
