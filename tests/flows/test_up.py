"""What `relearn up` keeps alive stays alive, and ends with it: real processes, real signals."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from relearn.flows.ops.services import Service
from relearn.flows.ops.supervisor import ServiceState, Supervisor, run_services
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.model.errors import InfrastructureError, UserInputError
from relearn.model.home import Home
from tests.flows.conftest import free_port

STUBBORN = """import http.server as h, signal as s; s.signal(s.SIGTERM, s.SIG_IGN); \
h.test(h.SimpleHTTPRequestHandler, port={port})"""
# Its own child serves: killed, it leaves one that still holds the port.
LEAVING = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'http.server', '{port}'])"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "data")


def part(name: str, *command: str) -> Service:
    port = free_port()
    words = tuple(word.format(port=port) for word in command or ("-m", "http.server", "{port}"))
    return Service(name, (sys.executable, *words), port, "--port", "/", host="0.0.0.0")


def until(
    supervisor: Supervisor, wanted: Callable[[dict[str, ServiceState]], bool]
) -> dict[str, ServiceState]:
    """The states, once they are as `wanted`."""
    deadline = time.monotonic() + 30
    while True:
        states = {state.service.name: state for state in supervisor.poll_states()}
        if wanted(states):
            return states
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def all_up(states: dict[str, ServiceState]) -> bool:
    return all(state.status == "up" for state in states.values())


def listening(one: Service) -> psutil.Process:
    """The process that listens on the port of a part."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr.port == one.port:
            return psutil.Process(connection.pid)
    raise AssertionError(f"nobody listens on {one.port}")


def test_a_part_that_dies_comes_back(home: Home):
    """Its neighbours do not notice, and how it died is told."""
    first, second = part("first"), part("second")
    with run_services(home, (first, second)) as supervisor:
        until(supervisor, all_up)
        left_alone = listening(first)
        listening(second).kill()
        died = until(supervisor, lambda now: now["second"].restarts == 1 and all_up(now))["second"]

        assert "terminated by SIGKILL" == died.last_exit
        assert left_alone == listening(first)


def test_what_a_dead_part_leaves_is_not_in_its_way(home: Home):
    """Something that it had started still holds the port: it goes, and the part comes up."""
    one = part("one", "-c", LEAVING)
    with run_services(home, (one,)) as supervisor:
        until(supervisor, all_up)
        child = listening(one)
        child.parent().kill()
        until(supervisor, lambda now: now["one"].restarts > 0 and all_up(now) and listening(one) != child)


def test_a_part_that_cannot_stay_up_is_tried_again_and_again(home: Home):
    """With more and more time between; the reason is told."""
    with run_services(home, (part("one", "-c", "raise SystemExit(3)"),)) as supervisor:
        down = until(supervisor, lambda now: now["one"].restarts >= 2 and now["one"].status == "down")["one"]
        assert "exit status 3" == down.last_exit


def test_nothing_is_left(home: Home, monkeypatch: pytest.MonkeyPatch):
    """Not even what ignores that it is asked to end."""
    monkeypatch.setattr("relearn.flows.ops.supervisor.STOP_SECONDS", 2)
    hanging, other = part("hanging", "-c", STUBBORN), part("other")
    with run_services(home, (hanging, other)) as supervisor:
        until(supervisor, all_up)
        processes = [listening(hanging), listening(other)]
    assert not any(process.is_running() for process in processes)


def test_when_supervisor_is_killed_all_comes_back(home: Home):
    """The parts that it left are ended, for new ones to take their ports."""
    one = part("one")
    with run_services(home, (one,)) as supervisor:
        until(supervisor, all_up)
        before = listening(one)
        psutil.Process(int((home.root / "up" / "supervisor.pid").read_text())).kill()
        until(supervisor, lambda now: all_up(now) and listening(one) != before)


def test_a_second_one_says_that_one_is_running(home: Home):
    with (
        run_services(home, (part("one"),)),
        pytest.raises(InfrastructureError, match="is up already; one relearn up keeps a home"),
        run_services(home, (part("two"),)),
    ):
        pass


def test_a_port_in_use_is_one_line(home: Home):
    """Which part, which port, and the flag that chooses another; nothing was started."""
    one = replace(part("one"), port_flag="--mlflow-port")
    told = f"one: cannot listen on 0.0.0.0, port {one.port}: Address already in use; .* --mlflow-port"
    with socket.socket() as other:
        other.bind(("0.0.0.0", one.port))
        other.listen()
        with pytest.raises(InfrastructureError, match=told), run_services(home, (one,)):
            pass
    assert not (home.root / "up" / "supervisor.conf").exists()


KILLED = """
import sys, time
from pathlib import Path
from relearn.flows.ops.supervisor import run_services
from relearn.model.home import Home
from tests.flows.test_up import part, until, all_up

root = Path(sys.argv[1])
with run_services(Home(root, root), (part("one"),)) as supervisor:
    until(supervisor, all_up)
    print("up", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_one_left_is_ended_first(home: Home):
    """After a kill -9 its parts live on; the next `relearn up` takes over the home."""
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(home.root)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    assert b"up\n" == killed.stdout.readline()
    left = psutil.Process(int((home.root / "up" / "supervisor.pid").read_text()))
    family = [left, *left.children(recursive=True)]
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert all(process.is_running() for process in family)

    def wanted() -> Iterator[Service]:
        """Asked for when nothing is left that could be taken for what is to be started."""
        assert not any(process.is_running() and process.status() != "zombie" for process in family)
        yield part("one")

    with run_services(home, wanted()) as supervisor:
        assert str(os.getpid()) == getattr(LocalStack.read(home), "process_id", None)
        until(supervisor, all_up)
    assert LocalStack.read(home) is None


def test_a_home_too_deep_for_a_socket_is_refused(home: Home):
    """Before anything is made there."""
    deep = Home(home.root / ("long" * 30), home.data)
    with (
        pytest.raises(UserInputError, match="bytes too long for the socket"),
        run_services(deep, (part("one"),)),
    ):
        pass
    assert not deep.root.exists()


@pytest.mark.parametrize("name", ["5%d", "a #1", "a ; b", "it's #1"])
def test_special_characters_of_supervisor_are_ordinary(home: Home, name: str):
    """In the path of a home and in a command, which supervisor would read as a variable or a comment."""
    one = part("one")
    one = replace(one, command=("/usr/bin/env", f"WORD={name}", *one.command))
    with run_services(Home(home.root / name, home.data), (one,)) as supervisor:
        until(supervisor, all_up)
        assert name == listening(one).environ()["WORD"]
