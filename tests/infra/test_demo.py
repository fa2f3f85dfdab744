"""Promise of the demo of the whole lifecycle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_check_of_the_demo_passes() -> None:
    """The demo exits at the first failed check."""
    result = subprocess.run(
        [sys.executable, "-m", "infra.demo"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == result.returncode, result.stdout + result.stderr
    assert 7 == result.stdout.count("✓")
    assert "All checks passed" in result.stdout
