"""What a server counts about itself, over all its workers."""

import os
import subprocess
import sys
from pathlib import Path

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
