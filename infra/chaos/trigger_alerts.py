"""Test of every alert: injects a fault into a real service and waits for a real Prometheus to fire it.

`python -m infra.chaos.trigger_alerts` takes a quarter of an hour and needs prometheus and wrk. Only root can
mount the small disk that it fills. It prints and checks what happens, and writes docs/reliability/alerts.md.
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

from infra.chaos import alert_faults
from infra.chaos.alert_faults import Environment
from infra.chaos.kill_processes import MODEL_NAME, Stack, expect, print_time, to_markdown
from infra.chaos.prometheus import run_prometheus
from infra.chaos.temporary_stack import run_temporary_stack

ROOT = Path(__file__).parents[2]
DISK_SIZE = "1400m"  # of the home's disk; the alert comes below 1 GB free
ALERT_TIMEOUT = 150.0  # seconds until an alert fires, and until it is resolved


@dataclass(frozen=True)
class Fault:
    """An injected fault with its description and the alerts that must fire."""

    description: str
    inject: Callable[[Environment], AbstractContextManager[None]]
    alerts: tuple[str, ...]


FAULTS = (
    Fault(
        "predictions are requested before the first release",
        alert_faults.no_release,
        ("RelearnHighErrorRate", "RelearnNoModelServed"),
    ),
    Fault(
        "a version is live and retraining is scheduled, but neither monitor nor retraining runs",
        alert_faults.idle,
        ("RelearnMonitorStale", "RelearnRetrainingStale"),
    ),
    Fault("256 clients send requests in a closed loop", alert_faults.overload, ("RelearnOverload",)),
    Fault(
        "the workers are suspended for 0.7 s again and again",
        alert_faults.slow_workers,
        ("RelearnHighLatency",),
    ),
    Fault("the API's processes are suspended (SIGSTOP)", alert_faults.suspended_api, ("RelearnApiDown",)),
    Fault("the API is removed from prometheus.yml", alert_faults.no_scrape, ("RelearnApiTargetMissing",)),
    Fault(
        "rotated digits are predicted and labeled, and the monitor runs; until upright digits return",
        alert_faults.drifted_traffic,
        ("RelearnDataDrift", "RelearnLiveAccuracyLow"),
    ),
    Fault(
        "the worker, which also starts the monitor, is suspended (SIGSTOP)",
        alert_faults.suspended_worker,
        ("RelearnWorkerDown", "RelearnMonitorStale"),
    ),
    Fault(
        "the data of a retraining is missing; until a retraining succeeds",
        alert_faults.missing_data,
        ("RelearnRetrainingFailed",),
    ),
    Fault(
        "the work pool is paused while a retraining is due",
        alert_faults.paused_work_pool,
        ("RelearnRetrainingLate",),
    ),
    Fault(
        "a bit of the live version is flipped on the disk and a worker is killed: the next fails to load it",
        alert_faults.damaged_release,
        ("RelearnModelLoadFailed", "RelearnWorkersMissing"),
    ),
    Fault("900 MB are free on the home's disk", alert_faults.low_disk, ("RelearnDiskSpaceLow",)),
    Fault(
        "the home's disk is full, and predictions are requested",
        alert_faults.full_disk,
        ("RelearnPredictionLogDropped",),
    ),
)
DISK_FAULTS = (alert_faults.low_disk, alert_faults.full_disk)


def main() -> None:
    """Inject each fault; write the table if all alerts were tested."""
    with run_environment() as (environment, is_small_disk):
        faults = [fault for fault in FAULTS if is_small_disk or fault.inject not in DISK_FAULTS]
        rows = [row for fault in faults for row in run_fault(environment, fault)]
        untested = {*environment.prometheus.rules} - {row["alert"].strip("`") for row in rows}
    if untested:
        print_time(f"not tested, only root can mount a small disk: {', '.join(sorted(untested))}")
    expect([], [row for row in rows if "never" in row.values()])
    if not untested:
        write_report(rows)


def run_fault(environment: Environment, fault: Fault) -> list[dict[str, str]]:
    """Inject one fault; return a row for each alert with the seconds until it fired and was resolved."""
    expect(set(), environment.prometheus.list_firing() & {*fault.alerts})
    print_time(fault.description)
    start_time = time.time()
    with fault.inject(environment):
        fired = wait_for_alerts(environment, fault.alerts, firing=True)
        end_time = time.time()
    resolved = wait_for_alerts(environment, fault.alerts, firing=False)
    rows = [
        {
            "alert": f"`{alert}`",
            "injected fault": fault.description,
            "fired after": f"{fired[alert] - start_time:.0f} s" if alert in fired else "never",
            "resolved after": f"{resolved[alert] - end_time:.0f} s" if alert in resolved else "never",
        }
        for alert in fault.alerts
    ]
    for row in rows:
        print_time(f"  {row['alert']} fired after {row['fired after']}, resolved {row['resolved after']}")
    return rows


def wait_for_alerts(environment: Environment, alerts: tuple[str, ...], firing: bool) -> dict[str, float]:
    """Wait until all alerts are firing or resolved; return the times, without those after `ALERT_TIMEOUT`."""
    times: dict[str, float] = {}
    other_alerts: set[str] = set()
    deadline = time.time() + ALERT_TIMEOUT
    while len(times) < len(alerts) and time.time() < deadline:
        firing_alerts = environment.prometheus.list_firing()
        other_alerts |= firing_alerts - {*alerts}
        for alert in alerts:
            if (alert in firing_alerts) == firing:
                times.setdefault(alert, time.time())
        time.sleep(0.2)
    if other_alerts:
        print_time(f"  other alerts: {', '.join(sorted(other_alerts))}")
    return times


@contextmanager
def run_environment() -> Iterator[tuple[Environment, bool]]:
    """Run two API workers with an API key and all other services; also yield whether the disk is small."""
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key").write_text(key)
        flags = ("--model-name", MODEL_NAME, "--workers", "2", "--api-keys-file", str(folder / "key"))
        client = httpx.Client(trust_env=False, timeout=10, headers={"x-api-key": key})
        with (
            mount_small_disk(folder / ".relearn") as is_small_disk,
            run_temporary_stack(folder, *flags) as local,
            client,
        ):
            target = f"127.0.0.1:{local.ports['api']}"
            with run_prometheus(folder / "prometheus", target, key) as prometheus:
                stack = Stack(local)
                stack.write_data(1_797)
                yield Environment(stack, prometheus, client), is_small_disk


@contextmanager
def mount_small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at `folder` and yield True; yield False without root rights."""
    folder.mkdir()
    if os.geteuid():
        yield False
        return
    options = f"size={DISK_SIZE},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "relearn", str(folder)], check=True)
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_report(rows: list[dict[str, str]]) -> None:
    """Write docs/reliability/alerts.md, one row for each alert."""
    page = f"{HEAD.format(today=date.today())}\n{to_markdown(rows)}\n"
    (ROOT / "docs" / "reliability" / "alerts.md").write_text(page)


HEAD = """# When alerts fire

Every alert of infra/monitoring/alerts.yml, fired once in a real Prometheus by a fault injected into a real
service. Written by `python -m infra.chaos.trigger_alerts`, last on {today}, on two cores, with two workers.

Durations are shortened by one table in infra/chaos/prometheus.py: minutes become seconds, hours become a
minute, and the scrape interval is 2 seconds. Nothing else is changed. Times count from the start of the
injection and from its end.
"""

if __name__ == "__main__":
    main()
