"""The engine that runs the containers of docker-compose.yml: ENGINE=podman, or docker."""

import os
import subprocess

ENGINE = os.environ.get("ENGINE", "docker")


def engine(*words: str) -> str:
    """What it says to a command; ends the script where that fails."""
    done = subprocess.run([ENGINE, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{ENGINE} {' '.join(words[:3])}: {done.stderr}")
    return done.stdout


def containers(service: str) -> list[str]:
    """The ids of those that run a service of ours."""
    project = "label=com.docker.compose.project=relearn"
    label = f"label=com.docker.compose.service={service}"
    return engine("ps", "-q", "--filter", project, "--filter", label).split()
