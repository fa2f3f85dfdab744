"""Ctrl-C and SIGTERM: the first lets a training stop where it can go on, the second is at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class InterruptedTraining(SystemExit):
    """A stop that was asked for; `advice` says how to go on."""

    def __init__(self, code: int, advice: str) -> None:
        super().__init__(code)
        self.advice = advice


class StopRequest:
    """Whether somebody asked to stop, and with which signal."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __bool__(self) -> bool:
        return self.exit_code != 0


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """While this lasts the first signal is only taken note of; the next one does what it did before."""
    stop_request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop_request  # only the main thread hears signals
        return

    def record_signal(signal_number: int, _frame: FrameType | None) -> None:
        stop_request.exit_code = EXIT_CODES[signal.Signals(signal_number)]
        restore_handlers()

    previous_handlers = {signal_number: signal.getsignal(signal_number) for signal_number in EXIT_CODES}

    def restore_handlers() -> None:
        for signal_number, handler in previous_handlers.items():
            signal.signal(signal_number, handler)

    for signal_number, handler in previous_handlers.items():
        if handler is not signal.SIG_IGN:  # a shell's background job does not hear Ctrl-C
            signal.signal(signal_number, record_signal)
    try:
        yield stop_request
    finally:
        restore_handlers()


@contextmanager
def advise_on_interrupt(advice: str) -> Iterator[None]:
    """A Ctrl-C or SIGTERM inside ends with `advice` on how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        exit_code = getattr(interrupt, "code", EXIT_CODES[signal.SIGINT])
        if isinstance(interrupt, InterruptedTraining) or exit_code not in EXIT_CODES.values():
            raise
        raise InterruptedTraining(exit_code, advice) from None
