"""Ctrl-C and SIGTERM: the first lets a training stop where it can go on, the second is at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(SystemExit):
    """A stop that was asked for; `advice` says how to go on."""

    def __init__(self, code: int, advice: str) -> None:
        super().__init__(code)
        self.advice = advice


class Stop:
    """Whether somebody asked to stop, and with which signal."""

    def __init__(self) -> None:
        self.code = 0

    def __bool__(self) -> bool:
        return self.code != 0


@contextmanager
def signals() -> Iterator[Stop]:
    """While this lasts the first signal is only taken note of; the next one does what it did before."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread hears signals
        return

    def note(number: int, _frame: FrameType | None) -> None:
        stop.code = CODES[signal.Signals(number)]
        restore()

    before = {number: signal.getsignal(number) for number in CODES}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # a shell's background job does not hear Ctrl-C
            signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """A Ctrl-C or SIGTERM inside ends with `advice` on how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        exit_code = getattr(stop, "code", CODES[signal.SIGINT])
        if isinstance(stop, Stopped) or exit_code not in CODES.values():
            raise
        raise Stopped(exit_code, advice) from None
