"""Plant the cause of every alert in a real service, let a real Prometheus hear it, and write down what came.

`python -m infra.when_alerts_sound` takes a quarter of an hour, and needs prometheus and wrk; only root can
make the small disk that it fills. It prints what it sees, checks it, and writes docs/when-alerts-sound.md.
"""

import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx

from infra import causes
from infra.alive import everything_up
from infra.causes import Scene
from infra.prometheus import prometheus
from infra.when_things_die import NAME, Stage, expect, say

ROOT = Path(__file__).parents[1]
DISK = "1400m"  # size of the home's, of which 1 GB has to be free
PATIENCE = 150.0  # seconds for an alert to sound, and to be silent again


@dataclass(frozen=True)
class Cause:
    """What is planted, in words, and the alerts that have to sound for it."""

    words: str
    plant: Callable[[Scene], AbstractContextManager[None]]
    alerts: tuple[str, ...]


CAUSES = (
    Cause(
        "nothing is released yet, and predictions are asked; until the first release",
        causes.unreleased,
        ("RelearnHighErrorRate", "RelearnNoModelServed"),
    ),
    Cause(
        "a version is live and retraining is planned, but nobody looks and nothing is trained",
        causes.left_alone,
        ("RelearnMonitorStale", "RelearnRetrainingStale"),
    ),
    Cause("256 clients ask at once, each again and again", causes.crowded, ("RelearnOverload",)),
    Cause("the workers are held up for 0.7 s, time after time", causes.held_up, ("RelearnHighLatency",)),
    Cause("the API's processes are stopped (SIGSTOP)", causes.stopped, ("RelearnApiDown",)),
    Cause("the API is taken out of prometheus.yml", causes.unwatched, ("RelearnApiTargetMissing",)),
    Cause(
        "digits that lean are asked and corrected, and the monitor looks; until upright ones come again",
        causes.other_writers,
        ("RelearnDataDrift", "RelearnLiveAccuracyLow"),
    ),
    Cause(
        "the runner, which starts the monitor too, is stopped (SIGSTOP)",
        causes.no_runner,
        ("RelearnWorkerDown", "RelearnMonitorStale"),
    ),
    Cause(
        "the data of a retraining is not there; until one ends well",
        causes.no_data,
        ("RelearnRetrainingFailed",),
    ),
    Cause("the work pool is paused while a retraining is due", causes.paused, ("RelearnRetrainingLate",)),
    Cause(
        "a bit of the live version is flipped on the disk, and a worker is killed: the next cannot load it",
        causes.damaged,
        ("RelearnModelLoadFailed", "RelearnWorkersMissing"),
    ),
    Cause("others leave 900 MB on the home's disk", causes.little_room, ("RelearnDiskSpaceLow",)),
    Cause(
        "the home's disk is full, and predictions are asked", causes.no_room, ("RelearnPredictionLogDropped",)
    ),
)
DISKS = (causes.little_room, causes.no_room)


def main() -> None:
    with scene() as (there, small):
        wanted = [one for one in CAUSES if small or one.plant not in DISKS]
        rows = [row for cause in wanted for row in heard(there, cause)]
        left = {*there.watch.rules} - {row["alert"].strip("`") for row in rows}
    if left:
        say(f"not root, who alone can make a disk to fill: {', '.join(sorted(left))} not tried")
    expect([], [row for row in rows if "never" in row.values()])
    if not left:
        write(rows)


def heard(scene: Scene, cause: Cause) -> list[dict[str, str]]:
    """A row for each alert: after how many seconds it sounded, and was silent after its cause was ended."""
    expect(set(), scene.watch.firing() & {*cause.alerts})
    say(cause.words)
    began = time.time()
    with cause.plant(scene):
        fired = seen(scene, cause.alerts, sound=True)
        ended = time.time()
    silent = seen(scene, cause.alerts, sound=False)
    rows = [
        {
            "alert": f"`{alert}`",
            "planted cause": cause.words,
            "fired after": f"{fired[alert] - began:.0f} s" if alert in fired else "never",
            "went silent again after": f"{silent[alert] - ended:.0f} s" if alert in silent else "never",
        }
        for alert in cause.alerts
    ]
    for row in rows:
        say(f"  {row['alert']} fired after {row['fired after']}, silent {row['went silent again after']}")
    return rows


def seen(scene: Scene, alerts: tuple[str, ...], sound: bool) -> dict[str, float]:
    """When each of them was first seen to sound, or not to; without those that did not within `PATIENCE`."""
    at: dict[str, float] = {}
    others: set[str] = set()
    deadline = time.time() + PATIENCE
    while len(at) < len(alerts) and time.time() < deadline:
        firing = scene.watch.firing()
        others |= firing - {*alerts}
        for alert in alerts:
            if (alert in firing) == sound:
                at.setdefault(alert, time.time())
        time.sleep(0.2)
    if others:
        say(f"  beside: {', '.join(sorted(others))}")
    return at


@contextmanager
def scene() -> Iterator[tuple[Scene, bool]]:
    """Everything up with two workers that ask for a key, and watched; whether its disk is a small one."""
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key").write_text(key)
        words = ("--model-name", NAME, "--workers", "2", "--api-keys-file", str(folder / "key"))
        client = httpx.Client(trust_env=False, timeout=10, headers={"x-api-key": key})
        with disk(folder / ".relearn") as small, everything_up(folder, *words) as alive, client:
            target = f"127.0.0.1:{alive.ports['api']}"
            with prometheus(folder / "prometheus", target, key) as watch:
                stage = Stage(alive)
                stage.data(1_797)
                yield Scene(stage, watch, client), small


@contextmanager
def disk(place: Path) -> Iterator[bool]:
    """A small one, mounted in its place; False where only root may."""
    place.mkdir()
    if os.geteuid():
        yield False
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "relearn", str(place)], check=True)
    try:
        yield True
    finally:
        subprocess.run(["umount", str(place)], check=True)


def write(rows: list[dict[str, str]]) -> None:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (ROOT / "docs" / "when-alerts-sound.md").write_text(f"{HEAD.format(today=date.today())}\n{table}\n")


HEAD = """# When alerts sound

Every alert of infra/monitoring/alerts.yml, heard once in a real Prometheus, for a cause that was planted in a
real service. Written by `python -m infra.when_alerts_sound`, last on {today}, on two cores, with two workers.

So that nobody waits for days, durations are shorter than the repository's, by one table in
infra/prometheus.py: what takes minutes takes seconds, what takes hours a minute, and Prometheus looks every
2 seconds. Nothing else is changed. Seconds are counted from the first step of planting a cause, and of taking
it away.
"""

if __name__ == "__main__":
    main()
