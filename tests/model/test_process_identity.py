"""The identity of a process: alive, gone or unseen, whatever happens to the clock."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from relearn.model import process_identity
from relearn.model.process_identity import find_process, identify_process, read_pid


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps; nobody has waited for its end."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_process_is_alive_until_it_ends(child: subprocess.Popen[bytes]) -> None:
    """A process that has ended is gone, also while its parent has not asked how it ended."""
    identity = identify_process(child.pid)
    assert str(child.pid) == read_pid(identity)
    assert "alive" == find_process(identity)
    assert "alive" == find_process(identify_process())
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert "gone" == find_process(identity)
    child.wait()
    assert "gone" == find_process(identity)


def test_reused_process_id_is_another_process(child: subprocess.Popen[bytes]) -> None:
    """The start is part of the identity."""
    place, _, start = identify_process(child.pid).rpartition("@")
    assert "gone" == find_process(f"{place}@{int(start) + 1}")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no ticks since the boot")
def test_process_is_alive_after_the_clock_is_set(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux computes start times from the time of the boot, which moves with the clock."""
    identity, started_at = identify_process(child.pid), psutil.Process(child.pid).create_time()
    boot_time = psutil.boot_time() + 60
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time)
    assert started_at + 50 < psutil.Process(child.pid).create_time()
    assert identity == identify_process(child.pid)
    assert "alive" == find_process(identity)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["machine", "boot", "container"])
def test_process_elsewhere_is_unseen(part: int) -> None:
    """Another machine, an earlier boot or another container may have a process of the same id."""
    parts = identify_process().split("/")
    parts[part] += "0"
    assert "unseen" == find_process("/".join(parts))


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no id of the boot")
def test_process_is_alive_after_the_host_is_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop takes its name from the network that it is in."""
    identity = identify_process()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-name")
    assert "alive" == find_process(identity)


@pytest.mark.parametrize("identity", ["", "1", "a/b/c/d", "4711@3"])
def test_text_that_is_no_identity_is_unseen(identity: str) -> None:
    """An earlier version may have written it."""
    assert "unseen" == find_process(identity)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no containers")
def test_process_of_an_unidentified_container_is_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers with the same host name in a sandbox without boot id share an identity of the place."""
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    identity = identify_process()
    assert identity.startswith(f"{socket.gethostname()}///")
    assert "unseen" == find_process(identity.replace(str(os.getpid()), "4194304"))
