"""Causes of alarm, planted in a service that runs: each goes on for the length of a `with` block."""

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

from infra.alive import wait_for
from infra.demo import ask, leaning, version
from infra.prometheus import Prometheus
from infra.when_things_die import NAME, Stage, closed, expect, part_of, say
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home

POST = Path(__file__).parents[1] / "benchmarks" / "post.lua"
ASKED = 400  # images, where it matters which


@dataclass(frozen=True)
class Scene:
    """Everything up for one name, who watches it, and a client that may ask."""

    stage: Stage
    watch: Prometheus
    client: httpx.Client

    @property
    def api(self) -> str:
        return self.stage.alive.url("api")

    @property
    def root(self) -> Path:
        return self.stage.home / ".relearn"

    def settings(self) -> tuple[str, ...]:
        return "--dataset", f"npz:{self.stage.home / f'{NAME}.npz'}", "--networks", "mlp", "--epochs", "15"

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """What can be asked, and what it shows."""
        config = TrainConfig(dataset=f"npz:{self.stage.home / f'{NAME}.npz'}")
        learned = load_dataset(config, Home(self.root, self.root / "data")).train
        return learned.images[:ASKED], learned.labels[:ASKED]

    def look(self, *words: str) -> None:
        say(self.stage.alive.relearn("monitor", *words).splitlines()[-2])

    def retrain(self, ends: str) -> None:
        """One through the queue, which ends in a state of this name."""
        expect(ends, closed(self.stage, self.order())["type"])

    def order(self) -> str:
        """A retraining that is due now; returns the id of its flow run."""
        client = httpx.Client(base_url=f"{self.stage.alive.url('flows')}/api", timeout=10)
        deployment = client.get(f"/deployments/name/retrain/{NAME}").raise_for_status().json()["id"]
        return str(client.post(f"/deployments/{deployment}/create_flow_run", json={}).json()["id"])

    def idle(self) -> bool:
        under_way = {"type": {"any_": ["RUNNING", "PENDING"]}}
        return not self.stage.prefect("flow_runs", flow_runs={"state": under_way})

    def processes(self) -> list[psutil.Process]:
        """Those of the API, the server before its workers."""
        head = part_of(self.stage, "api")
        return [head, *head.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        return [one for one in self.processes() if "_bentoml_impl.worker.service" in " ".join(one.cmdline())]


@contextmanager
def asked(scene: Scene, connections: int) -> Iterator[None]:
    """Somebody asks over so many connections, again as soon as there is an answer; it is not recorded."""
    body = scene.stage.home / "image"
    body.write_bytes(bytes(32 * 32))
    key = {"API_KEY": scene.client.headers["x-api-key"]}
    options = ["-t", "1", "-c", str(connections), "-d", "600s", "--timeout", "30s"]
    words = [f"{scene.api}/predict?log=false", "--", "application/octet-stream", "0", str(body)]
    load = subprocess.Popen(
        ["wrk", *options, "-s", str(POST), *words], env=os.environ | key, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        load.kill()
        load.wait()


@contextmanager
def unreleased(scene: Scene) -> Iterator[None]:
    with asked(scene, 1):
        yield
    scene.stage.alive.relearn("run", *scene.settings())


@contextmanager
def left_alone(scene: Scene) -> Iterator[None]:
    scene.stage.schedule(epochs=15, cron="0 0 1 1 *")
    yield
    scene.look()
    scene.retrain("COMPLETED")


@contextmanager
def crowded(scene: Scene) -> Iterator[None]:
    with asked(scene, 256):
        yield


@contextmanager
def held_up(scene: Scene) -> Iterator[None]:
    """The workers get hardly any time, as where others have taken the machine."""
    workers, over = scene.workers(), threading.Event()

    def hold() -> None:
        while not over.is_set():
            each(workers, psutil.Process.suspend)
            time.sleep(0.7)
            each(workers, psutil.Process.resume)
            time.sleep(0.02)

    holding = threading.Thread(target=hold)
    with asked(scene, 16):
        holding.start()
        try:
            yield
        finally:
            over.set()
            holding.join()


@contextmanager
def stopped(scene: Scene) -> Iterator[None]:
    processes = scene.processes()
    each(processes, psutil.Process.suspend)
    try:
        yield
    finally:
        each(processes, psutil.Process.resume)


@contextmanager
def unwatched(scene: Scene) -> Iterator[None]:
    scene.watch.watch()
    yield
    scene.watch.watch(scene.watch.target)


@contextmanager
def other_writers(scene: Scene) -> Iterator[None]:
    """Digits that lean are asked, and corrected; then upright ones as before."""
    images, labels = scene.images()
    share, requests = ask(scene.client, scene.api, leaning(images), labels)
    say(f"{share:.1%} right")
    for request, label in zip(requests, labels, strict=True):
        told = {"request_id": request, "label": str(label)}
        scene.client.post(f"{scene.api}/feedback", json=told).raise_for_status()
    scene.look()
    yield
    wait_for(scene.idle, "the retraining that was asked for")
    began = time.time()
    ask(scene.client, scene.api, images, labels)
    scene.look("--window-hours", str((time.time() - began + 10) / 3600))  # it takes seconds to start


@contextmanager
def no_runner(scene: Scene) -> Iterator[None]:
    runner = part_of(scene.stage, "worker")
    runner.suspend()
    try:
        yield
    finally:
        runner.resume()
    scene.look("--window-hours", "0.001")


@contextmanager
def no_data(scene: Scene) -> Iterator[None]:
    data = scene.stage.home / f"{NAME}.npz"
    away = data.rename(data.with_suffix(".away"))
    scene.retrain("FAILED")
    yield
    away.rename(data)
    scene.retrain("COMPLETED")


@contextmanager
def paused(scene: Scene) -> Iterator[None]:
    pool = f"{scene.stage.alive.url('flows')}/api/work_pools/relearn"
    httpx.patch(pool, json={"is_paused": True}, timeout=10).raise_for_status()
    run = scene.order()
    yield
    httpx.patch(pool, json={"is_paused": False}, timeout=10).raise_for_status()
    closed(scene.stage, run)


@contextmanager
def damaged(scene: Scene) -> Iterator[None]:
    """A bit of what is live is flipped on the disk, and a worker dies: the next one cannot take it."""
    live = version(scene.client, scene.api) or ""
    weights = Home(scene.root, scene.root).releases_dir(NAME) / live / "weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    scene.workers()[0].kill()
    yield
    weights.write_bytes(sound)


@contextmanager
def little_room(scene: Scene) -> Iterator[None]:
    with filled(scene, free=900_000_000):
        yield


@contextmanager
def no_room(scene: Scene) -> Iterator[None]:
    images, labels = scene.images()
    with filled(scene, free=2**20) as others:
        with suppress(OSError):
            while others.write(bytes(4096)):
                pass
        ask(scene.client, scene.api, images, labels)
        yield


@contextmanager
def filled(scene: Scene, free: int) -> Iterator[RawIOBase]:
    """A file on the disk of the home that leaves only so many bytes free, open at its end."""
    disk, path = os.statvfs(scene.root), scene.root / "of others"
    with path.open("wb", buffering=0) as others:
        os.posix_fallocate(others.fileno(), 0, disk.f_bavail * disk.f_frsize - free)
        others.seek(0, os.SEEK_END)
        try:
            yield others
        finally:
            path.unlink()


def each(processes: list[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        act(process)
