"""`relearn up`: the parts of a home started, kept alive, and ended together.

Keeping processes alive is the work of supervisor, which runs as a child of ours: it starts a part again that
dies, after 1, 2, 3, … seconds where it does not stay up, and ends all of them in order. Ours are the list,
the lock, and what people see.
"""

import http.client
import os
import re
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

from relearn.flows.locks import locked
from relearn.flows.parts import Part, client
from relearn.flows.standing import Standing
from relearn.model.errors import InputError, MachineError
from relearn.model.home import Home

STEADY = 5  # seconds after which a part is no longer said to have died while it started
# Seconds that a part has to end; Prefect and MLflow take 1 to 3, the API as long as its requests take.
ENDING = 20

SOCKET = "supervisor.sock"
# Of the path of a socket, to which supervisor adds its process id while it makes it.
MAX_SOCKET_BYTES = (107 if sys.platform == "linux" else 103) - len(".4194304")

HEAD = """\
[supervisord]
nodaemon = true
logfile = {folder}/supervisor.log
pidfile = {folder}/supervisor.pid
childlogdir = {folder}
umask = 077

[unix_http_server]
file = {folder}/{socket}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command = {command}
priority = {priority}
autorestart = true
startsecs = {steady}
startretries = 1000000
stopwaitsecs = {ending}
stopasgroup = true
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
"""


DIED = re.compile(r"exited: (\w+) \((.*?)(?:; not expected)?\)$", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """How a part is just now: up, starting or down; how often it has died, and how the last time."""

    part: Part
    word: str
    died: int
    reason: str


@contextmanager
def up(home: Home, parts: Iterable[Part]) -> Iterator["Supervisor"]:
    """All `parts` of `home`, kept alive for the length of a `with` block; leaves no process.

    They are asked for once what an earlier one has left is ended: it may look as if it were there already.
    Raises `MachineError` where this home is up already, or a port is somebody else's.
    """
    folder = home.root / "up"
    if (length := len(os.fsencode(folder / SOCKET))) > MAX_SOCKET_BYTES:
        raise InputError(
            f"RELEARN_HOME: got {home.root}, {length - MAX_SOCKET_BYTES} bytes too long for the socket of "
            "relearn up; accepted: a shorter path"
        )
    folder.mkdir(0o700, parents=True, exist_ok=True)
    with locked(folder / ".lock", f"{home.root} is up already; one relearn up keeps a home"):
        Supervisor(folder, ()).end_what_is_left()
        supervisor = Supervisor(folder, tuple(parts))
        for part in supervisor.parts:
            _check_port(part)
        try:
            supervisor.start()
            Standing.leave(home, {part.name: part.url for part in supervisor.parts})
            yield supervisor
        finally:
            supervisor.stop()
            Standing.end(home)


class Supervisor:
    """supervisor, run for the parts of one home, spoken to through a socket in `folder`."""

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self.folder, self.parts, self._client = folder, parts, client()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False
        self._families: dict[
            int, set[psutil.Process]
        ] = {}  # of each process of supervisor's: those it started

    def log(self, part: Part) -> Path:
        return self.folder / f"{part.name}.log"

    def start(self) -> None:
        """Start all parts in order, none waiting for another."""
        file, log = self.folder / "supervisor.conf", self.folder / "supervisor.log"
        file.write_text(self._config())
        log.unlink(missing_ok=True)
        environment = dict(os.environ)  # not in the file or on a command line: a URL may hold a password
        for part in self.parts:
            environment |= part.environment
        with (self.folder / "supervisor.out").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)],
                env=environment,
                cwd=self.folder,  # where no files of the user's are that a part would read
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us
            )

    def states(self) -> list[State]:
        """How each part is. Where supervisor itself was killed, it is started again, and so are they."""
        if self._process is None or self._process.poll() is not None:
            if not self._has_answered:
                raise MachineError(f"supervisor does not start: {self._last_word()}")
            self._sweep()
            self.start()
        told = self._told()
        self._has_answered = self._has_answered or bool(told)
        pids = {one["pid"] for one in told.values() if one["pid"]}
        self._sweep(but=pids)
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                head = psutil.Process(pid)
                before = {one for one in self._families.get(pid, ()) if one.is_running()}
                self._families[pid] = {head, *before, *head.children(recursive=True)}
        deaths = self._deaths()
        return [State(part, self._word(part, told), *deaths.get(part.name, (0, ""))) for part in self.parts]

    def stop(self) -> None:
        """End the parts, the last one first; what does not end by itself is killed."""
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait((ENDING + 1) * len(self.parts))
            self._process.kill()
            self._process.wait()
        self._sweep()
        self._client.close()

    def end_what_is_left(self) -> None:
        """Of a `relearn up` that was killed supervisor goes on, and keeps the parts alive."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            left = psutil.Process(int((self.folder / "supervisor.pid").read_text()))
            if str(self.folder / "supervisor.conf") in left.cmdline():
                self._families = {left.pid: set(left.children(recursive=True))}
                parts = len(left.children())
                left.terminate()
                psutil.wait_procs([left], (ENDING + 1) * parts)
                self._sweep()

    def _config(self) -> str:
        programs = (
            PROGRAM.format(
                name=part.name,
                command=_literal(shlex.join(part.command)),
                priority=priority,
                steady=STEADY,
                ending=ENDING,
                log=_literal(_literal(self.log(part))),  # which supervisor expands twice
            )
            for priority, part in enumerate(self.parts, 1)
        )
        return HEAD.format(folder=_literal(self.folder), socket=SOCKET) + "".join(programs)

    def _told(self) -> dict[str, dict[str, Any]]:
        """What supervisor says of each part; nothing before it can be asked."""
        socket_file = self.folder / SOCKET
        transport = SupervisorTransport(serverurl=f"unix://{socket_file}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as asked:
                told: Any = asked.supervisor.getAllProcessInfo()
                return {one["name"]: one for one in told}
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}

    def _word(self, part: Part, told: dict[str, dict[str, Any]]) -> str:
        if told.get(part.name, {}).get("statename") in ("BACKOFF", "FATAL", "EXITED"):
            return "down"
        return "up" if part.answers(self._client) else "starting"

    def _last_word(self) -> str:
        said = (self.folder / "supervisor.out").read_text(errors="replace").strip().splitlines()
        errors = [line for line in said if line.startswith("Error")]  # after which it tells of its help
        return (errors or said or ["it said nothing"])[-1]

    def _deaths(self) -> dict[str, tuple[int, str]]:
        """How often each part died, and how the last time, as supervisor has logged it."""
        try:
            found = DIED.findall((self.folder / "supervisor.log").read_text(errors="replace"))
        except FileNotFoundError:
            return {}
        times = Counter(name for name, _ in found)
        return {name: (times[name], how) for name, how in found}

    def _sweep(self, but: Set[int] = frozenset()) -> None:
        """Kill what parts that are gone have started and left, which may still hold their ports."""
        gone = [pid for pid in self._families if pid not in but]
        left = [process for pid in gone for process in self._families.pop(pid) if process.is_running()]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def _literal(text: object) -> str:
    """As supervisor reads it, which takes % for the beginning of a variable."""
    return str(text).replace("%", "%%")


def _check_port(part: Part) -> None:
    with socket.socket(socket.AF_INET6 if ":" in part.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((part.host, part.port))
        except OSError as error:
            raise MachineError(
                f"{part.name}: cannot listen on {part.host}, port {part.port}: {error.strerror}; choose "
                f"another one with {part.flag}"
            ) from None
