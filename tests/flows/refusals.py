"""A program whose system calls are refused, as by a strict container or an unusual file system.

`python refusals.py ERRNO CALL[:INDEX=VALUE] … -- COMMAND …` runs the command with a seccomp filter: each
named call fails with the error; with INDEX=VALUE only if its argument INDEX has that value.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {
        **{"fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75, "link": 86, "symlink": 88, "chmod": 90},
        **{"fchmod": 91, "getrlimit": 97, "setrlimit": 160, "linkat": 265, "symlinkat": 266, "fchmodat": 268},
        **{"prlimit64": 302, "fchmodat2": 452, "sched_getaffinity": 204, "statfs": 137},
        **{"fstatfs": 138, "socketpair": 53, "clone3": 435, "kill": 62, "pidfd_send_signal": 424},
    },
}
AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E}
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # instructions of the filter
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def refuse(error: int, calls: list[str]) -> None:
    """Refuse `calls` to this process and its children from now on."""
    machine = platform.machine()
    numbers = NUMBERS[machine]
    program = [(LOAD, 0, 0, 4), (JUMP_IF_EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine]), (RETURN, 0, 0, ALLOW)]
    for call in calls:
        name, _, condition = call.partition(":")
        index, _, value = condition.partition("=")
        verdict = (RETURN, 0, 0, REFUSE | error)
        test = (
            [(LOAD, 0, 0, 16 + 8 * int(index)), (JUMP_IF_EQUAL, 0, 1, int(value)), verdict]
            if condition
            else [verdict]
        )
        program += [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, len(test), numbers[name]), *test]
    program.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_program = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(filter_program), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter on this machine")


if __name__ == "__main__":
    end = sys.argv.index("--")
    refuse(getattr(errno, sys.argv[1]), sys.argv[2:end])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
