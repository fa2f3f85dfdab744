"""Causes of alerts: context managers that inject a fault into a running service, and repair it on exit."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import httpx
import numpy as np
import psutil

from infra.chaos.kill_processes import MODEL_NAME, Stack, expect, find_service, print_timestamped, wait_final
from infra.chaos.prometheus import Prometheus
from infra.chaos.temporary_stack import wait_for
from infra.demo import get_version, predict, rotate
from relearn.flows.feedback.samples import record_label
from relearn.model.config import TrainConfig
from relearn.model.data.builtin import DIGIT_CLASSES
from relearn.model.data.load import load_dataset
from relearn.model.home import Home

WRK_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "post.lua"
IMAGE_COUNT = 400  # predicted images, where their content matters


@dataclass(frozen=True)
class AlertTestBed:
    """A running stack, the Prometheus that scrapes it, and a client with an API key."""

    stack: Stack
    prometheus: Prometheus
    client: httpx.Client

    @property
    def api(self) -> str:
        """Base URL of the API."""
        return self.stack.local.url("api")

    @property
    def home(self) -> Path:
        """Relearn's home."""
        return self.stack.home / ".relearn"

    def training_flags(self) -> tuple[str, ...]:
        """Return the command-line flags of each training: data, network, epochs."""
        data = f"npz:{self.stack.home / f'{MODEL_NAME}.npz'}"
        return "--dataset", data, "--network", "mlp", "--epochs", "15"

    def load_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `IMAGE_COUNT` training images with their labels."""
        config = TrainConfig(dataset=f"npz:{self.stack.home / f'{MODEL_NAME}.npz'}")
        train = load_dataset(config, Home(self.home, self.home / "data")).train
        return train.images[:IMAGE_COUNT], train.labels[:IMAGE_COUNT]

    def run_monitor(self, *flags: str) -> None:
        """Run the monitor and print its summary."""
        print_timestamped(self.stack.local.relearn("monitor", *flags).splitlines()[-2])

    def retrain(self, expected_state: str) -> None:
        """Retrain through the Prefect deployment; check that the run ends in `expected_state`."""
        expect(expected_state, wait_final(self.stack, self.queue_retraining())["type"])

    def queue_retraining(self) -> str:
        """Start a retraining through its Prefect deployment; return the id of its flow run."""
        client = httpx.Client(base_url=f"{self.stack.local.url('prefect')}/api", timeout=10)
        deployment = client.get(f"/deployments/name/retrain/{MODEL_NAME}").raise_for_status().json()["id"]
        return str(client.post(f"/deployments/{deployment}/create_flow_run", json={}).json()["id"])

    def is_idle(self) -> bool:
        """Check that no flow run is running or pending."""
        active = {"type": {"any_": ["RUNNING", "PENDING"]}}
        return not self.stack.query_prefect("flow_runs", flow_runs={"state": active})

    def list_processes(self) -> list[psutil.Process]:
        """Return the processes of the API, the server before its workers."""
        server = find_service(self.stack, "api")
        return [server, *server.children(recursive=True)]

    def list_workers(self) -> list[psutil.Process]:
        """Return the worker processes of the API."""
        return [
            process
            for process in self.list_processes()
            if "_bentoml_impl.worker.service" in " ".join(process.cmdline())
        ]


@contextmanager
def send_load(test_bed: AlertTestBed, connections: int) -> Iterator[None]:
    """Send requests in a closed loop over `connections`, without logging the predictions."""
    body = test_bed.stack.home / "image"
    body.write_bytes(bytes(32 * 32))
    key = {"API_KEY": test_bed.client.headers["x-api-key"]}
    options = ["-t", "1", "-c", str(connections), "-d", "600s", "--timeout", "30s"]
    target = [f"{test_bed.api}/predict?log=false", "--", "application/octet-stream", "0", str(body)]
    wrk = subprocess.Popen(
        ["wrk", *options, "-s", str(WRK_SCRIPT), *target], env=os.environ | key, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        wrk.kill()
        wrk.wait()


@contextmanager
def no_release(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: send requests before the first release. On exit: release."""
    with send_load(test_bed, 1):
        yield
    test_bed.stack.local.relearn("run", *test_bed.training_flags())


