"""Entry point of `relearn` and `python -m relearn`."""

import os
import signal
import sys
import warnings


def main() -> None:
    """Run the command line; a Ctrl-C ends it in one line, from here on to the end of the process."""
    try:
        _open_standard_streams()
        if os.environ.pop("PYTHONOPTIMIZE", "") and sys.flags.optimize > 1:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 the tools read docstrings
        if sys.warnoptions:  # of PYTHONWARNINGS: not for the libraries that we use
            warnings.simplefilter("ignore")
        from relearn.flows.shutdown import flush_output, run_with_exit_code

        exit_code = flush_output(run_with_exit_code(_import_and_run))
    except KeyboardInterrupt:  # while the command line was imported
        print("error[stopped]: ended by Ctrl-C", file=sys.stderr)  # noqa: T201
        exit_code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was started is being ended
    sys.exit(exit_code)


def _import_and_run() -> int:
    """Import the command line and run it; return its exit code."""
    from relearn.flows.cli.app import run_command_line

    return run_command_line(sys.argv[1:])


def _open_standard_streams() -> None:
    """Open those that a shell has closed, before a file such as a database takes their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()
