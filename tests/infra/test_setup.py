"""Setting up a checkout: `make` and `infra/setup.sh` on machines where something is unusual."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.needs("make", "bash")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with all that `make` needs, set up; a set-up writes its variables into `environment`."""
    folder = tmp_path / "a clone, 'quoted'"
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "infra/setup.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv/bin/pip").write_text(f'#!/bin/sh\n\'\'\'exec\' "{folder}/.venv/bin/python" "$0" "$@"\n')
    (folder / ".venv/bin/.ready").touch()
    return folder


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def is_set_up_again(folder: Path) -> bool:
    """Return whether `make run` would set up the folder first."""
    return "infra/setup.sh" in run(folder, "make", "-n", "run").stdout


def test_moved_or_copied_folder_is_set_up_again(checkout: Path) -> None:
    """Scripts would start those of the old folder, or nothing; a link to the folder changes nothing."""
    assert not is_set_up_again(checkout)
    link = checkout.with_name("link")
    link.symlink_to(checkout)
    assert not is_set_up_again(link)
    assert is_set_up_again(checkout.rename(checkout.with_name("moved")))


def test_setup_is_not_led_elsewhere(checkout: Path) -> None:
    """Variables for another Python or another place of packages do not reach it; those of an index do."""
    (checkout / "infra" / "setup.sh").write_text('#!/bin/sh\nenv > environment; echo "$1" >> environment\n')
    (checkout / ".venv/bin/.ready").unlink()
    led_elsewhere = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "CDPATH", "PIP_USER")
    variables = dict.fromkeys(led_elsewhere, "/elsewhere") | {"PIP_INDEX_URL": "http://index"}
    done = run(checkout, "make", ".venv/bin/.ready", "PYTHON=/a b/python", **variables)
    assert 0 == done.returncode, done.stderr
    environment = (checkout / "environment").read_text()
    assert "/elsewhere" not in environment
    assert "PIP_INDEX_URL=http://index\n" in environment
    assert environment.endswith("\n/a b/python\n")


def test_copy_without_links_is_refused(checkout: Path) -> None:
    """Git makes a file of a link where the file system has none."""
    (checkout / "relearn").mkdir()
    (checkout / "relearn" / "flows").write_text("../flows")
    done = run(checkout, "infra/setup.sh")
    assert 3 == done.returncode
    assert "relearn/flows has to be a symbolic link" in done.stderr


def test_unusable_python_is_named(checkout: Path) -> None:
    """Its path may have spaces."""
    (checkout / "relearn" / "flows").mkdir(parents=True)
    done = run(checkout, "infra/setup.sh", "/a b/python")
    assert 3 == done.returncode
    assert "is required; got /a b/python, " in done.stderr


@pytest.mark.needs("git")
def test_lines_end_in_lf_whatever_git_is_set_to() -> None:
    """With autocrlf a script would ask for an interpreter of the name `bash\\r`."""
    asked = run(
        ROOT, "git", "check-attr", "eol", "--", "infra/setup.sh", "requirements.lock", "relearn/__main__.py"
    )
    assert 3 == asked.stdout.count("eol: lf")
