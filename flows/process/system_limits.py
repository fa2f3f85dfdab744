"""Limits of the machine, the container and the user, checked before a run starts what would exceed them."""

import os
import re
import resource
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from relearn.flows.process.shutdown import read_limit
from relearn.model.errors import InfrastructureError
from relearn.model.home import measure_free_bytes

# Smallest limits with which a run on the digits data works on two cores, its Prefect server included.
MIN_OPEN_FILES = 64  # in addition to those that the process has inherited; a training opens 40
MIN_FILE_BYTES = 100_000_000
MIN_ADDRESS_BYTES = 4_000_000_000  # a training reserves 3.1 GB, most of it never used
MIN_MEMORY_BYTES = 1_200_000_000  # a run uses 1.2 GB; with 1.0 GB the system killed it
MIN_TEMPORARY_BYTES = 10_000_000  # a run uses 4.3 MB; MLflow packs models there
MIN_CPU_SECONDS = 120  # at the limit the system kills the process without a message
MIN_THREADS = 64  # a training and its server have 26

PROC = Path("/proc")
DEVICES = (Path(os.devnull), Path("/dev/urandom"))
CGROUPS = Path("/sys/fs/cgroup")


def check_limits() -> None:
    """Raise `InfrastructureError` if a run may have too few files, bytes, seconds, processes or threads."""
    if sys.platform == "linux" and not (PROC / "self" / "stat").exists():
        raise InfrastructureError(f"{PROC} is not there; mount it: mount -t proc proc {PROC}")
    for device in DEVICES:
        if not device.is_char_device():
            raise InfrastructureError(f"{device} is not there; give the container its devices: mount /dev")
    try:
        for end in socket.socketpair():
            end.close()
    except OSError as error:
        raise InfrastructureError(
            f"no socketpair: {error.strerror}; allow this system call to the container"
        ) from None
    open_count = psutil.Process().num_fds()
    for name, limit, minimum, advice in (
        (
            f"open files, {open_count:,} of them in use",
            resource.RLIMIT_NOFILE,
            open_count + MIN_OPEN_FILES,
            "ulimit -n",
        ),
        ("bytes of a file", resource.RLIMIT_FSIZE, MIN_FILE_BYTES, "ulimit -f unlimited"),
        ("bytes of address space", resource.RLIMIT_AS, MIN_ADDRESS_BYTES, "ulimit -v unlimited"),
        ("bytes of data", resource.RLIMIT_DATA, MIN_MEMORY_BYTES, "ulimit -d unlimited"),
        ("seconds of CPU time", resource.RLIMIT_CPU, MIN_CPU_SECONDS, "ulimit -t unlimited"),
    ):
        allowed, _ = read_limit(limit)
        if 0 <= allowed < minimum:
            raise InfrastructureError(
                f"limit of {name}: got {allowed:,}, accepted: {minimum:,} or more; see {advice}"
            )
    if (memory_bytes := min(_container_memory_limits(), default=MIN_MEMORY_BYTES)) < MIN_MEMORY_BYTES:
        raise InfrastructureError(
            f"memory of this container: got {memory_bytes:,} bytes, accepted: {MIN_MEMORY_BYTES:,} or more; "
            "raise its limit, for example docker run --memory 2g"
        )
    temporary_folder = tempfile.gettempdir()
    free_bytes = measure_free_bytes(Path(temporary_folder))
    if free_bytes is not None and free_bytes < MIN_TEMPORARY_BYTES:
        raise InfrastructureError(
            f"free bytes for temporary files in {temporary_folder}: got {free_bytes:,}, accepted:"
            f" {MIN_TEMPORARY_BYTES:,} or more; make room there, or set TMPDIR to another folder"
        )
    if (thread_count := _count_startable_threads()) < MIN_THREADS:
        raise InfrastructureError(
            f"only {thread_count} more processes and threads can be started here, accepted: {MIN_THREADS};"
            " ulimit -u unlimited, or raise the limit of processes of this container"
        )


def _container_memory_limits() -> Iterator[int]:
    """Yield the memory limits in bytes of the control groups of this process, versions 1 and 2.

    The path in `/proc/self/cgroup` may be that of the machine, while the container sees its own group at the
    top: both are read.
    """
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:  # macOS
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        group = Path(controllers) / path.lstrip("/")
        for folder in (group, *group.parents):
            for file in ("memory.max", "memory.limit_in_bytes"):
                try:
                    text = (CGROUPS / folder / file).read_text()
                except OSError:
                    continue
                if re.fullmatch(r"\d+\s*", text):  # else "max"
                    yield int(text)


def _count_startable_threads() -> int:
    """Start up to `MIN_THREADS` threads, and return how many could be started.

    A try, since limits of the user, the container and the machine apply together.
    """
    finish = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(MIN_THREADS):
            thread = threading.Thread(target=finish.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        pass
    finally:
        finish.set()
        for thread in threads:
            thread.join()
    return len(threads)


def check_first_thread() -> None:
    """Raise `InfrastructureError` if no thread can be started: then importing torch would end the process."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise InfrastructureError(
            f"{error}: ulimit -u unlimited, or allow the system calls clone and clone3 to this container"
        ) from None


def check_loopback() -> None:
    """Raise `InfrastructureError` if programs on this machine cannot connect to each other.

    Our own use the address 127.0.0.1, BentoML the name localhost.
    """
    for host, advice in (
        ("127.0.0.1", "start the loopback interface: ip link set lo up"),
        ("localhost", "add the line 127.0.0.1 localhost to /etc/hosts"),
    ):
        try:
            with socket.create_server((host, 0)) as server:
                socket.create_connection(server.getsockname(), timeout=2).close()
        except OSError as error:
            raise InfrastructureError(
                f"no connection to {host}: {error.strerror or error}; {advice}"
            ) from None
