"""Provenance of what is written: the user, and the git commit of this code."""

import getpass
import os
import re
import socket
import subprocess
from pathlib import Path

GIT_TIMEOUT_SECONDS = 3.0  # it takes milliseconds


def current_user() -> str:
    """Return `USER@HOST` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


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
