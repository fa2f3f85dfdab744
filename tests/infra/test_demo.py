"""The whole loop, as `make demo` plays it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_holds() -> None:
    """Every step that it tells is checked by itself; one that fails ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "infra.demo"],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert 8 == done.stdout.count("✓")
    assert "All of it held" in done.stdout
