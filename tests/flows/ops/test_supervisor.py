"""Services of `relearn up` are kept alive and stop with it: tested with real processes and signals."""

import os
import socket
import subprocess
import sys
import tempfile
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
from relearn.model.ports import find_free_port

IGNORES_SIGTERM = """import http.server as h, signal as s; s.signal(s.SIGTERM, s.SIG_IGN); \
h.test(h.SimpleHTTPRequestHandler, port={port})"""
WRITES_ITS_HOME = """import http.server as h; from pathlib import Path; from relearn.model.home import Home; \
Path('home.txt').write_text(repr(Home.from_environment())); h.test(h.SimpleHTTPRequestHandler, port={port})"""
# Its child serves: if the service is killed, the child still holds the port.
SERVES_IN_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'http.server', '{port}'])"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "data")


def make_service(name: str, *command: str) -> Service:
    port = find_free_port()
    words = tuple(word.format(port=port) for word in command or ("-m", "http.server", "{port}"))
    return Service(name, (sys.executable, *words), port, "--port", "/", host="0.0.0.0")


def until(
    supervisor: Supervisor, condition: Callable[[dict[str, ServiceState]], bool]
) -> dict[str, ServiceState]:
    """Return the states once `condition` is true for them."""
    deadline = time.monotonic() + 30
    while True:
        states = {state.service.name: state for state in supervisor.poll_states()}
        if condition(states):
            return states
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def all_up(states: dict[str, ServiceState]) -> bool:
    return all(state.status == "up" for state in states.values())


def find_listener(service: Service) -> psutil.Process:
    """Return the process that listens on the port of a service."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr.port == service.port:
            return psutil.Process(connection.pid)
    raise AssertionError(f"no process listens on {service.port}")


@pytest.mark.parametrize("variables", [{}, {"RELEARN_HOME": "state", "RELEARN_DATA": "files"}])
def test_services_use_the_same_home(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """The default home and relative paths count from the folder of `relearn up`, not of the services."""
    for name in ("RELEARN_HOME", "RELEARN_DATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="up-") as folder:  # the path of a socket may be 107 bytes long
        monkeypatch.chdir(folder)
        home = Home.from_environment()
        with run_services(home, [make_service("reporter", "-c", WRITES_ITS_HOME)]) as supervisor:
            until(supervisor, all_up)
            assert repr(home) == (supervisor.folder / "home.txt").read_text()
        monkeypatch.undo()


def test_killed_service_is_restarted(home: Home):
    """The other services keep running, and the reason of the exit is known."""
    first, second = make_service("first"), make_service("second")
    with run_services(home, (first, second)) as supervisor:
        until(supervisor, all_up)
        first_process = find_listener(first)
        find_listener(second).kill()
        states = until(supervisor, lambda states: states["second"].restarts == 1 and all_up(states))

        assert "terminated by SIGKILL" == states["second"].last_exit
        assert first_process == find_listener(first)


def test_orphan_of_a_killed_service_does_not_block_its_port(home: Home):
    """A child of the service still holds the port: it is killed, and the service comes up."""
    service = make_service("one", "-c", SERVES_IN_CHILD)
    with run_services(home, (service,)) as supervisor:
        until(supervisor, all_up)
        child = find_listener(service)
        child.parent().kill()
        until(
            supervisor,
            lambda states: states["one"].restarts > 0 and all_up(states) and find_listener(service) != child,
        )


def test_service_that_exits_is_restarted_repeatedly(home: Home):
    """It is down, and the reason of the last exit is known."""
    with run_services(home, (make_service("one", "-c", "raise SystemExit(3)"),)) as supervisor:
        states = until(
            supervisor, lambda states: states["one"].restarts >= 2 and states["one"].status == "down"
        )
        assert "exit status 3" == states["one"].last_exit


def test_no_process_is_left(home: Home, monkeypatch: pytest.MonkeyPatch):
    """A service that ignores SIGTERM is killed."""
    monkeypatch.setattr("relearn.flows.ops.supervisor.STOP_SECONDS", 2)
    stubborn, other = make_service("stubborn", "-c", IGNORES_SIGTERM), make_service("other")
    with run_services(home, (stubborn, other)) as supervisor:
        until(supervisor, all_up)
        processes = [find_listener(stubborn), find_listener(other)]
    assert not any(process.is_running() for process in processes)


def test_killed_supervisor_is_restarted_with_its_services(home: Home):
    """The old services are stopped, so that new ones get their ports."""
    service = make_service("one")
    with run_services(home, (service,)) as supervisor:
        until(supervisor, all_up)
        old_process = find_listener(service)
        psutil.Process(int((home.root / "up" / "supervisor.pid").read_text())).kill()
        until(supervisor, lambda states: all_up(states) and find_listener(service) != old_process)


def test_second_up_of_a_home_is_rejected(home: Home):
    """The message says that the home is up already."""
    with (
        run_services(home, (make_service("one"),)),
        pytest.raises(InfrastructureError, match="is up already; one relearn up keeps a home"),
        run_services(home, (make_service("two"),)),
    ):
        pass


def test_port_in_use_is_one_line(home: Home):
    """It names the service, the port, and the flag for another one; no service is started."""
    service = replace(make_service("one"), port_flag="--mlflow-port")
    message = f"one: cannot listen on 0.0.0.0, port {service.port}: Address already in use; .* --mlflow-port"
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", service.port))
        listener.listen()
        with pytest.raises(InfrastructureError, match=message), run_services(home, (service,)):
            pass
    assert not (home.root / "up" / "supervisor.conf").exists()


RUN_FOREVER = """
import sys, time
from pathlib import Path
from relearn.flows.ops.supervisor import run_services
from relearn.model.home import Home
from tests.flows.ops.test_supervisor import make_service, until, all_up

