"""Soak test at half load: memory and open files over time, with a deliberate leak as control."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from scipy.stats import theilslopes

from benchmarks import wrk
from benchmarks.server_fixtures import WARM_UP, ReleasedModel, Workload, release_model, start_relearn
from relearn.model.plots.style import COLORS, create_figure, style_axes

FIGURE_FILE = Path(__file__).parents[1] / "docs" / "images" / "soak.png"
OURS, LEAKING = "relearn serve", "the same with a leak"
CONNECTIONS = 32
LOAD_FRACTION = 0.5  # of the peak requests per second
SAMPLE_INTERVAL_SECONDS = 1.0  # seconds between two soaks
WARM_UP_FRACTION = 0.2  # of the time, ignored because caches fill
# At this rate, the memory of a worker doubles in two days.
MAX_LEAK_MB_PER_HOUR = 10.0
LEAKED_BYTES = 100  # per request

# As `sitecustomize`, Python imports it at the start of every process of the server.
LEAKING_CODE = f"""
import asyncio

kept, timeout = [], asyncio.timeout


def leak(*arguments):
    kept.append(bytes({LEAKED_BYTES}))
    return timeout(*arguments)


asyncio.timeout = leak  # result for once a request
"""


def measure(minutes: float = 10.0) -> tuple[str, str, pd.DataFrame]:
    """Measure memory and open files of a worker over time, with and without a deliberate leak."""
    with release_model() as release:
        soaks = {OURS: _soak(release, minutes)}
        with _leaking():
            soaks[LEAKING] = _soak(release, minutes)
    figure({name: samples for name, (_, samples, _) in soaks.items()}).savefig(FIGURE_FILE)
    rows = [_row(name, result, samples, peak) for name, (result, samples, peak) in soaks.items()]
    note = (
        f"One worker with default settings, {minutes:g} minutes each: {CONNECTIONS} connections with one "
        f"MNIST image as JSON per request, paced to {LOAD_FRACTION:.0%} of the peak rate of the same server. "
        f"Resident memory and open files are sampled every {SAMPLE_INTERVAL_SECONDS:g} s. MB/h: Theil–Sen "
        f"slope without the first {WARM_UP_FRACTION:.0%} of the time, with its 95 % interval; a leak is an "
        f"interval above {MAX_LEAK_MB_PER_HOUR:g}. The control leaks {LEAKED_BYTES} bytes per request."
    )
    return "Soak", note, pd.DataFrame(rows)


def _soak(release: ReleasedModel, minutes: float) -> tuple[wrk.LoadResult, pd.DataFrame, float]:
    """Return the load result, a row per sample (minute, rss in MB, files), and the peak rate."""
    with start_relearn(release) as server:
        workload = Workload.json(f"{server.url}/predict", "images", release)
        _run_load(workload, WARM_UP)
        peak = _run_load(workload, WARM_UP)
        # Without pause an answer takes CONNECTIONS / peak seconds, most of it in the queue; at half load the
        # queue is nearly empty.
        pause = round(1000 * CONNECTIONS / (LOAD_FRACTION * peak.rate) - 1000 / peak.rate)
        (worker,) = server.worker_processes
        with ThreadPoolExecutor(1) as executor:
            result = executor.submit(_run_load, workload, 60 * minutes, pause)
            samples = pd.DataFrame(_sample_worker(worker, result))
        return result.result(), samples, peak.rate


def _run_load(workload: Workload, seconds: float, pause: int = 0) -> wrk.LoadResult:
    return wrk.run_wrk(workload.url, workload.media_type, workload.bodies, CONNECTIONS, seconds, pause)


def _sample_worker(worker: psutil.Process, result: "Future[wrk.LoadResult]") -> Iterator[dict[str, float]]:
    start = time.monotonic()
    while not result.done():
        rss = worker.memory_info().rss / 2**20
        yield {"minute": (time.monotonic() - start) / 60, "rss": rss, "files": worker.num_fds()}
        time.sleep(SAMPLE_INTERVAL_SECONDS)


@contextmanager
def _leaking() -> Iterator[None]:
    """Make servers leak that are started inside the block."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(LEAKING_CODE)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            yield
        finally:
            os.environ.pop("PYTHONPATH")
            os.environ |= {"PYTHONPATH": before} if before else {}


def _row(name: str, result: wrk.LoadResult, samples: pd.DataFrame, peak: float) -> dict[str, Any]:
    settled = samples[samples["minute"] >= WARM_UP_FRACTION * samples["minute"].max()]
    slope, low, high = slope_of(settled)
    return {
        "server": name,
        "requests/s": f"{result.rate:.0f} of {peak:.0f}",
        "failed": result.failed,
        "p50, p99 (ms)": f"{result.p50:.1f}, {result.p99:.1f}",
        "RSS, MB": f"{samples['rss'].iloc[0]:.0f}, at the end {samples['rss'].iloc[-1]:.0f}",
        "MB/h": f"{slope:.1f} ({low:.1f}–{high:.1f})",
        "leak": "yes" if low > MAX_LEAK_MB_PER_HOUR else "no",
        "open files": f"{settled['files'].iloc[0]}, at the end {settled['files'].iloc[-1]}",
    }


def slope_of(samples: pd.DataFrame) -> tuple[float, float, float]:
    """Return the slope in MB per hour, and its 95 % interval."""
    fit = theilslopes(samples["rss"], samples["minute"] / 60, 0.95)
    return float(fit.slope), float(fit.low_slope), float(fit.high_slope)


def figure(soaks: dict[str, pd.DataFrame]) -> Any:
    """Plot resident memory over time."""
    memory_figure = create_figure(
        3.6, f"Memory of a worker at half load, and of one that leaks {LEAKED_BYTES} bytes per request"
    )
    axes = memory_figure.subplots()
    for (name, samples), color in zip(soaks.items(), COLORS, strict=False):
        axes.plot(samples["minute"], samples["rss"], color=color, label=name)
    axes.set_ylim(0, 1.1 * max(samples["rss"].max() for samples in soaks.values()))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory (MB)")
    axes.legend(frameon=False)
    style_axes(axes)
    return memory_figure
