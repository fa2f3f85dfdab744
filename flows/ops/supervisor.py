"""`relearn up`: starts the services of a home, keeps them alive, and stops them together.

The child process supervisord restarts a service that exits (after 1, 2, 3, … seconds if it exits repeatedly)
and stops the services in order. This module adds the list of services, the lock of the home, and the states.
"""

import http.client
import os
import re
import resource
import shlex
import socket
import subprocess
import sys
import xmlrpc.client
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from relearn.flows.ops.services import Service, make_http_client
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.model.errors import InfrastructureError, UserInputError
from relearn.model.file_lock import locked
from relearn.model.home import Home

START_SECONDS = 5  # a service that exits sooner failed to start
# Time for a service to stop: Prefect and MLflow take 1 to 3 s, the API as long as its requests take.
STOP_SECONDS = 20

SOCKET_FILENAME = "supervisor.sock"
# Length of a socket's path, to which supervisor appends its process id while it creates it.
MAX_SOCKET_BYTES = (107 if sys.platform == "linux" else 103) - len(".4194304")

# Paths are relative to the folder that supervisor runs in: the path of a home may hold %, # and ;.
SUPERVISORD_TEMPLATE = """\
[supervisord]
nodaemon = true
logfile = supervisor.log
pidfile = supervisor.pid
childlogdir = .
umask = 077
minfds = {max_files}
minprocs = {max_processes}

[unix_http_server]
file = {socket}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM_TEMPLATE = """
[program:{name}]
command = {command}
priority = {priority}
autorestart = true
startsecs = {start_seconds}
startretries = 1000000
stopwaitsecs = {ending}
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 1
"""


EXIT_PATTERN = re.compile(r"exited: (\w+) \((.*?)(?:; not expected)?\)$", re.MULTILINE)


@dataclass(frozen=True)
class ServiceState:
    """The state of a service: `status` is up, starting or down; `last_exit` its last exit reason."""

    service: Service
    status: str
    restarts: int
    last_exit: str


@contextmanager
def run_services(home: Home, services: Iterable[Service]) -> Iterator["Supervisor"]:
    """Run the services of `home` inside a `with` block; no process is left after it.

    `services` is iterated after orphaned services of an earlier `relearn up` are stopped: they might count as
    running. Raises `InfrastructureError` if this home is up already or a port is in use,
    `UserInputError` if the path of the home is too long.
    """
    folder = home.root / "up"
    if (path_bytes := len(os.fsencode(folder / SOCKET_FILENAME))) > MAX_SOCKET_BYTES:
        raise UserInputError(
            f"RELEARN_HOME: got {home.root}, {path_bytes - MAX_SOCKET_BYTES} bytes too long for the socket of"
            " relearn up; accepted: a shorter path"
        )
    folder.mkdir(0o700, parents=True, exist_ok=True)
    with locked(folder / ".lock", f"{home.root} is up already; one relearn up keeps a home"):
        Supervisor(home, ()).stop_orphaned()
        supervisor = Supervisor(home, tuple(services))
        for service in supervisor.services:
            _check_port(service)
        try:
            supervisor.start()
            LocalStack.write(home, {service.name: service.url for service in supervisor.services})
            yield supervisor
        finally:
            supervisor.stop()
            LocalStack.clear(home)


class Supervisor:
    """The supervisord process that runs the services of a home; `folder`, where they run, has its socket."""

    def __init__(self, home: Home, services: Sequence[Service]) -> None:
        self.home, self.folder = home, home.root / "up"
        self.services, self._client = services, make_http_client()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_responded = False
        # The process id of each service, with the processes that it has started.
        self._process_trees: dict[int, set[psutil.Process]] = {}

    def log_path(self, service: Service) -> Path:
        return self.folder / f"{service.name}.log"

    def start(self) -> None:
        """Start supervisord, which starts the services in order; return before any of them is up."""
        config_file, log_file = self.folder / "supervisor.conf", self.folder / "supervisor.log"
        config_file.write_text(self._render_config())
        log_file.unlink(missing_ok=True)
        # Not in the file or on a command line: a URL may hold a password. The home is by default relative to
        # the current folder, which is another one for the services.
        environment = {
            **os.environ,
            "RELEARN_HOME": str(self.home.root),
            "RELEARN_DATA": str(self.home.data),
        }
        for service in self.services:
            environment |= service.environment
        with (self.folder / "supervisor.out").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(config_file)],
                env=environment,
                cwd=self.folder,  # has no files of the user that a service would read
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process
            )

    def poll_states(self) -> list[ServiceState]:
        """Return the state of each service. If supervisord was killed, restart it and the services."""
        if self._process is None or self._process.poll() is not None:
            if not self._has_responded:
                raise InfrastructureError(f"supervisor does not start: {self._read_last_error()}")
            self._kill_orphans()
            self.start()
        process_info = self._query_process_info()
        self._has_responded = self._has_responded or bool(process_info)
        pids = {info["pid"] for info in process_info.values() if info["pid"]}
        self._kill_orphans(live_pids=pids)
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                root_process = psutil.Process(pid)
                previous_tree = {
                    process for process in self._process_trees.get(pid, ()) if process.is_running()
                }
                self._process_trees[pid] = {
                    root_process,
                    *previous_tree,
                    *root_process.children(recursive=True),
                }
        exits = self._read_exits()
        return [
            ServiceState(service, self._get_status(service, process_info), *exits.get(service.name, (0, "")))
            for service in self.services
        ]

    def stop(self) -> None:
        """Stop the services in reverse order; kill those that do not stop in time."""
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait((STOP_SECONDS + 1) * len(self.services))
            self._process.kill()
            self._process.wait()
        self._kill_orphans()
        self._client.close()

    def stop_orphaned(self) -> None:
        """Stop the supervisor and services of a `relearn up` that was killed."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            old_supervisor = psutil.Process(int((self.folder / "supervisor.pid").read_text()))
            if str(self.folder / "supervisor.conf") in old_supervisor.cmdline():
                self._process_trees = {old_supervisor.pid: set(old_supervisor.children(recursive=True))}
                service_count = len(old_supervisor.children())
                old_supervisor.terminate()
                psutil.wait_procs([old_supervisor], (STOP_SECONDS + 1) * service_count)
                self._kill_orphans()

    def _render_config(self) -> str:
        programs = (
            PROGRAM_TEMPLATE.format(
                name=service.name,
                command=_escape_command(service.command),
                priority=priority,
                start_seconds=START_SECONDS,
                ending=STOP_SECONDS,
                log=self.log_path(service).name,
            )
            for priority, service in enumerate(self.services, 1)
        )
        # supervisor raises its limits to these numbers and ends if the system allows less: ours are enough.
        settings = SUPERVISORD_TEMPLATE.format(
            socket=SOCKET_FILENAME,
            max_files=_at_most(resource.RLIMIT_NOFILE, 1_024),
            max_processes=_at_most(resource.RLIMIT_NPROC, 200),
        )
        return settings + "".join(programs)

    def _query_process_info(self) -> dict[str, dict[str, Any]]:
        """Return supervisord's process info by service; empty while supervisord does not answer."""
        socket_file = self.folder / SOCKET_FILENAME
        transport = SupervisorTransport(serverurl=f"unix://{socket_file}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
                process_info: Any = proxy.supervisor.getAllProcessInfo()
                return {info["name"]: info for info in process_info}
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}

    def _get_status(self, service: Service, process_info: dict[str, dict[str, Any]]) -> str:
        if process_info.get(service.name, {}).get("statename") in ("BACKOFF", "FATAL", "EXITED"):
            return "down"
        return "up" if service.is_healthy(self._client) else "starting"

    def _read_last_error(self) -> str:
        lines = (self.folder / "supervisor.out").read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("Error")]  # a hint on its help follows
        return (errors or lines or ["it printed nothing"])[-1]

    def _read_exits(self) -> dict[str, tuple[int, str]]:
        """Return the number of exits of each service and the last exit reason, from supervisord's log."""
        try:
            exits = EXIT_PATTERN.findall((self.folder / "supervisor.log").read_text(errors="replace"))
        except FileNotFoundError:
            return {}
        counts = Counter(name for name, _ in exits)
        return {name: (counts[name], reason) for name, reason in exits}

    def _kill_orphans(self, live_pids: Set[int] = frozenset()) -> None:
        """Kill the child processes of services that have died: they may still occupy the ports."""
        dead_pids = [pid for pid in self._process_trees if pid not in live_pids]
        orphans = [
            process for pid in dead_pids for process in self._process_trees.pop(pid) if process.is_running()
        ]
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(orphans, timeout=5)


def _escape_command(words: Sequence[str]) -> str:
    """Return the command as text for supervisor's configuration.

    There, % begins a variable, and # or ; after a space begins a comment. `shlex.join` puts a word with a
    space into single quotes; before # and ; they are closed and opened again.
    """
    return re.sub(r"(\s)([#;])", r"\1''\2", shlex.join(words)).replace("%", "%%")


def _at_most(limit: int, number: int) -> int:
    """Return the smaller of `number` and the maximum of the resource `limit` of this process."""
    try:
        _, allowed = resource.getrlimit(limit)
    except OSError as error:
        raise InfrastructureError(
            f"relearn up cannot read the limits of its processes: {error.strerror}; allow the system call"
            " prlimit64 in the seccomp profile of this container, or start the services one by one"
        ) from None
    return min(number, allowed) if allowed >= 0 else number


def _check_port(service: Service) -> None:
    with socket.socket(socket.AF_INET6 if ":" in service.host else socket.AF_INET) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((service.host, service.port))
        except OSError as error:
            raise InfrastructureError(
                f"{service.name}: cannot listen on {service.host}, port {service.port}: {error.strerror};"
                f" choose another one with {service.port_flag}"
            ) from None