@contextmanager
def idle(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: schedule retraining once a year, so that monitor and retraining are idle. On exit: run both."""
    test_bed.stack.schedule(epochs=15, cron="0 0 1 1 *")
    yield
    test_bed.run_monitor()
    test_bed.retrain("COMPLETED")


@contextmanager
def overload(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: send requests over 256 connections."""
    with send_load(test_bed, 256):
        yield


@contextmanager
def slow_workers(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: suspend the workers for 0.7 s again and again, like a busy machine."""
    workers, stop_event = test_bed.list_workers(), threading.Event()

    def suspend_repeatedly() -> None:
        while not stop_event.is_set():
            apply_to_all(workers, psutil.Process.suspend)
            time.sleep(0.7)
            apply_to_all(workers, psutil.Process.resume)
            time.sleep(0.02)

    thread = threading.Thread(target=suspend_repeatedly)
    with send_load(test_bed, 16):
        thread.start()
        try:
            yield
        finally:
            stop_event.set()
            thread.join()


@contextmanager
def suspended_api(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: suspend all processes of the API. On exit: resume them."""
    processes = test_bed.list_processes()
    apply_to_all(processes, psutil.Process.suspend)
    try:
        yield
    finally:
        apply_to_all(processes, psutil.Process.resume)


@contextmanager
def no_scrape(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: remove the API from Prometheus' config. On exit: restore it."""
    test_bed.prometheus.set_targets()
    yield
    test_bed.prometheus.set_targets(test_bed.prometheus.target)


@contextmanager
def drifted_traffic(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: request predictions of rotated digits, and label them blind. On exit: upright digits again."""
    images, labels = test_bed.load_images()
    accuracy, request_ids = predict(test_bed.client, test_bed.api, rotate(images), labels)
    print_timestamped(f"accuracy {accuracy:.1%}")
    for request_id, label in zip(request_ids, labels, strict=True):
        home = Home(test_bed.home, test_bed.home)
        record_label(home, MODEL_NAME, (request_id, 0), str(label), DIGIT_CLASSES)
    test_bed.run_monitor()
    yield
    wait_for(test_bed.is_idle, "the end of the requested retraining")
    start_time = time.time()
    predict(test_bed.client, test_bed.api, images, labels)
    window_hours = (time.time() - start_time + 10) / 3600  # the monitor takes seconds to start
    test_bed.run_monitor("--window-hours", str(window_hours))


@contextmanager
def suspended_worker(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: suspend the worker that runs flows. On exit: resume it."""
    worker = find_service(test_bed.stack, "worker")
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()
    test_bed.run_monitor("--window-hours", "0.001")


@contextmanager
def missing_data(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: retrain without the data file. On exit: restore it and retrain."""
    data = test_bed.stack.home / f"{MODEL_NAME}.npz"
    moved_data = data.rename(data.with_suffix(".away"))
    test_bed.retrain("FAILED")
    yield
    moved_data.rename(data)
    test_bed.retrain("COMPLETED")


@contextmanager
def paused_work_pool(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: pause the work pool while a retraining is due. On exit: resume it."""
    pool = f"{test_bed.stack.local.url('prefect')}/api/work_pools/relearn"
    httpx.patch(pool, json={"is_paused": True}, timeout=10).raise_for_status()
    run_id = test_bed.queue_retraining()
    yield
    httpx.patch(pool, json={"is_paused": False}, timeout=10).raise_for_status()
    wait_final(test_bed.stack, run_id)


@contextmanager
def damaged_release(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: flip a bit of the live weights and kill a worker, whose successor cannot load them."""
    version = get_version(test_bed.client, test_bed.api) or ""
    releases = Home(test_bed.home, test_bed.home).releases_dir(MODEL_NAME)
    weights = releases / version / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    test_bed.list_workers()[0].kill()
    yield
    weights.write_bytes(content)


@contextmanager
def low_disk(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: leave 900 MB free on the disk of the home."""
    with fill_disk(test_bed, free_bytes=900_000_000):
        yield


@contextmanager
def full_disk(test_bed: AlertTestBed) -> Iterator[None]:
    """Inject: fill the disk of the home and request predictions."""
    images, labels = test_bed.load_images()
    with fill_disk(test_bed, free_bytes=2**20) as filler:
        with suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        predict(test_bed.client, test_bed.api, images, labels)
        yield


@contextmanager
def fill_disk(test_bed: AlertTestBed, free_bytes: int) -> Iterator[RawIOBase]:
    """Create a file that leaves `free_bytes` on the disk of the home; yield it, open at its end."""
    disk, path = os.statvfs(test_bed.home), test_bed.home / "filler"
    with path.open("wb", buffering=0) as filler:
        os.posix_fallocate(filler.fileno(), 0, disk.f_bavail * disk.f_frsize - free_bytes)
        filler.seek(0, os.SEEK_END)
        try:
            yield filler
        finally:
            path.unlink()


def apply_to_all(processes: list[psutil.Process], action: Callable[[psutil.Process], None]) -> None:
    """Call `action` with each process."""
    for process in processes:
        action(process)
