"""Entry point of `relearn` and `python -m relearn`."""

import signal
import sys


def main() -> None:
    """Run the command line; a Ctrl-C ends it in one line, from here on to the end of the process."""
    try:
        from relearn.flows.cli import run

        exit_code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the command line was imported
        print("error[stopped]: ended by Ctrl-C", file=sys.stderr)  # noqa: T201
        exit_code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was started is being ended
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
