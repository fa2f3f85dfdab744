"""The identity of a process, which no change of the clock, reboot or reused process id blurs.

It is text, `HOST/BOOT/NAMESPACE/PID@START`, for tags and files: another process finds out by it whether this
one still runs. Start times of a clock move by seconds when the clock is set; START is counted in ticks since
the boot.
"""

import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

# "unseen" is a process of another machine, of an earlier boot, or of another container, or may be one.
ProcessState = Literal["alive", "gone", "unseen"]

PROC = Path("/proc")  # of Linux


def identify_process(pid: int | None = None) -> str:
    """Return the identity of the process `pid`, by default of this one."""
    pid = pid or os.getpid()
    return f"{_identify_place()}/{pid}@{_read_start(pid)}"


def find_process(identity: str) -> ProcessState:
    """Return whether the process runs, as far as it can be seen from this one."""
    place, _, process = identity.rpartition("/")
    if place != _identify_place():
        return "unseen"
    pid, _, start = process.partition("@")
    if pid.isdecimal() and start and start == _read_start(int(pid)):
        return "alive"
    # Without them, as in some sandboxes, containers with one host name cannot be told apart.
    _, boot, namespace = place.rsplit("/", 2)
    return "unseen" if sys.platform == "linux" and not (boot and namespace) else "gone"


def read_pid(identity: str) -> str:
    """Return the process id in `identity`."""
    return identity.rpartition("/")[2].partition("@")[0]


def _identify_place() -> str:
    """Return host, boot and PID namespace: processes that share them see each other.

    A boot tells hosts apart, whose names may change with the network; without its id, the name has to.
    """
    boot = namespace = ""
    with suppress(OSError):
        namespace = re.sub(r"\D", "", str((PROC / "self/ns/pid").readlink()))
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{'' if boot else socket.gethostname()}/{boot}/{namespace}"


def _read_start(pid: int) -> str:
    """Return when the process `pid` started, in ticks since the boot; "" if it does not run."""
    with suppress(OSError):
        state, *fields = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # a zombie has ended; its parent does not ask how
    with suppress(psutil.Error):  # macOS has no such files
        return "" if PROC.exists() else f"{psutil.Process(pid).create_time():.0f}"
    return ""
