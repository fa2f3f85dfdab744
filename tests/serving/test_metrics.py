"""What a server counts about itself, over all its workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.settings import MEMORY

KILLED = """
import os, signal
from serving.metrics import Metrics

if not (worker := os.fork()):
    Metrics().serving("3", refused=None)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(worker, 0)
metrics = Metrics()
metrics.serving("3", refused=None)
print(metrics.page().body.decode())
"""

COUNTING = """
from pathlib import Path
from serving.service import counts

made = counts()
print(Path(made).is_dir(), made)
"""


def test_a_worker_that_was_killed_serves_nothing(tmp_path: Path):
    """What is live counts the workers that are there, what was answered all there ever were."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'relearn_live{version="3"} 1.0' in done.stdout


@pytest.mark.skipif(not MEMORY.is_dir(), reason="counts are only in memory where there is a folder for it")
def test_counts_are_gone_with_their_server():
    """At its end, and where it was killed, when the next one starts."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = MEMORY / f"relearn-{gone.pid}-left"
    left.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTING], capture_output=True, text=True, check=True
    )
    assert not left.exists()
    assert ["True"] == done.stdout.split()[:1]
    assert not Path(done.stdout.split()[1]).exists()
