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

from infra.chaos.kill_processes import MODEL_NAME, Stack, expect, find_service, print_time, wait_final
from infra.chaos.prometheus import Prometheus
from infra.chaos.temporary_stack import wait_for
from infra.demo import get_version, predict, rotate
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home

WRK_SCRIPT = Path(__file__).parents[2] / "benchmarks" / "post.lua"
IMAGE_COUNT = 400  # predicted images, where their content matters


@dataclass(frozen=True)
class Environment:
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
        """Return the flags of a training."""
        data = f"npz:{self.stack.home / f'{MODEL_NAME}.npz'}"
        return "--dataset", data, "--networks", "mlp", "--epochs", "15"

    def load_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `IMAGE_COUNT` training images with their labels."""
        config = TrainConfig(dataset=f"npz:{self.stack.home / f'{MODEL_NAME}.npz'}")
        train = load_dataset(config, Home(self.home, self.home / "data")).train
        return train.images[:IMAGE_COUNT], train.labels[:IMAGE_COUNT]

    def run_monitor(self, *flags: str) -> None:
        """Run the monitor and print its summary."""
        print_time(self.stack.local.relearn("monitor", *flags).splitlines()[-2])

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
def send_load(environment: Environment, connections: int) -> Iterator[None]:
    """Send requests in a closed loop over `connections`, without logging the predictions."""
    body = environment.stack.home / "image"
    body.write_bytes(bytes(32 * 32))
    key = {"API_KEY": environment.client.headers["x-api-key"]}
    options = ["-t", "1", "-c", str(connections), "-d", "600s", "--timeout", "30s"]
    target = [f"{environment.api}/predict?log=false", "--", "application/octet-stream", "0", str(body)]
    wrk = subprocess.Popen(
        ["wrk", *options, "-s", str(WRK_SCRIPT), *target], env=os.environ | key, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        wrk.kill()
        wrk.wait()


@contextmanager
def no_release(environment: Environment) -> Iterator[None]:
    """Inject: send requests before the first release. On exit: release."""
    with send_load(environment, 1):
        yield
    environment.stack.local.relearn("run", *environment.training_flags())


@contextmanager
def idle(environment: Environment) -> Iterator[None]:
    """Inject: schedule retraining once a year, so that monitor and retraining are idle. On exit: run both."""
    environment.stack.schedule(epochs=15, cron="0 0 1 1 *")
    yield
    environment.run_monitor()
    environment.retrain("COMPLETED")


@contextmanager
def overload(environment: Environment) -> Iterator[None]:
    """Inject: send requests over 256 connections."""
    with send_load(environment, 256):
        yield


@contextmanager
def slow_workers(environment: Environment) -> Iterator[None]:
    """Inject: suspend the workers for 0.7 s again and again, like a busy machine."""
    workers, stop_event = environment.list_workers(), threading.Event()

    def suspend_repeatedly() -> None:
        while not stop_event.is_set():
            apply_to_all(workers, psutil.Process.suspend)
            time.sleep(0.7)
            apply_to_all(workers, psutil.Process.resume)
            time.sleep(0.02)

    thread = threading.Thread(target=suspend_repeatedly)
    with send_load(environment, 16):
        thread.start()
        try:
            yield
        finally:
            stop_event.set()
            thread.join()


@contextmanager
def suspended_api(environment: Environment) -> Iterator[None]:
    """Inject: suspend all processes of the API. On exit: resume them."""
    processes = environment.list_processes()
    apply_to_all(processes, psutil.Process.suspend)
    try:
        yield
    finally:
        apply_to_all(processes, psutil.Process.resume)


@contextmanager
def no_scrape(environment: Environment) -> Iterator[None]:
    """Inject: remove the API from Prometheus' config. On exit: restore it."""
    environment.prometheus.set_targets()
    yield
    environment.prometheus.set_targets(environment.prometheus.target)


@contextmanager
def drifted_traffic(environment: Environment) -> Iterator[None]:
    """Inject: request predictions of rotated digits, and send their labels. On exit: upright digits again."""
    images, labels = environment.load_images()
    accuracy, request_ids = predict(environment.client, environment.api, rotate(images), labels)
    print_time(f"accuracy {accuracy:.1%}")
    for request_id, label in zip(request_ids, labels, strict=True):
        feedback = {"request_id": request_id, "label": str(label)}
        environment.client.post(f"{environment.api}/feedback", json=feedback).raise_for_status()
    environment.run_monitor()
    yield
    wait_for(environment.is_idle, "the end of the requested retraining")
    start_time = time.time()
    predict(environment.client, environment.api, images, labels)
    window_hours = (time.time() - start_time + 10) / 3600  # the monitor takes seconds to start
    environment.run_monitor("--window-hours", str(window_hours))


@contextmanager
def suspended_worker(environment: Environment) -> Iterator[None]:
    """Inject: suspend the worker that runs flows. On exit: resume it."""
    worker = find_service(environment.stack, "worker")
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()
    environment.run_monitor("--window-hours", "0.001")


@contextmanager
def missing_data(environment: Environment) -> Iterator[None]:
    """Inject: retrain without the data file. On exit: restore it and retrain."""
    data = environment.stack.home / f"{MODEL_NAME}.npz"
    moved_data = data.rename(data.with_suffix(".away"))
    environment.retrain("FAILED")
    yield
    moved_data.rename(data)
    environment.retrain("COMPLETED")


@contextmanager
def paused_work_pool(environment: Environment) -> Iterator[None]:
    """Pause the work pool while a retraining is due."""
    pool = f"{environment.stack.local.url('prefect')}/api/work_pools/relearn"
    httpx.patch(pool, json={"is_paused": True}, timeout=10).raise_for_status()
    run_id = environment.queue_retraining()
    yield
    httpx.patch(pool, json={"is_paused": False}, timeout=10).raise_for_status()
    wait_final(environment.stack, run_id)


@contextmanager
def damaged_release(environment: Environment) -> Iterator[None]:
    """Flip a bit of the live weights and kill a worker: its successor cannot load them."""
    version = get_version(environment.client, environment.api) or ""
    releases = Home(environment.home, environment.home).releases_dir(MODEL_NAME)
    weights = releases / version / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    environment.list_workers()[0].kill()
    yield
    weights.write_bytes(content)


@contextmanager
def low_disk(environment: Environment) -> Iterator[None]:
    """Leave 900 MB free on the disk of the home."""
    with fill_disk(environment, free_bytes=900_000_000):
        yield


@contextmanager
def full_disk(environment: Environment) -> Iterator[None]:
    """Fill the disk of the home and request predictions."""
    images, labels = environment.load_images()
    with fill_disk(environment, free_bytes=2**20) as filler:
        with suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        predict(environment.client, environment.api, images, labels)
        yield


@contextmanager
def fill_disk(environment: Environment, free_bytes: int) -> Iterator[RawIOBase]:
    """Create a file that leaves `free_bytes` on the disk of the home; yield it, open at its end."""
    disk, path = os.statvfs(environment.home), environment.home / "filler"
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
