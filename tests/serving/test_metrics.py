"""What a server counts about itself, over all its workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relearn.serving.config import SHARED_MEMORY
from relearn.serving.metrics.prometheus import Metrics
from relearn.serving.metrics.textfile_metrics import (
    GAUGES_BY_FILE,
    MONITOR_FILE,
    WORKER_FILE,
    TextfileMetrics,
)

KILLED = """
import os, signal
from relearn.serving.metrics.prometheus import Metrics

if not (worker := os.fork()):
    Metrics().set_version("3", failed_version=None)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(worker, 0)
metrics = Metrics()
metrics.set_version("3", failed_version=None)
print(metrics.render().body.decode())
"""

COUNTING = """
from pathlib import Path
from relearn.serving.service import make_metrics_dir

made = make_metrics_dir()
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
    assert 'relearn_workers_serving{version="3"} 1.0' in done.stdout


@pytest.mark.skipif(
    not SHARED_MEMORY.is_dir(), reason="counts are only in memory where there is a folder for it"
)
def test_counts_are_gone_with_their_server():
    """At its end, and where it was killed, when the next one starts."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = SHARED_MEMORY / f"relearn-{gone.pid}-left"
    left.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTING], capture_output=True, text=True, check=True
    )
    assert not left.exists()
    assert ["True"] == done.stdout.split()[:1]
    assert not Path(done.stdout.split()[1]).exists()


def page(folder: Path | None) -> dict[str, dict[str, float]]:
    """What `/metrics` tells, by name and value of the last label; it can be read as Prometheus does."""
    text = Metrics(folder).render().body.decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({one.name for one in families})
    return {
        one.name: {next(iter(sample.labels.values()), ""): sample.value for sample in one.samples}
        for one in families
        if not one.name.endswith("_created")
    }


def test_the_numbers_of_the_monitor_are_told(tmp_path: Path):
    """Beside the server's own; a class may be called anything."""
    values = {
        "relearn_monitor_predictions": {"": 300.0},
        "relearn_drift": {"foreground_fraction": 1.0, "labels": 0.0},
        "relearn_class_fraction": {'a "b"\\\n{c}': 0.25, "ä": 0.75},
    }
    TextfileMetrics(MONITOR_FILE, values).write(tmp_path / "records")

    told = page(tmp_path / "records")

    assert values == {name: told[name] for name in values}
    assert "relearn_model_reloads" in told
    assert not set(told) & (set(GAUGES_BY_FILE[MONITOR_FILE]) - set(values))
    assert 0o700 == (tmp_path / "records").stat().st_mode & 0o777


def test_the_numbers_of_the_runner_are_told_beside_those_of_the_monitor(tmp_path: Path):
    """Each from its own file, and none that belongs in the other."""
    stray = {"relearn_drift_effect_size": {"foreground_fraction": 0.5}}
    TextfileMetrics(MONITOR_FILE, {"relearn_monitor_predictions": {"": 300.0}} | stray).write(tmp_path)
    TextfileMetrics(WORKER_FILE, {"relearn_retraining_late": {"": 2.0}}).write(tmp_path)
    told = page(tmp_path)
    assert [300.0, 0.5, 2.0] == [
        next(iter(told[name].values()))
        for name in ("relearn_monitor_predictions", "relearn_drift_effect_size", "relearn_retraining_late")
    ]

    (tmp_path / WORKER_FILE).write_bytes((tmp_path / MONITOR_FILE).read_bytes())
    assert set(told) - {"relearn_retraining_late"} == set(page(tmp_path))


@pytest.mark.parametrize("file", GAUGES_BY_FILE)
@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"\xff\xfe\0",
        b"relearn_drift",
        b"relearn_drift{measure=",
        b"# TYPE relearn_drift gauge\nrelearn_drift 1\n",
        b"# TYPE relearn_drift gauge\nrelearn_drift 1 inf\nrelearn_drift{x=",
        b"# TYPE relearn_drift gauge\nrelearn_drift " + b"9" * 400,
        b"# TYPE relearn_model_reloads counter\nrelearn_model_reloads_total 7\n",
        b"<html>",
    ],
    ids=[
        "empty",
        "bytes",
        "torn",
        "torn label",
        "no label",
        "endless time",
        "huge",
        "the server's own",
        "a page",
    ],
)
def test_what_no_flow_has_written_is_not_told(left: bytes, file: str, tmp_path: Path):
    """The server tells its own numbers, and nothing else, whatever stands in the file."""
    (tmp_path / file).write_bytes(left)
    assert page(None) == page(tmp_path)


def test_without_records_there_is_no_monitor(tmp_path: Path):
    """A server that records nowhere, and one that nobody has looked at."""
    assert page(None) == page(tmp_path / "nowhere")


def test_a_folder_in_the_way_breaks_nothing(tmp_path: Path):
    """Where the file should be stands something else."""
    (tmp_path / MONITOR_FILE).mkdir()
    assert page(None) == page(tmp_path)
