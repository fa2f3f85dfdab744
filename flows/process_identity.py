"""Whose a run is: the process that writes it, and the code that this process runs."""

import getpass
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

HOST_TAG, PROCESS_TAG = "relearn.host", "relearn.pid"


def process_tags() -> dict[str, str]:
    """This process: number and start time, since numbers are given again and the pair is not."""
    pid = os.getpid()
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: f"{pid}@{psutil.Process(pid).create_time():.0f}"}


def current_user() -> str:
    """Who decides here: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def is_this_host(tags: Mapping[str, str]) -> bool:
    """Whether `tags` are of a process of this machine."""
    return tags.get(HOST_TAG) == socket.gethostname()


def is_process_dead(tags: Mapping[str, str]) -> bool:
    """Whether they are, and the process is gone."""
    return is_this_host(tags) and not _is_alive(tags.get(PROCESS_TAG, ""))


def git_commit_tag() -> dict[str, str]:
    """The git commit of this code as MLflow's own tag; nothing where there is no git."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607  # git stands wherever the user has it
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # as in our images
        return {}
    return {"mlflow.source.git.commit": result.stdout.strip()} if result.returncode == 0 else {}


def _is_alive(process_tag: str) -> bool:
    """Whether the process of this mark runs; its start may differ by what the clock was adjusted since."""
    pid, _, start_time = process_tag.partition("@")
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(start_time)) < 5
    except (ValueError, psutil.NoSuchProcess):
        return False
