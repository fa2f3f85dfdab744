"""The git commit that a run is tagged with."""

import subprocess
from pathlib import Path

import pytest

from relearn.flows.process import provenance

COMMIT_TAG = "mlflow.source.git.commit"


@pytest.mark.needs("git")
def test_commit_is_that_of_the_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that git sets in a hook of another repository do not change it."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    before = provenance.git_commit_tag()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert before == provenance.git_commit_tag()


@pytest.mark.needs("git")
def test_commit_of_the_repository_around_an_installation_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment may lie in the repository of a user's project."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["commit", "-q", "--allow-empty", "-m", "a"]
    subprocess.run(["git", "-C", tmp_path, *identity, *commit], check=True)
    installed = tmp_path / "provenance.py"
    installed.touch()
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert {} == provenance.git_commit_tag()


@pytest.mark.parametrize("content", ["exec sleep 60", "exit 1", "echo nonsense"])
def test_git_that_hangs_or_fails_gives_no_commit(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training does not depend on git."""
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\n{content}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "GIT_TIMEOUT_SECONDS", 0.5)
    assert {} == provenance.git_commit_tag()


def test_git_that_is_no_program_gives_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a file without the right to run."""
    (tmp_path / "git").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {} == provenance.git_commit_tag()
