"""Tags that identify the process and git commit behind a run."""

import getpass
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

HOST_TAG, PROCESS_TAG = "relearn.host", "relearn.pid"
GIT_TIMEOUT_SECONDS = 3.0  # it takes milliseconds


def process_tags() -> dict[str, str]:
    """Return the tags of this process: host, process id and start time.

    Process ids are reused; the pair of id and start time is not.
    """
    pid = os.getpid()
    return {HOST_TAG: socket.gethostname(), PROCESS_TAG: f"{pid}@{psutil.Process(pid).create_time():.0f}"}


def current_user() -> str:
    """Return `USER@HOST` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def is_this_host(tags: Mapping[str, str]) -> bool:
    """Return whether the process in `tags` belongs to this machine."""
    return tags.get(HOST_TAG) == socket.gethostname()


def is_process_dead(tags: Mapping[str, str]) -> bool:
    """Return whether the process in `tags` ran on this machine and no longer runs."""
    return is_this_host(tags) and not _is_alive(tags.get(PROCESS_TAG, ""))


def git_commit_tag() -> dict[str, str]:
    """Return the git commit of this code as MLflow's own tag; {} without git, or if git does not track it."""
    # A virtual environment may lie in the repository of another project.
    is_tracked = _run_git("ls-files", Path(__file__).name)
    commit = _run_git("rev-parse", "HEAD") if is_tracked else ""
    return {"mlflow.source.git.commit": commit} if re.fullmatch("[0-9a-f]{40,64}", commit) else {}


def _run_git(*arguments: str) -> str:
    """Run git in the folder of this file; return its output, "" if it fails or takes too long."""
    # In a git hook these variables name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(  # noqa: S603  # the arguments are those above
            ["git", *arguments],  # noqa: S607  # git is wherever the user has installed it
            cwd=Path(__file__).parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_TIMEOUT_SECONDS,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _is_alive(process_tag: str) -> bool:
    """Return whether the process of this tag runs; clock adjustments may shift its start by up to 5 s."""
    pid, _, start_time = process_tag.partition("@")
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(start_time)) < 5
    except (ValueError, psutil.NoSuchProcess):
        return False
