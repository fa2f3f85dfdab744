"""Checks of the machine: versions, home, disk, limits, ports, API keys. Imports nothing that takes long."""

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

from relearn.flows.ops.checks.check import CheckResult, failed, find_obstacle, ok, skipped, warning
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.process import system_limits
from relearn.flows.process.home_probe import OWNER_FIX, list_unwritable, probe_file_system
from relearn.model.home import Home
from relearn.serving.config import VERSION_HEADER, ServeConfig
from relearn.serving.deployment.discovery import find_running_servers
from relearn.serving.http.api_keys import ApiKeys

REPORTED_PACKAGES = ("torch", "mlflow", "prefect", "bentoml", "sqlalchemy")
VERSION_LIMIT_REASONS = {
    "sqlalchemy": "with 2.1 Prefect's scheduler has died silently, and no schedule fired",
    "fastapi": "with 0.160 Prefect could not be imported",
}
LOW_DISK_BYTES = 1_000_000_000  # MNIST, prepared and with two trained networks, takes 0.2 GB, photos more
MIN_DISK_BYTES = 50_000_000  # a release with its Bento takes 10 MB
MIN_FREE_FILES = 700  # a first run makes 650
MLFLOW_PORT = 5000
FREE_SPACE_FIX = "make room: relearn home prune --keep 3 removes old versions, runs and checkpoints"
HOME_FIX = "set RELEARN_HOME to another folder"


def versions(_home: Home) -> Iterator[CheckResult]:
    """Compare the installed packages with the requirements of pyproject.toml."""
    requirements = [Requirement(line) for line in metadata.requires("relearn") or ()]
    applicable = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    unmet = [
        requirement
        for requirement in applicable
        if not requirement.specifier.contains(_get_installed_version(requirement.name), prereleases=True)
    ]
    for requirement in unmet:
        message = (
            f"{requirement.name} {_get_installed_version(requirement.name)}, required is"
            f" {requirement.specifier or 'any version'}"
        )
        reason = (
            f": {VERSION_LIMIT_REASONS[requirement.name.lower()]}"
            if requirement.name.lower() in VERSION_LIMIT_REASONS
            else ""
        )
        yield failed(
            message + reason,
            f"{sys.executable} -m pip install '{requirement.name}{requirement.specifier}'",
            requirement.name,
        )
    if not unmet:
        reported_versions = ", ".join(f"{name} {_get_installed_version(name)}" for name in REPORTED_PACKAGES)
        yield ok(
            f"{len(applicable)} packages fit their requirements; Python {platform.python_version()},"
            f" {reported_versions}"
        )


def _get_installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "0"


def home(home: Home) -> Iterator[CheckResult]:
    """Check that files of the home can be written, synced, renamed and locked, and hold a database."""
    if not home.root.exists():
        if obstacle := find_obstacle(home.root):
            yield failed(f"{home.root} cannot be created: {obstacle} is not writable", HOME_FIX)
        else:
            yield skipped(f"{home.root} is not there yet: the first relearn run creates it")
        return
    try:
        probe_file_system(home.root)
    except OSError as error:
        is_disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        yield failed(
            f"{home.root} is not writable: {error.strerror}",
            FREE_SPACE_FIX if is_disk_full else HOME_FIX,
        )
    else:
        yield ok(f"{home.root} is writable")


def folders(home: Home) -> Iterator[CheckResult]:
    """Check that this user may write to BentoML's folder and to the folders, locks and databases of the home.

    After `sudo relearn` they belong to another user. `home` reports the folders above the home.
    """
    obstacles = {*list_unwritable(home), find_obstacle(home.bentoml)}
    if names := sorted(map(str, obstacles - {None, *home.root.parents})):
        yield failed(f"this user may not write to {', '.join(names)}", OWNER_FIX)
    else:
        yield ok("this user may write to all folders, locks and databases")


