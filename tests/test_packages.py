"""Installed packages: one namespace, complete from checkout, wheel and source archive; one lock for all."""

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


def tracked() -> set[str]:
    """The files of the three packages, by the names under which they are installed."""
    listed = subprocess.run(
        ["git", "ls-files", "flows", "model", "serving"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {f"relearn/{file}" for file in listed.stdout.split()} | {
        "relearn/__init__.py",
        "relearn/__main__.py",
    }


def built(folder: Path, target: str, source: Path = ROOT) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    (file,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return file


def packed(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.needs("git")
def test_a_wheel_has_every_file_of_the_packages(tmp_path: Path) -> None:
    """From a checkout, and from the source archive that is made of it."""
    assert tracked() == packed(built(tmp_path / "wheel", "wheel"))

    archive = built(tmp_path / "sdist", "sdist")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert tracked() == packed(built(tmp_path / "again", "wheel", source))


def test_the_checkout_brings_no_other_name(tmp_path: Path) -> None:
    """From another folder `relearn` is there, and `model`, `flows`, `serving` and `tests` are not."""
    code = (
        "from importlib.util import find_spec\n"
        "print([name for name in ('relearn', 'model', 'flows', 'serving', 'tests') if find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "['relearn']\n" == done.stdout, done.stderr


def test_the_lock_fits_every_requirement() -> None:
    """On every Python and system that is supported, with one version each."""
    asked = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PROJECT["optional-dependencies"]["postgres"],
    ]
    requirements = [one for one in map(Requirement, asked) if one.name != "relearn"]
    for python in ("3.11", "3.12", "3.13", "3.14"):
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.1",
            "sys_platform": "linux",
        }
        pins = {
            one.name.lower(): one for one in LOCK if one.marker is None or one.marker.evaluate(environment)
        }
        for requirement in requirements:
            (pin,) = pins[requirement.name.lower()].specifier
            assert "==" == pin.operator
            assert requirement.specifier.contains(pin.version), requirement


def test_the_lock_names_no_build_of_torch() -> None:
    """Neither a local label nor packages of a CUDA build: the index decides between the two builds."""
    of_cuda = re.compile(r"(nvidia-(?!ml-py$)|cuda-|triton)")
    assert [] == [one.name for one in LOCK if of_cuda.match(one.name)]
    assert [] == [str(one) for one in LOCK if "+" in str(one.specifier)]
