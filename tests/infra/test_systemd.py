"""The units of systemd: valid, confined, and with commands that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from relearn.flows.ops.supervisor import STOP_SECONDS

UNITS = sorted((Path(__file__).parents[2] / "infra" / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
PROGRAM = "/opt/relearn/.venv/bin/relearn"
MAX_EXPOSURE = 2.0  # of 10; 9.6 without any confinement
each_service = pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs("systemd-analyze")
def test_units_are_valid(tmp_path: Path) -> None:
    """With this program in place of that of the guide, systemd has nothing to say."""
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, str(Path(sys.executable).with_name("relearn")))
        (tmp_path / unit.name).write_text(text)
    assert "" == analyze("verify", "--recursive-errors=no", *(str(tmp_path / unit.name) for unit in UNITS))


@pytest.mark.needs("systemd-analyze")
@each_service
def test_services_are_confined(unit: Path) -> None:
    """The exposure that systemd computes is low."""
    printed = analyze("security", "--offline=yes", "--no-pager", str(unit))
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", printed)
    assert float(exposure) <= MAX_EXPOSURE


@each_service
def test_commands_exist(unit: Path) -> None:
    """Each is a command of the reference."""
    page = (Path(__file__).parents[2] / "docs/reference/commands.md").read_text()
    (command,) = re.findall(rf"{PROGRAM} ([a-z ]+)", unit.read_text())
    assert re.search(rf"^##+ relearn {' '.join(shlex.split(command))}$", page, re.M)


def test_services_have_time_to_stop() -> None:
    """`relearn up` stops four services one after the other before systemd kills them."""
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", SERVICES[-1].read_text(), re.M)
    assert int(seconds) > 4 * (STOP_SECONDS + 1)