def disk(home: Home) -> Iterator[CheckResult]:
    """Check the free bytes and files of the home's disk."""
    existing_folder = next(folder for folder in (home.root, *home.root.parents) if folder.is_dir())
    try:
        usage, filesystem = shutil.disk_usage(existing_folder), os.statvfs(existing_folder)
    except OSError as error:
        yield skipped(f"this container does not tell the free space: {error.strerror}")
        return
    message = f"{decimal(usage.free)} free of {decimal(usage.total)}"
    if filesystem.f_files and filesystem.f_favail < MIN_FREE_FILES:
        yield failed(f"the disk has room for {filesystem.f_favail} more files, however small", FREE_SPACE_FIX)
    elif not usage.total:
        yield skipped("the file system of the home reports no size")
    elif usage.free < LOW_DISK_BYTES:
        yield (failed if usage.free < MIN_DISK_BYTES else warning)(message, FREE_SPACE_FIX)
    else:
        yield ok(message)


def limits(_home: Home) -> Iterator[CheckResult]:
    """Check the limits of files, memory, temporary space, processes and threads."""
    system_limits.check_limits()
    yield ok("open files, file size, memory, temporary space, processes and threads suffice for a run")


def loopback(_home: Home) -> Iterator[CheckResult]:
    """Check that programs of this machine reach each other."""
    system_limits.check_loopback()
    yield ok("programs of this machine reach each other at 127.0.0.1 and localhost")


def ports(home: Home) -> Iterator[CheckResult]:
    """Check that the default ports of the API, Prefect and MLflow are free or used by them."""
    servers_by_port = {server.url.rpartition(":")[2]: server for server in find_running_servers(home)}
    api_port = ServeConfig.from_environment(os.environ).port
    if str(api_port) in servers_by_port:
        yield ok(
            f"the API of {servers_by_port[str(api_port)].model_name or servers_by_port[str(api_port)].bento}",
            f"port {api_port}",
        )
    elif (response := _try_get(api_port, "/readyz")) is not None and VERSION_HEADER in response.headers:
        yield warning(
            "a Relearn API of another home", f"relearn serve --port {api_port + 1}", f"port {api_port}"
        )
    else:
        yield _check_port(api_port, f"relearn serve --port {api_port + 1}")
    prefect_port = int(os.environ.get("PREFECT_SERVER_API_PORT") or 4200)
    if _is_prefect(prefect_port):
        yield ok("a Prefect server", f"port {prefect_port}")
    else:
        yield _check_port(prefect_port, "set PREFECT_SERVER_API_PORT to another one")
    if (response := _try_get(MLFLOW_PORT, "/health")) is not None and response.text == "OK":
        yield ok("an MLflow server", f"port {MLFLOW_PORT}")
    else:
        yield _check_port(MLFLOW_PORT, "mlflow server --port 5001")


def _check_port(port: int, fix: str) -> CheckResult:
    """Check that the port is free; else name the program that listens on it."""
    listener = _find_listener(port)
    if listener is None:
        return ok("free", f"port {port}")
    return warning(
        f"in use by {listener}", f"stop that program, or choose another port: {fix}", f"port {port}"
    )


def _find_listener(port: int) -> str | None:
    """Return the program that listens on a port of this machine; None if it is free."""
    with socket.socket() as listener_socket:
        listener_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener_socket.bind(("127.0.0.1", port))
        except OSError:
            pass
        else:
            return None
    try:
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return "another program"


def _is_prefect(port: int) -> bool:
    return PrefectApi(f"http://127.0.0.1:{port}/api").get_state() in ("up", "unauthorized")


def _try_get(port: int, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=1, trust_env=False)
    except httpx.HTTPError:
        return None


def keys(_home: Home) -> Iterator[CheckResult]:
    """Check that the file with API keys is valid, and readable by its owner only."""
    config = ServeConfig.from_environment(os.environ)
    ApiKeys.from_config(config, os.environ)
    file = config.api_keys_file
    if file is None:
        yield skipped("RELEARN_API_KEYS_FILE is not set")
    elif _is_readable_by_others(file):
        yield warning(f"others on this machine can read {file}", f"chmod 600 {file}")
    else:
        yield ok(f"{file} is readable by its owner only")


def _is_readable_by_others(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o077)
