"""Promises of the packages: one namespace, complete in checkout, wheel and source archive, and one lock."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]


def list_tracked_files() -> set[str]:
    """Return the files of the three packages, with their installed paths."""
    result = subprocess.run(
        ["git", "ls-files", "flows", "model", "serving"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {f"relearn/{file}" for file in result.stdout.split()} | {
        "relearn/__init__.py",
        "relearn/__main__.py",
    }


def build(folder: Path, target: str, source: Path = ROOT) -> Path:
    """Build a wheel or sdist into `folder`; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert 0 == result.returncode, result.stderr
    (file,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


def list_wheel_files(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.needs("git")
def test_wheel_contains_every_file_of_the_packages(tmp_path: Path) -> None:
    """The promise covers wheels from a checkout and from its source archive."""
    assert list_tracked_files() == list_wheel_files(build(tmp_path / "wheel", "wheel"))

    archive = build(tmp_path / "sdist", "sdist")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert list_tracked_files() == list_wheel_files(build(tmp_path / "wheel of sdist", "wheel", source))


def test_installation_provides_only_the_name_relearn(tmp_path: Path) -> None:
    """`model`, `flows`, `serving` and `tests` cannot be imported from another folder."""
    code = (
        "from importlib.util import find_spec\n"
        "print([name for name in ('relearn', 'model', 'flows', 'serving', 'tests') if find_spec(name)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "['relearn']\n" == result.stdout, result.stderr


def test_lock_satisfies_every_requirement() -> None:
    """It pins one version for every supported Python."""
    lines = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PROJECT["optional-dependencies"]["postgres"],
    ]
    requirements = [requirement for requirement in map(Requirement, lines) if requirement.name != "relearn"]
    for python in ("3.11", "3.12", "3.13", "3.14"):
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.1",
            "sys_platform": "linux",
        }
        pins = {
            pin.name.lower(): pin for pin in LOCK if pin.marker is None or pin.marker.evaluate(environment)
        }
        for requirement in requirements:
            (specifier,) = pins[requirement.name.lower()].specifier
            assert "==" == specifier.operator
            assert requirement.specifier.contains(specifier.version), requirement


def test_lock_fits_cpu_and_cuda_builds_of_torch() -> None:
    """It has no local version label and no CUDA packages: the index determines the build."""
    cuda_package = re.compile(r"(nvidia-(?!ml-py$)|cuda-|triton)")
    assert [] == [pin.name for pin in LOCK if cuda_package.match(pin.name)]
    assert [] == [str(pin) for pin in LOCK if "+" in str(pin.specifier)]
