"""Whose a run is: the process that writes it, and the code that this process runs."""

import getpass
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

HOST, PROCESS = "relearn.host", "relearn.pid"


def tags() -> dict[str, str]:
    """This process: number and start time, since numbers are given again and the pair is not."""
    pid = os.getpid()
    return {HOST: socket.gethostname(), PROCESS: f"{pid}@{psutil.Process(pid).create_time():.0f}"}


def actor() -> str:
    """Who decides here: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def here(tags: Mapping[str, str]) -> bool:
    """Whether `tags` are of a process of this machine."""
    return tags.get(HOST) == socket.gethostname()


def lost(tags: Mapping[str, str]) -> bool:
    """Whether they are, and the process is gone."""
    return here(tags) and not _alive(tags.get(PROCESS, ""))


def revision() -> dict[str, str]:
    """The git commit of this code as MLflow's own tag; nothing where there is no git."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  # git stands wherever the user has it
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # as in our images
        return {}
    return {"mlflow.source.git.commit": asked.stdout.strip()} if asked.returncode == 0 else {}


def _alive(mark: str) -> bool:
    """Whether the process of this mark runs; its start may differ by what the clock was adjusted since."""
    pid, _, started = mark.partition("@")
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(started)) < 5
    except (ValueError, psutil.NoSuchProcess):
        return False
