"""The machine: what is installed, the home and its disk, ports, keys. Nothing heavy is imported here."""

import errno
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement
from rich.filesize import decimal

from relearn.flows import environment
from relearn.flows.doctor import Found, away, fails, warning, well
from relearn.flows.prefect_server import PrefectServer
from relearn.model import atomic
from relearn.model.errors import MachineError
from relearn.model.home import Home
from relearn.serving.keys import Keys
from relearn.serving.servers import servers
from relearn.serving.settings import VERSION, ServeConfig

TOLD = ("torch", "mlflow", "prefect", "bentoml", "sqlalchemy")
WHY = {
    "sqlalchemy": "with 2.1 Prefect's scheduler has died silently, and no schedule fired",
    "fastapi": "with 0.160 Prefect could not be imported",
}
SCARCE = 1_000_000_000  # bytes: MNIST prepared, and trained on by two networks, takes 0.2 GB, pictures more
EMPTY = 50_000_000  # bytes; a release with its Bento takes 10 MB
PROBE = bytes(65_536)  # more than a full disk takes
RUNS_PORT = 5000
ROOM = "make room: relearn prune --keep 3 removes old versions, files of old runs and checkpoints"
ELSEWHERE = "let RELEARN_HOME name another folder"


def versions(_home: Home) -> Iterator[Found]:
    """What is installed, against what pyproject.toml asks for."""
    asked = [Requirement(line) for line in metadata.requires("relearn") or ()]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [one for one in needed if not one.specifier.contains(_installed(one.name), prereleases=True)]
    for one in wrong:
        told = f"{one.name} {_installed(one.name)}, asked for is {one.specifier or 'any version'}"
        why = f": {WHY[one.name.lower()]}" if one.name.lower() in WHY else ""
        yield fails(told + why, f"{sys.executable} -m pip install '{one.name}{one.specifier}'", one.name)
    if not wrong:
        named = ", ".join(f"{name} {_installed(name)}" for name in TOLD)
        yield well(f"{len(needed)} packages are as asked for; Python {platform.python_version()}, {named}")


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "0"


def home(home: Home) -> Iterator[Found]:
    """Whether it takes files: really written, forced to the disk, renamed, and taken away again."""
    if not home.root.exists():
        there = next(folder for folder in home.root.parents if folder.exists())
        if os.access(there, os.W_OK) and there.is_dir():
            yield away(f"{home.root} is not there yet: the first relearn run makes it")
        else:
            yield fails(f"{home.root} cannot be made: {there} takes no files", ELSEWHERE)
        return
    probe = home.root / ".doctor"
    try:
        atomic.write_bytes(probe, PROBE)
        probe.unlink()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        yield fails(f"{home.root} takes no files: {error.strerror}", ROOM if full else ELSEWHERE)
    else:
        yield well(f"{home.root} takes files")


def disk(home: Home) -> Iterator[Found]:
    """Bytes and files that fit in it."""
    there = next(folder for folder in (home.root, *home.root.parents) if folder.is_dir())
    room, files = shutil.disk_usage(there), os.statvfs(there)
    told = f"{decimal(room.free)} free of {decimal(room.total)}"
    if files.f_files and not files.f_favail:
        yield fails("no further file fits on it, however small", ROOM)
    elif room.free < SCARCE:
        yield (fails if room.free < EMPTY else warning)(told, ROOM)
    else:
        yield well(told)


def limits(_home: Home) -> Iterator[Found]:
    """Check the limits of open files and of the size of a file."""
    environment.check_limits()
    yield well("a process may open as many files as a run needs, of any size")


def loopback(_home: Home) -> Iterator[Found]:
    """Check that programs of this machine reach each other."""
    environment.check_loopback()
    yield well("programs of this machine reach each other at 127.0.0.1")


def ports(home: Home) -> Iterator[Found]:
    """Where API, flows and runs listen by default: free, or theirs."""
    ours = {server.url.rpartition(":")[2]: server for server in servers(home)}
    api = ServeConfig.from_environment(os.environ).port
    if str(api) in ours:
        yield well(f"the API of {ours[str(api)].follows or ours[str(api)].bento}", f"port {api}")
    elif (answer := _get(api, "/readyz")) is not None and VERSION in answer.headers:
        yield warning("a Relearn API of another home", f"relearn serve --port {api + 1}", f"port {api}")
    else:
        yield _port(api, f"relearn serve --port {api + 1}")
    flows = int(os.environ.get("PREFECT_SERVER_API_PORT") or 4200)
    if _is_prefect(flows):
        yield well("a Prefect server", f"port {flows}")
    else:
        yield _port(flows, "let PREFECT_SERVER_API_PORT be another one")
    if (answer := _get(RUNS_PORT, "/health")) is not None and answer.text == "OK":
        yield well("an MLflow server", f"port {RUNS_PORT}")
    else:
        yield _port(RUNS_PORT, "mlflow server --port 5001 for the page of runs")


def _port(port: int, mend: str) -> Found:
    """Free, or whose it is."""
    listening = _listeners(port)
    if listening is None:
        return well("free", f"port {port}")
    return warning(f"in use by {listening}", f"end that, or take another port: {mend}", f"port {port}")


def _listeners(port: int) -> str | None:
    """Who listens on this port of this machine; None for nobody."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pass
        else:
            return None
    try:
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f"{psutil.Process(one.pid).name()}, process {one.pid}"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return "another program"


def _is_prefect(port: int) -> bool:
    try:
        return PrefectServer(f"http://127.0.0.1:{port}/api").answers()
    except MachineError:
        return False


def _get(port: int, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=1, trust_env=False)
    except httpx.HTTPError:
        return None


def keys(_home: Home) -> Iterator[Found]:
    """The file with API keys: whether it can be read, and by its owner alone."""
    config = ServeConfig.from_environment(os.environ)
    Keys.of(config, os.environ)
    file = config.api_keys_file
    if file is None:
        yield away("RELEARN_API_KEYS_FILE names no file with API keys")
    elif _others_read(file):
        yield warning(f"others on this machine can read {file}", f"chmod 600 {file}")
    else:
        yield well(f"{file} is for its owner alone")


def _others_read(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o077)
