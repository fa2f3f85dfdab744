"""Half of what a server can do, for minutes: does it keep memory or files, and would we see it?"""

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
from benchmarks.server_fixtures import WARM_UP, Question, Released, ours, released
from relearn.model.plots.style import COLORS, create_figure, style_axes

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "soak.png"
OURS, LEAKING = "relearn serve", "the same with a leak"
CONNECTIONS = 32
SHARE = 0.5  # of the requests a second that it can answer
STEP = 1.0  # seconds between two looks
SETTLE = 0.2  # of the time, in which caches fill: the line is fitted to what follows
# MB an hour: at this rate, a worker would take two days to double.
TOLERATED = 10.0
LEAK = 100  # bytes a request

# As `sitecustomize`, Python imports it at the start of every process of the server.
LEAKING_CODE = f"""
import asyncio

kept, timeout = [], asyncio.timeout


def leak(*arguments):
    kept.append(bytes({LEAK}))
    return timeout(*arguments)


asyncio.timeout = leak  # asked for once a request
"""


def measure(minutes: float = 10.0) -> tuple[str, str, pd.DataFrame]:
    """Memory and open files of a worker over time, with and without a leak put in from outside."""
    with released() as release:
        looks = {OURS: _soak(release, minutes)}
        with _leaking():
            looks[LEAKING] = _soak(release, minutes)
    figure({name: seen for name, (_, seen, _) in looks.items()}).savefig(PICTURE)
    rows = [_row(name, asked, seen, peak) for name, (asked, seen, peak) in looks.items()]
    note = (
        f"One worker with all that it does by default, {minutes:g} minutes each: {CONNECTIONS} "
        f"connections with one MNIST image as JSON a request, paced to {SHARE:.0%} of what the same server "
        f"answered before without pause. Every {STEP:g} s resident memory and open files. MB/h: Theil and "
        f"Sen's line through what follows the first {SETTLE:.0%} of the time, with its 95 % interval; a leak "
        f"is an interval above {TOLERATED:g}. The control keeps {LEAK} bytes a request, put in from outside."
    )
    return "Soak", note, pd.DataFrame(rows)


def _soak(release: Released, minutes: float) -> tuple[wrk.Asked, pd.DataFrame, float]:
    """What came of the load, a row a look (minute, rss in MB, files), and the peak."""
    with ours(release) as server:
        question = Question.json(f"{server.url}/predict", "images", release)
        _ask(question, WARM_UP)
        peak = _ask(question, WARM_UP)
        # Without pause an answer takes CONNECTIONS / peak; at half the load next to none of that is waiting.
        pause = round(1000 * CONNECTIONS / (SHARE * peak.rate) - 1000 / peak.rate)
        (worker,) = server.worker_processes
        with ThreadPoolExecutor(1) as apart:
            asked = apart.submit(_ask, question, 60 * minutes, pause)
            seen = pd.DataFrame(_looks(worker, asked))
        return asked.result(), seen, peak.rate


def _ask(question: Question, seconds: float, pause: int = 0) -> wrk.Asked:
    return wrk.ask(question.url, question.media_type, question.bodies, CONNECTIONS, seconds, pause)


def _looks(worker: psutil.Process, asked: "Future[wrk.Asked]") -> Iterator[dict[str, float]]:
    start = time.monotonic()
    while not asked.done():
        rss = worker.memory_info().rss / 2**20
        yield {"minute": (time.monotonic() - start) / 60, "rss": rss, "files": worker.num_fds()}
        time.sleep(STEP)


@contextmanager
def _leaking() -> Iterator[None]:
    """Servers that are started meanwhile leak."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(LEAKING_CODE)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            yield
        finally:
            os.environ.pop("PYTHONPATH")
            os.environ |= {"PYTHONPATH": before} if before else {}


def _row(name: str, asked: wrk.Asked, seen: pd.DataFrame, peak: float) -> dict[str, Any]:
    settled = seen[seen["minute"] >= SETTLE * seen["minute"].max()]
    slope, low, high = slope_of(settled)
    return {
        "server": name,
        "requests/s": f"{asked.rate:.0f} of {peak:.0f}",
        "failed": asked.failed,
        "ms, 50 % and 99 %": f"{asked.p50:.1f}, {asked.p99:.1f}",
        "RSS, MB": f"{seen['rss'].iloc[0]:.0f}, at the end {seen['rss'].iloc[-1]:.0f}",
        "MB/h": f"{slope:.1f} ({low:.1f}–{high:.1f})",
        "leak": "yes" if low > TOLERATED else "no",
        "open files": f"{settled['files'].iloc[0]}, at the end {settled['files'].iloc[-1]}",
    }


def slope_of(seen: pd.DataFrame) -> tuple[float, float, float]:
    """MB an hour, and the ends of its 95 % interval."""
    found = theilslopes(seen["rss"], seen["minute"] / 60, 0.95)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def figure(looks: dict[str, pd.DataFrame]) -> Any:
    """Resident memory over time."""
    drawn = create_figure(
        3.6, f"Memory of a worker at half load, and of one that leaks {LEAK} bytes a request"
    )
    axes = drawn.subplots()
    for (name, seen), colour in zip(looks.items(), COLORS, strict=False):
        axes.plot(seen["minute"], seen["rss"], color=colour, label=name)
    axes.set_ylim(0, 1.1 * max(seen["rss"].max() for seen in looks.values()))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident, MB")
    axes.legend(frameon=False)
    style_axes(axes)
    return drawn
