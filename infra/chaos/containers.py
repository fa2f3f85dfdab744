"""Containers of docker-compose.yml; the environment variable ENGINE selects docker (default) or podman."""

import os
import subprocess

ENGINE = os.environ.get("ENGINE", "docker")


def run_engine(*arguments: str) -> str:
    """Run a command of the container engine and return its output; exit the script if it fails."""
    result = subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{ENGINE} {' '.join(arguments[:3])}: {result.stderr}")
    return result.stdout


def list_containers(service: str) -> list[str]:
    """Return the ids of the running containers of a Compose service."""
    project = "label=com.docker.compose.project=relearn"
    label = f"label=com.docker.compose.service={service}"
    return run_engine("ps", "-q", "--filter", project, "--filter", label).split()
