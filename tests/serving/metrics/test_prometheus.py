"""Promises of `/metrics`: counts over all workers of a server, and the gauges that flows wrote."""

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

folder = make_metrics_dir()
print(Path(folder).is_dir(), folder)
"""

STARTING = """
import os, sys
from pathlib import Path
from relearn.serving import service

service.SHARED_MEMORY = Path(sys.argv[1])
service.Relearn.inner.set_worker_environment()
print(service.METRICS_DIR in os.environ)
"""


def test_killed_worker_is_not_counted_as_serving(tmp_path: Path):
    """The gauge counts living workers; counters include dead ones."""
    result = subprocess.run(
        [sys.executable, "-c", KILLED],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'relearn_workers_serving{version="3"} 1.0' in result.stdout


@pytest.mark.skipif(
    not SHARED_MEMORY.is_dir(), reason="counts are in memory only on systems with a shared-memory folder"
)
def test_counts_are_deleted_with_their_server():
    """The folder goes when the server ends, or after a kill when the next server starts."""
    dead_server = subprocess.Popen([sys.executable, "-c", ""])
    dead_server.wait()
    stale_folder = SHARED_MEMORY / f"relearn-{dead_server.pid}-left"
    stale_folder.mkdir()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTING], capture_output=True, text=True, check=True
    )
    assert not stale_folder.exists()
    assert ["True"] == result.stdout.split()[:1]
    assert not Path(result.stdout.split()[1]).exists()


@pytest.mark.parametrize("folder", ["/proc", "/nowhere"])
def test_server_starts_without_shared_memory(folder: str):
    """A container may have none, or a read-only one; counts are then in files on disk."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STARTING, folder], capture_output=True, text=True, check=False
    )
    assert "False\n" == result.stdout, result.stderr


def read_metrics(folder: Path | None) -> dict[str, dict[str, float]]:
    """Render `/metrics` and parse it as Prometheus does: values by metric name and first label value."""
    text = Metrics(folder).render().body.decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({family.name for family in families})
    return {
        family.name: {next(iter(sample.labels.values()), ""): sample.value for sample in family.samples}
        for family in families
        if not family.name.endswith("_created")
    }


def test_gauges_of_the_monitor_are_included(tmp_path: Path):
    """They come with the server's own metrics; a class name may have any characters."""
    values = {
        "relearn_monitor_predictions": {"": 300.0},
        "relearn_drift": {"foreground_fraction": 1.0, "labels": 0.0},
        "relearn_class_fraction": {'a "b"\\\n{c}': 0.25, "ä": 0.75},
    }
    TextfileMetrics(MONITOR_FILE, values).write(tmp_path / "records")

    metrics = read_metrics(tmp_path / "records")

    assert values == {name: metrics[name] for name in values}
    assert "relearn_model_reloads" in metrics
    assert not set(metrics) & (set(GAUGES_BY_FILE[MONITOR_FILE]) - set(values))
    assert 0o700 == (tmp_path / "records").stat().st_mode & 0o777


def test_gauges_of_worker_and_monitor_are_both_included(tmp_path: Path):
    """Each gauge comes only from its own file."""
    effect_size = {"relearn_drift_effect_size": {"foreground_fraction": 0.5}}
    TextfileMetrics(MONITOR_FILE, {"relearn_monitor_predictions": {"": 300.0}} | effect_size).write(tmp_path)
    TextfileMetrics(WORKER_FILE, {"relearn_retraining_late": {"": 2.0}}).write(tmp_path)
    metrics = read_metrics(tmp_path)
    assert [300.0, 0.5, 2.0] == [
        next(iter(metrics[name].values()))
        for name in ("relearn_monitor_predictions", "relearn_drift_effect_size", "relearn_retraining_late")
    ]

    (tmp_path / WORKER_FILE).write_bytes((tmp_path / MONITOR_FILE).read_bytes())
    assert set(metrics) - {"relearn_retraining_late"} == set(read_metrics(tmp_path))


@pytest.mark.parametrize("file", GAUGES_BY_FILE)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\0",
        b"relearn_drift",
        b"relearn_drift{test=",
        b"# TYPE relearn_drift gauge\nrelearn_drift 1\n",
        b"# TYPE relearn_drift gauge\nrelearn_drift 1 inf\nrelearn_drift{x=",
        b"# TYPE relearn_drift gauge\nrelearn_drift " + b"9" * 400,
        b"# TYPE relearn_model_reloads counter\nrelearn_model_reloads_total 7\n",
        b"<html>",
    ],
    ids=[
        "empty",
        "bytes",
        "truncated",
        "truncated label",
        "no label",
        "infinite timestamp",
        "huge value",
        "the server's own",
        "HTML",
    ],
)
def test_invalid_file_is_ignored(content: bytes, file: str, tmp_path: Path):
    """The server still reports its own metrics, and no others."""
    (tmp_path / file).write_bytes(content)
    assert read_metrics(None) == read_metrics(tmp_path)


def test_missing_files_are_ignored(tmp_path: Path):
    """A server without a prediction log, and one without a monitor, report only their own metrics."""
    assert read_metrics(None) == read_metrics(tmp_path / "nowhere")


def test_folder_in_place_of_the_file_is_ignored(tmp_path: Path):
    (tmp_path / MONITOR_FILE).mkdir()
    assert read_metrics(None) == read_metrics(tmp_path)
