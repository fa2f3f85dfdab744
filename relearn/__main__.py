"""Entry point of `relearn` and `python -m relearn`."""

import atexit
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress

SLOWING_VARIABLES = ("PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONTRACEMALLOC")
STOP_SECONDS = 3.0  # from the last line to the exit after a signal; it takes 0.3 s


def main() -> None:
    """Run the command line and exit; Ctrl-C ends it with one line from the first import to the exit."""
    exit_codes: list[int] = []
    atexit.register(_exit_without_cleanup, exit_codes)  # the first one registered runs last
    try:
        _open_standard_streams()
        _search_user_folders_last()
        os.environ.pop("PYTHONINSPECT", None)  # Python would wait for input at the exit
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide how a child process ended
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # blocked, signals would stop no process of ours
        if _correct_python_variables():
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        if sys.warnoptions:  # set by PYTHONWARNINGS, which is not meant for our libraries
            warnings.simplefilter("ignore")
        from relearn.flows.process.shutdown import name_standard_streams, run_with_exit_code

        name_standard_streams()
        exit_code = run_with_exit_code(_import_and_run)
    except KeyboardInterrupt:  # outside of run_with_exit_code
        print("error[stopped]: ended by Ctrl-C", file=sys.stderr)  # noqa: T201
        exit_code = 130
    for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop_signal, signal.SIG_IGN)  # child processes are being ended
    exit_codes.append(exit_code)
    if exit_code in (130, 143):  # Prefect's threads would wait for a server that hangs
        timer = threading.Timer(STOP_SECONDS, _exit_without_cleanup, [exit_codes])
        timer.daemon = True
        with suppress(RuntimeError):  # where no thread can be started, none is waited for
            timer.start()
    sys.exit(exit_code)


def _exit_without_cleanup(exit_codes: list[int]) -> None:
    """Exit with the only one of `exit_codes`; Python's own cleanup of the modules takes 2 to 5 s."""
    for exit_code in exit_codes:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, SystemExit):
                stream.flush()
        os._exit(exit_code)


def _import_and_run() -> int:
    """Import the command line and run it; return its exit code."""
    from relearn.flows.cli.app import run_command_line

    exit_code = run_command_line(sys.argv[1:])
    sys.stdout.flush()
    return exit_code


def _correct_python_variables() -> bool:
    """Correct variables that Python reads at its start; return whether it has to start again."""
    # The tools read docstrings, which -OO removes; with traces of the memory a command takes minutes.
    removed_values = [os.environ.pop(name, "") for name in SLOWING_VARIABLES]
    must_restart = any(removed_values)
    # Files of the home are UTF-8 in every locale; output has the encoding of the terminal.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{sys.stdout.encoding}:replace"}
        must_restart = True
    return must_restart


def _search_user_folders_last() -> None:
    """Import from the folders of `PYTHONPATH` only what is not installed, here and in child processes.

    They are meant for another project: a file such as `click.py` in them would hide a library. The current
    folder, which `python -m` searches first, is not searched at all.
    """
    if not sys.flags.safe_path:
        del sys.path[0]
    if python_path := os.environ.get("PYTHONPATH"):
        with suppress(FileNotFoundError):  # the current folder was removed; the command says so
            user_folders = [os.path.abspath(folder) for folder in python_path.split(os.pathsep)]  # noqa: PTH100 as site
            sys.path.sort(key=user_folders.__contains__)
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)


def _open_standard_streams() -> None:
    """Open standard streams that are closed, before a file such as a database gets their descriptor."""
    with suppress(FileNotFoundError):  # `system_limits` names a missing device
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