root = Path(sys.argv[1])
with run_services(Home(root, root), (make_service("one"),)) as supervisor:
    until(supervisor, all_up)
    print("up", flush=True)
    time.sleep(600)
"""


def test_orphans_of_a_killed_up_are_stopped_first(home: Home):
    """After a kill -9 its services stay alive; the next `relearn up` takes over the home."""
    killed = subprocess.Popen(
        [sys.executable, "-c", RUN_FOREVER, str(home.root)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    assert b"up\n" == killed.stdout.readline()
    old_supervisor = psutil.Process(int((home.root / "up" / "supervisor.pid").read_text()))
    orphans = [old_supervisor, *old_supervisor.children(recursive=True)]
    killed.kill()
    killed.wait()
    killed.stdout.close()
    assert all(process.is_running() for process in orphans)

    def list_services() -> Iterator[Service]:
        """Yield a service; the orphans must be stopped by then, for they might count as running."""
        assert not any(process.is_running() and process.status() != "zombie" for process in orphans)
        yield make_service("one")

    with run_services(home, list_services()) as supervisor:
        assert str(os.getpid()) == getattr(LocalStack.read(home), "process_id", None)
        until(supervisor, all_up)
    assert LocalStack.read(home) is None


def test_home_with_a_path_too_long_for_a_socket_is_rejected(home: Home):
    """Nothing is created there."""
    deep = Home(home.root / ("long" * 30), home.data)
    with (
        pytest.raises(UserInputError, match="bytes too long for the socket"),
        run_services(deep, (make_service("one"),)),
    ):
        pass
    assert not deep.root.exists()


@pytest.mark.parametrize("name", ["5%d #1 ; b", "it's #1"])
def test_special_characters(tmp_path_factory: pytest.TempPathFactory, name: str):
    """In the path of a home and in a command supervisor would read them as a variable or a comment."""
    service = make_service("one")
    service = replace(service, command=("/usr/bin/env", f"WORD={name}", *service.command))
    root = tmp_path_factory.mktemp("s") / name  # a socket's path has up to 107 bytes
    with run_services(Home(root, root), (service,)) as supervisor:
        until(supervisor, all_up)
        assert name == find_listener(service).environ()["WORD"]


FEW_FILES = """
import resource, sys
from pathlib import Path
from relearn.flows.ops.supervisor import run_services
from relearn.model.home import Home
from tests.flows.ops.test_supervisor import all_up, make_service, until

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))
root = Path(sys.argv[1])
with run_services(Home(root, root), (make_service("one"),)) as supervisor:
    until(supervisor, all_up)
"""


@pytest.mark.slow
def test_services_start_with_few_open_files_and_processes(home: Home):
    """supervisor's own default asks for 1,024 open files and 200 processes, more than services need."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(home.root)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
